"""Pairs: how close each reconstruction is to its own reference, in the unit of the files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlgen.evaluate.collection import Progress
from vlgen.evaluate.partners import RELATIVE, UNSTATED, Files, Loaded, Terms, Window, load, match
from vlgen.evaluate.scores import Row, Section
from vlgen.files import Refused
from vlgen.images import fit
from vlgen.metrics.distribution import bootstrap
from vlgen.metrics.image import mae, ms_ssim, nrmse, psnr, rmse, ssim
from vlgen.modality import Modality
from vlgen.modality import modality as named
from vlgen.sheet import sheet

if TYPE_CHECKING:
    from PIL import Image

PSNR = "PSNR (dB)"
METRICS = {PSNR: "higher", "SSIM": "higher", "MS-SSIM": "higher", "NRMSE": "lower", "RMSE": "lower", "MAE": "lower"}
NAMED = 20  # names that a note lists before it counts the others; `about` has them all
WORST, SIDE = 3, 192  # rows of the picture, and the pixels a side of each image in it


@dataclass(frozen=True)
class _Measured:
    """A pair's figures, each the mean over its slices, and what the notes count.

    figures  those that exist: no SSIM of too few pixels, no NRMSE of a reference of zeros
    slices   that were measured; `empty` others have nothing in their mask
    equal    slices without any error, whose PSNR is infinite
    outside  share of the reference's values that lie outside the window
    worst    the lowest PSNR of a slice, and that slice
    """

    files: Files
    terms: Terms
    size: str
    figures: Mapping[str, float]
    slices: int
    empty: int
    equal: int
    outside: float
    worst: tuple[float, int]


def pairs(
    reference: str | Path,
    reconstructed: str | Path,
    *,
    masks: str | Path | None = None,
    modality: str | None = None,
    window: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Section, dict[str, Any]]:
    """PSNR, SSIM, MS-SSIM, NRMSE, RMSE and MAE of reconstructions; and what `Scores.about` states of them.

    reference, reconstructed  two folders, paired by relative name without ending, or two files
    masks     a folder of the same names, or a file: the figures are of the pixels where it is not 0
    modality  its unit is that of all pairs, and of the files that do not say theirs
    window    (low, high) in that unit, its width the peak of PSNR and SSIM; by default that of the modality or unit

    A figure is the mean over the pairs with its 95 % bootstrap interval over the pairs, or over the patients where
    DICOM files name them. The slices of a volume are measured one by one; the volume counts as one pair, with the mean
    over its slices. Nothing is resized, rescaled or clipped: a pair that does not fit is left out and named, with the
    reason.

    Raises ValueError where no pair can be measured, and where one window would serve several units.
    """
    kind = named(modality) if modality else None
    if window and not (math.isfinite(window[0]) and math.isfinite(window[1]) and window[0] < window[1]):
        raise ValueError(f"window is {window[0]} to {window[1]}: give its lower end, then its higher end")
    matched, refused = match(Path(reference), Path(reconstructed), Path(masks) if masks else None)
    found = list[_Measured]()
    for done, files in enumerate(matched):
        progress("measuring pairs", done, len(matched))
        try:
            found.append(_measure(files, load(files, kind, window)))
        except Refused as error:
            refused.append((files.name, str(error)))
        if window and len(units := sorted({pair.terms.unit for pair in found})) > 1:
            raise ValueError(f"one window cannot serve pairs in {' and '.join(units)} units: give the modality too")
    progress("measuring pairs", len(matched), len(matched))
    if not found:
        reason = f", {refused[0][0]} because: {refused[0][1]}" if refused else ": there is no image"
        raise ValueError(f"no pair of {reference} and {reconstructed} can be measured{reason}")
    rows, notes = list[Row](), list[str]()
    pictures: list[tuple[str, Image.Image]] = []
    units = sorted({pair.terms.unit for pair in found})
    for unit in units:
        chosen = [pair for pair in found if pair.terms.unit == unit]
        rows += _rows(chosen, "all" if len(units) == 1 else unit, seed)
        notes += _notes(chosen, masks is not None)
        pictures += _pictures(chosen, kind, window)
    notes += _left_out(refused)
    about = {
        "pairs": len(found),
        "slices": sum(pair.slices for pair in found),
        "masked": masks is not None,
        "modality": modality,
        "windows": {pair.terms.unit: list(pair.terms.window) for pair in found},
        "sizes": dict(Counter(pair.size for pair in found).most_common()),
        "formats": {
            side: dict(Counter(pair.terms.formats[k] for pair in found).most_common())
            for k, side in enumerate(("reference", "reconstructed"))
        },
        "refused": [list(entry) for entry in refused],
        "seed": seed,
    }
    question = "How close is each reconstruction to its reference?"
    return Section("pairs", question, tuple(rows), tuple(notes), pictures=tuple(pictures)), about


def _measure(files: Files, loaded: Loaded) -> _Measured:
    low, high = loaded.terms.window
    figures, worst = {metric: list[float]() for metric in METRICS}, (math.inf, 0)
    slices = equal = counted = outside = 0
    for index, (x, y) in enumerate(zip(loaded.reference, loaded.reconstruction, strict=True)):
        inside = None if loaded.inside is None else loaded.inside[index]
        seen = x if inside is None else x[inside]
        if not len(seen):
            continue
        slices += 1
        counted += seen.numel()
        outside += int(((seen < low) | (seen > high)).sum())
        for metric, value in _figures(y, x, inside, high - low):
            if value == math.inf:
                equal += 1
                continue
            figures[metric].append(value)
            if metric == PSNR:
                worst = min(worst, (value, index))
    means = {metric: fmean(values) for metric, values in figures.items() if values}
    size, empty = f"{loaded.reference.shape[-1]} x {loaded.reference.shape[-2]}", len(loaded.reference) - slices
    return _Measured(files, loaded.terms, size, means, slices, empty, equal, outside / counted, worst)


def _figures(y: Tensor, x: Tensor, inside: Tensor | None, peak: float) -> Iterator[tuple[str, float]]:
    """(metric, value) of one slice (H, W); PSNR may be infinite."""
    y, x, mask = y[None, None], x[None, None], None if inside is None else inside[None, None]
    yield PSNR, float(psnr(y, x, peak=peak, mask=mask))
    yield "RMSE", float(rmse(y, x, mask=mask))
    yield "MAE", float(mae(y, x, mask=mask))
    with suppress(ValueError):  # a reference of zeros
        yield "NRMSE", float(nrmse(y, x, mask=mask))
    with suppress(ValueError):  # an image or a mask smaller than the windows
        yield "SSIM", float(ssim(y, x, peak=peak, mask=mask))
        yield "MS-SSIM", float(ms_ssim(y, x, peak=peak, mask=mask))


def _rows(chosen: Sequence[_Measured], group: str, seed: int) -> Iterator[Row]:
    unit = chosen[0].terms.unit
    for metric, better in METRICS.items():
        held = [pair for pair in chosen if metric in pair.figures]
        if held:
            name = f"{metric} [{unit}]" if metric in ("RMSE", "MAE") else metric
            value = fmean(pair.figures[metric] for pair in held)
            yield Row(name, value, len(held), group, interval=_interval(held, metric, seed), better=better)


def _groups(chosen: Sequence[_Measured]) -> dict[tuple[str, str], list[_Measured]]:
    """The pairs of each patient; a pair whose patient is unknown is a group of its own."""
    found: dict[tuple[str, str], list[_Measured]] = {}
    for pair in chosen:
        key = ("patient", pair.terms.patient) if pair.terms.patient else ("file", pair.files.name)
        found.setdefault(key, []).append(pair)
    return found


def _interval(held: Sequence[_Measured], metric: str, seed: int) -> tuple[float, float] | None:
    table = torch.tensor(
        [(math.fsum(pair.figures[metric] for pair in group), len(group)) for group in _groups(held).values()],
        dtype=torch.float64,
    )
    if len(table) < 2:
        return None
    return bootstrap(lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()), table, seed=seed)


def _notes(chosen: Sequence[_Measured], masked: bool) -> Iterator[str]:
    terms, n = chosen[0].terms, len(chosen)
    (low, high), unit = terms.window, terms.unit
    yield (
        f"{_count(n, 'pair')} in {unit} units: the peak of PSNR and SSIM is {high - low:g}, the width of the window "
        f"{low:g} to {high:g}. Nothing is clipped: {fmean(pair.outside for pair in chosen):.2%} of the references' "
        "values lie outside the window and count as they are."
    )
    if unit == "HU":
        yield "NRMSE divides by the reference's norm, and so depends on where HU has its zero."
    if masked:
        yield "All figures are of the masked pixels; SSIM and MS-SSIM of the windows that are centered on them."
    if volumes := [pair for pair in chosen if pair.slices + pair.empty > 1]:
        slices, empty = sum(pair.slices for pair in volumes), sum(pair.empty for pair in volumes)
        yield (
            f"{_count(len(volumes), 'pair')} of volumes, measured slice by slice, {slices} in all; each pair counts "
            f"once, with the mean over its slices{f'; {empty} more have nothing in their mask' if empty else ''}."
        )
    if assumed := sum(pair.terms.assumed for pair in chosen):
        taken = "Nothing says the unit of the values" if unit == UNSTATED else f"Their values are taken as {unit}"
        yield f"{_count(assumed, 'file')} without a stated unit. {taken}."
    if unit == RELATIVE and (shown := sum("DICOM" in pair.terms.formats for pair in chosen)):
        yield (
            f"{_count(shown, 'pair')} with DICOM files without a physical unit: each went through its own window, or "
            "its own minimum and maximum, so an error in brightness or contrast may not show."
        )
    if n > 1 and len(patients := _groups(chosen)) < n:
        drawn = f"The intervals draw {len(patients)} patients, not the {n} pairs"
        yield f"{drawn if len(patients) > 1 else 'All pairs are of one patient: there is no interval'}."
    if whole := sum(pair.equal == pair.slices for pair in chosen):
        yield f"{_count(whole, 'identical pair')}, whose infinite PSNR is left out of its mean."
    if parts := sum(pair.equal for pair in chosen if pair.equal < pair.slices):
        yield f"{_count(parts, 'identical slice')} of other pairs, whose infinite PSNR is left out of its mean."
    for metric, reason in (
        ("SSIM", "an image or mask too small for its 11 x 11 windows"),
        ("MS-SSIM", "less than 176 pixels a side, or a mask too small for its coarsest windows"),
        ("NRMSE", "a reference that is zero wherever it is measured"),
    ):
        if lacking := sum(metric not in pair.figures for pair in chosen):
            yield f"{_count(lacking, 'pair')} without {metric}: {reason}."
    if ranked := _ranked(chosen):
        value, index = ranked[0].worst
        place = f", slice {index + 1}" if ranked[0].slices + ranked[0].empty > 1 else ""
        yield f"The worst pair by PSNR is {ranked[0].files.name}{place}, with {value:.2f} dB."


def _ranked(chosen: Sequence[_Measured]) -> list[_Measured]:
    """The pairs with an error, the worst slice first."""
    return sorted((pair for pair in chosen if pair.worst[0] < math.inf), key=lambda pair: pair.worst)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _pictures(
    chosen: Sequence[_Measured], kind: Modality | None, window: Window | None
) -> Iterator[tuple[str, Image.Image]]:
    """The worst pairs, read again: reference, reconstruction and difference, the last on a scale of its own."""
    ranked = _ranked(chosen)[:WORST]
    if not ranked:
        return
    shown, errors = list[list[Tensor]](), list[Tensor]()
    (low, high), unit = ranked[0].terms.window, ranked[0].terms.unit
    for pair in ranked:
        loaded, index = load(pair.files, kind, window), pair.worst[1]
        x, y = loaded.reference[index : index + 1], loaded.reconstruction[index : index + 1]
        error = y - x if loaded.inside is None else (y - x) * loaded.inside[index]
        shown.append([fit(((image - low) / (high - low)).clamp(0, 1), SIDE, "letterbox", fill=0) for image in (x, y)])
        errors.append(fit(error, SIDE, "letterbox", fill=0))
    sizes = torch.stack(errors).abs().flatten()
    scale = float(sizes.quantile(0.99)) or float(sizes.max()) or high - low
    lines = [[*images, error / (2 * scale) + 0.5] for images, error in zip(shown, errors, strict=True)]
    labels = [f"{pair.files.name} {pair.worst[0]:.1f} dB" for pair in ranked]
    caption = (
        f"The worst {_count(len(ranked), 'pair')} by PSNR: reference, reconstruction, and difference, whose black is "
        f"-{scale:.3g}, middle grey 0 and white +{scale:.3g} ({unit})"
    )
    yield caption, sheet(lines, labels)


def _left_out(refused: Sequence[tuple[str, str]]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in refused:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"Left out, {reason}: {', '.join(names[:NAMED])}{more}."
