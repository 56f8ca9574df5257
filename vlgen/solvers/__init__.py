"""Solvers: how to walk from noise down to an image, every one in sigma units.

With x the noisy image and x0 = denoise(x, sigma), the probability-flow ODE is dx/dsigma = (x - x0) / sigma (Karras et
al. 2022, arXiv:2206.00364, eqs. 1 and 3). It is the same ODE for the Gaussian and the PFGM++ kernel (Xu et al. 2023,
arXiv:2302.04265): only the start and the denoiser differ, so no solver here knows of kernels. In these units a
variance-preserving process is x / alpha, and the score is (x0 - x) / sigma^2.

A solver is a generator: every step yields a State, and the last State's x is the sample.

    denoise  (x, sigma) -> x0, sigma a 0-d tensor in the dtype of x
    x        (B, C, H, W)   start: kernel.noise at sigmas[0]; kept in float32, or in float64 if given so
    sigmas   (n + 1,)       decreasing, sigmas[-1] == 0
    seeds    (B,)           one integer per image, for solvers that draw noise: an image draws from its seed, its step
                            and, where a step draws twice, the count alone

The step to 0 is the denoiser's own estimate in every solver, as log sigma has no end there and no order to be had; but
`ipndm`, which walks in sigma, extrapolates it where its option `last` says so.
"""

from vlgen.solvers.adams import deis, ipndm
from vlgen.solvers.ancestral import consistency, ddim, ddpm, euler_ancestral
from vlgen.solvers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m
from vlgen.solvers.langevin import langevin, pc_ve, pc_vp
from vlgen.solvers.runge_kutta import euler, heun, rk45
from vlgen.solvers.table import SOLVERS, Solver, check_kernel, nfe, samplers, solver
from vlgen.solvers.unipc import unipc

__all__ = [
    "SOLVERS",
    "Solver",
    "check_kernel",
    "consistency",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "euler",
    "euler_ancestral",
    "heun",
    "ipndm",
    "langevin",
    "nfe",
    "pc_ve",
    "pc_vp",
    "rk45",
    "samplers",
    "solver",
    "unipc",
]
