"""Utility: whether a classifier of real images becomes better by synthetic ones, over the number of real labels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor

from vlgen.evaluate import small_cnn
from vlgen.evaluate.collection import Collection, Progress
from vlgen.evaluate.problem import Problem, problem_of
from vlgen.evaluate.scores import Curve, Row, Section
from vlgen.metrics.split import budget, grouped_split
from vlgen.metrics.utility import (
    at_frequencies,
    balanced_accuracy,
    expected_calibration_error,
    linear_probe,
    macro_auroc,
    mean_interval,
)
from vlgen.tensors import counter

NAME, QUESTION = "utility", "How useful are the images for training a classifier?"
BUDGETS = (25, 50, 100, 200, 500)
SHARE = 1 / 3  # of the patients, to test on
NETWORK = "small CNN"
SYNTHETIC = ("synthetic", "")

# features, labels and groups to learn from; features to tell; seed -> probabilities, the classes at equal weight
Learner = Callable[[Tensor, Tensor, Sequence[Hashable], Tensor, int], Tensor]
Arm = tuple[str, str]  # ("real" or "both", "25" or "all"), or SYNTHETIC
Figures = dict[tuple[str, Arm], list[dict[str, float]]]  # learner, arm -> of each seed, metric -> value


def utility(
    real: Collection,
    synthetic: Collection,
    *,
    features: str,
    label: str | None = None,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 5,
    seed: int = 0,
    size: int = 64,
    progress: Progress = lambda what, done, total: None,
) -> Section:
    """AUROC, balanced accuracy and calibration of classifiers that learned from real images, synthetic ones, or both.

    They are tested on real images of patients that nothing was learned from, a third of them, drawn anew for each
    seed. Two classifiers: a linear probe on features, and a small network from pixels.

    features  the extractor whose features the probe sees
    label     a finding, "class", another trait, or "modality"; None takes the finding or class with the most labeled
              images (by its rarest answer, in the set with fewer), and a trait or the modality where there is none
    budgets   numbers of labeled real images; besides them, all that are not tested
    seeds     repetitions; intervals are Student's t intervals over them
    size      pixels a side that the network sees

    Too few labeled images give a section that says so in numbers; a ValueError where the label was named.
    """
    if missing := [one.folder.name for one in (real, synthetic) if features not in one.features]:
        raise ValueError(f"{missing[0]} has no {features!r} features: gather it with that extractor")
    if seeds < 1 or not all(n > 0 for n in budgets):
        raise ValueError(f"seeds is {seeds} and budgets {tuple(budgets)}: give at least one seed and positive numbers")
    given = len(real), len(synthetic)
    if real.digests:  # a file that is there twice would be learned and tested
        first = {digest: row for row, digest in reversed([*enumerate(real.digests)])}
        real = real.subset(sorted(first.values()))
        synthetic = synthetic.subset([row for row, digest in enumerate(synthetic.digests) if digest not in first])
    copies = given[0] - len(real), given[1] - len(synthetic)
    problem = problem_of(real, synthetic, label)
    if isinstance(problem, str):
        if label is not None:
            raise ValueError(problem)
        return Section(NAME, QUESTION, notes=(problem,))
    own = [counter("utility", seed, repeat) for repeat in range(seeds)]
    splits = [grouped_split(problem.labels[0], problem.patients, share=SHARE, seed=s) for s in own]
    fewest = min(len(learned) for learned, _ in splits)
    used = sorted({n for n in budgets if n < fewest})
    both = list(zip((real, synthetic), problem.rows, strict=True))
    learners: dict[str, tuple[Learner, list[Tensor]]] = {
        features: (_probe, [one.features[features][rows] for one, rows in both]),
        NETWORK: (_network, _pictures(both, size, progress)),
    }
    figures: Figures = {}
    done, total = 0, seeds * len(learners) * (1 + 2 * (len(used) + 1))
    progress("training classifiers", done, total)
    for s, split in zip(own, splits, strict=True):
        for learner, arm, measured in _trials(problem, learners, used, *split, s):
            figures.setdefault((learner, arm), []).append(measured)
            done += 1
            progress("training classifiers", done, total)
    smallest = min(len(tested) for _, tested in splits)
    whole = round(fmean(len(learned) for learned, _ in splits))
    rows = [row for learner in learners for row in _rows(figures, learner, len(problem.classes), smallest)]
    curves = tuple(_curve(figures, learner, [*used, whole]) for learner in learners)
    notes = _notes(problem, seeds, whole, smallest, sorted({*budgets} - {*used}), copies)
    return Section(NAME, QUESTION, tuple(rows), tuple(notes), curves)


def _pictures(both: Sequence[tuple[Collection, list[int]]], size: int, progress: Progress) -> list[Tensor]:
    """The real and the synthetic pictures of the problem, each (N, 1, size, size)."""
    done, total, found = 0, sum(len(rows) for _, rows in both), list[Tensor]()
    for one, rows in both:
        x = torch.empty(len(rows), 1, size, size)
        for place, row in enumerate(rows):
            progress(f"pictures of {size} pixels", done, total)
            x[place] = one.picture(row, size)
            done += 1
        found.append(x)
    progress(f"pictures of {size} pixels", total, total)
    return found


def _trials(
    problem: Problem,
    learners: dict[str, tuple[Learner, list[Tensor]]],
    budgets: Sequence[int],
    learned: Tensor,
    tested: Tensor,
    seed: int,
) -> Iterator[tuple[str, Arm, dict[str, float]]]:
    """Every classifier of one seed: who learned, from what, and how well it tells the tested images."""
    real, synthetic = problem.labels
    inside = [problem.patients[row] for row in learned.tolist()]
    labeled = {str(n): learned[budget(real[learned], inside, n, seed=seed)] for n in budgets} | {"all": learned}
    arms: list[tuple[Arm, Tensor, int]] = [(SYNTHETIC, learned[:0], len(synthetic))]
    for name, rows in labeled.items():
        arms += [(("real", name), rows, 0), (("both", name), rows, len(synthetic))]
    frequencies = torch.bincount(real[learned]).double()
    for arm, rows, added in arms:
        y = torch.cat([real[rows], synthetic[:added]])
        groups = [("real", problem.patients[row]) for row in rows.tolist()] + [("synthetic", n) for n in range(added)]
        for name, (learner, (x, other)) in learners.items():
            p = learner(torch.cat([x[rows], other[:added]]), y, groups, x[tested], seed)
            measured = {
                "AUROC": macro_auroc(p, real[tested]),
                "balanced accuracy": balanced_accuracy(p, real[tested]),
                "expected calibration error": expected_calibration_error(at_frequencies(p, frequencies), real[tested]),
            }
            yield name, arm, measured


def _probe(x: Tensor, y: Tensor, groups: Sequence[Hashable], asked: Tensor, seed: int) -> Tensor:
    return linear_probe(x, y, groups=groups, balanced=True, seed=seed).probabilities(asked)


def _network(x: Tensor, y: Tensor, groups: Sequence[Hashable], asked: Tensor, seed: int) -> Tensor:
    return small_cnn.probabilities(small_cnn.learn(x, y, classes=int(y.max()) + 1, seed=seed), asked)


def _rows(figures: Figures, learner: str, classes: int, n: int) -> Iterator[Row]:
    """The rows of one classifier; what is gained is the mean of the differences within a seed."""
    chance = {"AUROC": 0.5, "balanced accuracy": 1 / classes}
    means = {
        (arm, metric): fmean(each[metric] for each in values)
        for (name, arm), values in figures.items()
        if name == learner
        for metric in values[0]
    }
    for arm, metric in means:
        kind, labels = arm
        values = [each[metric] for each in figures[learner, arm]]
        mean, interval = mean_interval(values)
        if interval:
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        if kind == "real":
            beside, against = chance.get(metric), "chance" if metric in chance else ""
        else:
            beside, against = means[("real", labels or "all"), metric], "real alone" if labels else "all real, alone"
        better = "lower" if "error" in metric else "higher"
        yield Row(metric, mean, n, " ".join(arm).strip(), learner, interval, beside, against, better)
        if kind == "both" and metric == "AUROC":
            alone = [each[metric] for each in figures[learner, ("real", labels)]]
            mean, interval = mean_interval([a - b for a, b in zip(values, alone, strict=True)])
            yield Row("AUROC gained", mean, n, " ".join(arm), learner, interval, 0.0, "real alone", "higher")


def _curve(figures: Figures, learner: str, budgets: Sequence[int]) -> Curve:
    """AUROC over the number of real labels; what learned from synthetic images alone has one value for all."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {"real": [], "both": [], "synthetic": []}
    names = [*map(str, budgets[:-1]), "all"]
    for kind, points in lines.items():
        for n, name in zip(budgets, names, strict=True):
            values = figures[learner, SYNTHETIC if kind == "synthetic" else (kind, name)]
            mean, interval = mean_interval([each["AUROC"] for each in values])
            low, high = interval or (mean, mean)
            points.append((float(n), mean, max(0.0, low), min(1.0, high)))
    return Curve(f"AUROC on held-out real images ({learner})", "labeled real images", "AUROC", lines)


