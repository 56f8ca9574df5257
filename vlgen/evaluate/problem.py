"""The problem: which question a classifier learns to answer, and the images of both sets whose answer is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.evaluate.collection import Collection
from vlgen.evaluate.judge import questions

LEAST_REAL, LEAST_PATIENTS, LEAST_SYNTHETIC = 15, 6, 10  # of each class: about 5 images of 2 patients are tested
PLAIN = ("modality", "view", "sex", "age group", "side")  # taken only where no finding or class has enough images


@dataclass(frozen=True)
class Problem:
    """What is to be told, and the images whose answer is known.

    name      "pleural effusion", "class", "view"
    classes   its answers, in the order of the labels
    rows      of the real and of the synthetic collection
    labels    (N,), (M,)   numbers of the answers
    patients  (N,)   of the real images
    """

    name: str
    classes: tuple[str, ...]
    rows: tuple[list[int], list[int]]
    labels: tuple[Tensor, Tensor]
    patients: tuple[str, ...]

    def counts(self, which: int) -> str:
        """How many images of one collection have which answer, in words."""
        found = torch.bincount(self.labels[which], minlength=len(self.classes)).tolist()
        return ", ".join(f"{n} {name}" for n, name in zip(found, self.classes, strict=True))


def problem_of(real: Collection, synthetic: Collection, label: str | None) -> Problem | str:
    """What is to be told, or why nothing is, in numbers."""
    asked = list(questions(real, synthetic))
    known = sorted({name.rpartition(": ")[2] for name, *_ in asked} | {name for name, *_ in asked})
    if label is not None and label not in known:
        return f"no image of both sets is labeled {label!r}: give {', '.join(known) or 'images with reports'}"
    found, tried = list[tuple[tuple[int, int], str, list[str]]](), list[tuple[int, str]]()
    answers: dict[str, tuple[list[str], list[str]]] = {}
    for name, truth, wanted in asked:
        plain = name.rpartition(": ")[2]
        if label is not None and label not in (name, plain):
            continue
        answers[name] = truth, wanted
        counts = [Counter(each) for each in answers[name]]
        patients = Counter(answer for answer, _ in {*zip(truth, real.groups, strict=True)})
        names = sorted({*counts[0], *counts[1]} - {""})
        enough = [
            a
            for a in names
            if counts[0][a] >= LEAST_REAL and patients[a] >= LEAST_PATIENTS and counts[1][a] >= LEAST_SYNTHETIC
        ]
        if len(enough) > 1:
            images = len(enough) * min(min(count[a] for a in enough) for count in counts)
            found.append(((plain not in PLAIN, images), name, enough))
        reach = sorted((min(count[a] for count in counts) for a in names), reverse=True)[1:2]
        told = [f"{a}: {counts[0][a]} real of {patients[a]} patients, {counts[1][a]} synthetic" for a in names]
        tried.append((sum(reach), f"{name} ({'; '.join(told)})"))
    if not found:
        nearest = f"; the nearest is {max(tried, key=lambda one: one[0])[1]}" if tried else ""
        return (
            f"utility needs two answers to one question with {LEAST_REAL} labeled real images of {LEAST_PATIENTS} "
            f"patients and {LEAST_SYNTHETIC} synthetic ones each{nearest}: give more images with reports"
        )
    _, name, enough = max(found, key=lambda one: one[0])  # of equals the first, in the order of names
    rows = [[row for row, answer in enumerate(each) if answer in enough] for each in answers[name]]
    labels = [
        torch.tensor([enough.index(each[row]) for row in own]) for each, own in zip(answers[name], rows, strict=True)
    ]
    owners = tuple(real.groups[row] for row in rows[0])
    return Problem(name, tuple(enough), (rows[0], rows[1]), (labels[0], labels[1]), owners)
