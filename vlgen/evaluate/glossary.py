"""The glossary: every metric in one line, with its paper."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from vlgen.evaluate.scores import Row
from vlgen.evaluate.wording import BETTER, bare


class Entry(NamedTuple):
    """A metric in one line: what it is, which way is better, and who described it."""

    name: str
    text: str
    better: str
    paper: str


# The first pattern that occurs in a metric's name explains it, so what is special stands before what is general.
_ENTRIES = (
    (
        r"planted",
        "Planted copies found",
        "the power of the search for copies: of altered training images hidden among the synthetic ones on purpose, "
        "the share that is found",
        "Vovk, Gammerman and Shafer 2005 (calibration)",
    ),
    (
        r"false alarm",
        "False alarms",
        "of real images that the generator never saw, the share that is accused of being copies",
        "Vovk, Gammerman and Shafer 2005 (calibration)",
    ),
    (
        r"fr[eé]chet|\bfid\b",
        "Frechet distance",
        "squared distance of the Gaussians fitted to the features of both sets; it falls as n grows",
        "Heusel et al. 2017, arXiv:1706.08500",
    ),
    (
        r"clip-?mmd|cmmd",
        "CLIP-MMD",
        "1,000 times the unbiased maximum mean discrepancy of unit-norm features of an image-text model, with a "
        "Gaussian kernel; 0 on average for one distribution, so sometimes below 0",
        "Jayasumana et al. 2024, arXiv:2401.09603",
    ),
    (
        r"kernel distance|\bkid\b",
        "Kernel distance (KID)",
        "unbiased maximum mean discrepancy with a cubic kernel; 0 on average for one distribution, so at times below 0",
        "Binkowski et al. 2018, arXiv:1801.01401",
    ),
    (
        r"\br@\d|recall at|retriev",
        "Retrieval, R@k",
        "share of images whose own text is among the k nearest texts, and of texts with their own image among the k "
        "nearest images",
        "Hodosh, Young and Hockenmaier 2013, JAIR 47",
    ),
    (
        r"precision",
        "Precision",
        "share of synthetic images that lie among the real ones, in a neighborhood of features: realism",
        "Kynkaanniemi et al. 2019, arXiv:1904.06991",
    ),
    (
        r"recall",
        "Recall",
        "share of real images that lie among the synthetic ones, in a neighborhood of features: variety",
        "Kynkaanniemi et al. 2019, arXiv:1904.06991",
    ),
    (
        r"density",
        "Density",
        "how many neighborhoods of real images a synthetic image lies in, over the number expected; it may exceed 1",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    (
        r"coverage",
        "Coverage",
        "share of real images with a synthetic one in their neighborhood",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    (
        r"ms-?ssim (within|of one|between)|diversity",
        "MS-SSIM within a prompt",
        "likeness of two images of one prompt: above that of real images, the generator repeats itself",
        "Odena, Olah and Shlens 2017, arXiv:1610.09585",
    ),
    (
        r"ms-?ssim",
        "MS-SSIM",
        "structural similarity over five scales; 1 for equal images",
        "Wang, Simoncelli and Bovik 2003, Asilomar Conference",
    ),
    (
        r"ssim",
        "SSIM",
        "likeness of luminance, contrast and structure in small windows; 1 for equal images",
        "Wang et al. 2004, IEEE Transactions on Image Processing 13",
    ),
    (
        r"psnr",
        "PSNR",
        "peak signal-to-noise ratio: the width of the unit's range over the root of the mean squared error, in dB",
        "Huynh-Thu and Ghanbari 2008, Electronics Letters 44",
    ),
    (
        r"nrmse",
        "NRMSE",
        "root of the summed squared error over that of the summed squared reference; 0 for equal images",
        "Fienup 1997, Applied Optics 36",
    ),
    (
        r"\b(rmse|mae)\b",
        "RMSE and MAE",
        "root of the mean squared error, and mean absolute error, in the unit of the images",
        "Willmott and Matsuura 2005, Climate Research 30",
    ),
    (
        r"of others",
        "Similarity with reports of others",
        "cosine of the features of an image and of reports of another meaning: what similarity is by chance",
        "Hessel et al. 2021, arXiv:2104.08718",
    ),
    (
        r"similarity",
        "Image-text similarity",
        "cosine of the features of an image and of its own text",
        "Hessel et al. 2021, arXiv:2104.08718",
    ),
    (
        r"negat|against absent",
        "Present against absent",
        "does the image of a finding score higher for it than the image of its denial; 0.5 is chance",
        "Alhamoud et al. 2025, arXiv:2501.09425",
    ),
    (
        r"lateral|left against right",
        "Left against right",
        "does an image score higher for its own side than for the other; 0.5 is chance",
        "Thrush et al. 2022, arXiv:2204.03162 (pairs that differ in one word)",
    ),
    (
        r"neighbou?r",
        "Nearest-neighbor ratio",
        "distance to the nearest training image over distance to the nearest unseen real one; 1 where nothing is "
        "memorized, lower where images lie closer to the training images",
        "Meehan, Chaudhuri and Dasgupta 2020, arXiv:2004.05675",
    ),
    (
        r"true.positive|\btpr\b",
        "Membership inference, TPR",
        "share of training images found by their low loss, while at most the stated share of others is accused",
        "Carlini et al. 2022, arXiv:2112.03570",
    ),
    (
        r"member",
        "Membership inference, AUC",
        "how well the model's loss tells training images from others; 0.5 is chance",
        "Yeom et al. 2018, arXiv:1709.01604",
    ),
    (
        r"cop(y|ies)",
        "Copies",
        "synthetic images nearer to a training image than a threshold that unseen real images seldom pass",
        "Carlini et al. 2023, arXiv:2301.13188; calibration: Vovk, Gammerman and Shafer 2005",
    ),
    (
        r"gained",
        "AUROC gained",
        "difference of AUROC between learning with and without the synthetic images; 0 where they change nothing",
        "",
    ),
    (
        r"auroc|\bauc\b",
        "AUROC",
        "area under the ROC curve: chance that a positive scores above a negative; 0.5 for a guess",
        "Hanley and McNeil 1982, Radiology 143",
    ),
    (
        r"balanced accuracy",
        "Balanced accuracy",
        "mean of sensitivity and specificity; 0.5 for a guess between two classes",
        "Brodersen et al. 2010, ICPR",
    ),
    (
        r"calibration",
        "Expected calibration error",
        "mean gap between the stated probability and the observed frequency, over bins of probability",
        "Guo et al. 2017, arXiv:1706.04599",
    ),
)


def glossary(rows: Iterable[Row]) -> list[Entry]:
    """The metrics that occur in rows, in the order of their first; the direction is that which the rows state.

    A metric that is not known here is listed by its own name, for its section to explain.
    """
    found: dict[str, Entry] = {}
    for row in rows:
        name, text, paper = _explained(row.metric)
        found.setdefault(name, Entry(name, text, BETTER.get(row.better, ""), paper))
    return list(found.values())


def _explained(metric: str) -> tuple[str, str, str]:
    for pattern, name, text, paper in _ENTRIES:
        if re.search(pattern, metric, re.I):
            return name, text, paper
    return bare(metric), "see the notes of its section", ""
