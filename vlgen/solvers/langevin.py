"""Langevin solvers: those that walk along the score and draw noise at every step, with or without a predictor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def langevin(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    each: int = 5,
    step: float = 0.2,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Annealed Langevin dynamics: some steps of Langevin's at each level below the start; the last denoises.

    each   evaluations at every level
    step   the length of a step over sigma^2. Its square root is the noise drawn; the spread that it leaves is too large
           by up to a share step / 4, however many levels there are
    seeds  (B,)  one integer per image

    Song and Ermon 2019, arXiv:1907.05600, Algorithm 1: x + alpha / 2 score + sqrt(alpha) z with alpha = step * sigma^2
    (theirs is 0.2 and 100 steps a level). The last step to the estimate is that of Jolicoeur-Martineau et al. 2021,
    arXiv:2009.05475, section 3.1.
    """
    check("langevin", each=each, step=step)
    walk = Walk(denoise, x, sigmas, draws="langevin", seeds=seeds)
    x = walk.x
    for sigma, below in walk:
        if below == 0:
            x = x0 = walk.estimate(x, sigma)
        else:
            for j in range(each):
                x0 = walk.estimate(x, below)
                x = x + step / 2 * (x0 - x) + math.sqrt(step) * below * walk.noise(j)
        yield walk.state(x, x0)


def pc_ve(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    snr: float = 0.16,
    corrections: int = 1,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Predictor-corrector sampling of the variance-exploding SDE: reverse diffusion, then Langevin steps at its level.

    snr          how long the corrector's steps are, as a ratio of norms, those of each image alone. Correctors alone
                 leave a variance too large: by the share snr^2, as steps have a length, and by 4 / pixels, as norms of
                 few pixels depend on where the image is and on what is drawn
    corrections  how many; each is one more evaluation
    seeds        (B,)  one integer per image

    Song et al. 2021, arXiv:2011.13456, Algorithms 2 and 4: x + (sigma^2 - below^2) score + sqrt(sigma^2 - below^2) z.
    """
    check("pc_ve", snr=snr, corrections=corrections)
    walk = Walk(denoise, x, sigmas, draws="pc_ve", seeds=seeds)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        if below == 0:
            x = x0
        else:
            gone = sigma**2 - below**2
            x = x + gone / sigma**2 * (x0 - x) + math.sqrt(gone) * walk.noise()
            for j in range(corrections):
                x0 = walk.estimate(x, below)
                x = _correct(x, (x0 - x) / below**2, snr, walk.noise(j))
        yield walk.state(x, x0)


def pc_vp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    snr: float = 0.16,
    corrections: int = 1,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Predictor-corrector sampling of the variance-preserving SDE: reverse diffusion, then Langevin steps.

    The options are those of `pc_ve`. Song et al. 2021, arXiv:2011.13456, Algorithms 3 and 5, where X = alpha x and
    alpha = 1 / sqrt(1 + sigma^2): (2 - sqrt(1 - beta)) X + beta score(X) + sqrt(beta) z, where 1 - beta is the ratio of
    the squared alphas. Their derivation wants small beta: with few steps `ddpm`, which is exact in beta, is better.
    """
    check("pc_vp", snr=snr, corrections=corrections)
    walk = Walk(denoise, x, sigmas, draws="pc_vp", seeds=seeds)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        if below == 0:
            x = x0
        else:
            alpha, lower = 1 / math.hypot(1, sigma), 1 / math.hypot(1, below)
            kept = (alpha / lower) ** 2  # 1 - beta
            score = (x0 - x) / (alpha * sigma**2)  # of X
            preserved = (2 - math.sqrt(kept)) * alpha * x + (1 - kept) * score + math.sqrt(1 - kept) * walk.noise()
            x = preserved / lower
            for j in range(corrections):
                x0 = walk.estimate(x, below)
                # in X the step is kept * 2 (snr |z| / |score|)^2; divided by lower it is the same for x
                x = _correct(x, (x0 - x) / below**2, snr * math.sqrt(kept), walk.noise(j))
        yield walk.state(x, x0)


def _correct(x: Tensor, score: Tensor, snr: float, z: Tensor) -> Tensor:
    """One Langevin step whose length makes the ratio of the two moves' norms snr in every image."""
    step = 2 * (snr * _norm(z) / _norm(score).clamp_min(1e-30)) ** 2
    return x + step * score + (2 * step).sqrt() * z


def _norm(x: Tensor) -> Tensor:
    """Of each image, to multiply images by."""
    size: Tensor = x.flatten(1).norm(dim=1)
    return size.reshape(-1, *[1] * (x.ndim - 1))