def _notes(
    problem: Problem, seeds: int, whole: int, tested: int, beyond: list[int], copies: tuple[int, int]
) -> Iterator[str]:
    patients = len(set(problem.patients))
    yield (
        f"The task is {problem.name}: {' or '.join(problem.classes)}. Labeled are {len(problem.labels[0])} real images "
        f"of {patients} patients ({problem.counts(0)}) and {len(problem.labels[1])} synthetic ones "
        f"({problem.counts(1)})."
    )
    yield (
        'A budget counts labeled real images: "real N" learned from N of them, "both N" from these and all synthetic '
        f'ones, "synthetic" from synthetic ones alone; "all" are {whole} real images, those of the patients not tested.'
    )
    yield (
        f"Figures are means over {seeds} seeds, each with its own tested patients, labels drawn and network started; "
        "intervals are 95 % Student's t intervals over the seeds, and n is the least number of images tested "
        f"({tested}). The seeds share images, so the interval is not that of another hospital."
    )
    yield (
        "Classes weigh the same in learning. For the calibration error (15 bins of equal width) probabilities are "
        "moved to the class frequencies of the real images."
    )
    yield (
        "Where the generator learned from these real images, synthetic ones can carry tested ones over: give real "
        "images that it has not seen."
    )
    if patients == len(problem.patients):
        yield "Every real image counts as a patient of its own: where patients are unknown, they can be on both sides."
    if beyond:
        yield f"Not tried, for want of that many real labels beside the tested: {', '.join(map(str, beyond))}."
    if any(copies):
        yield (
            f"Left out as copies, byte for byte, of other real files: {copies[0]} real and {copies[1]} synthetic ones."
        )
