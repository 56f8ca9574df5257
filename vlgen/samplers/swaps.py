"""Swaps: which solver may walk down from which kernel on which weights, and which kernel wants an adapter."""

from __future__ import annotations

from vlgen.kernels import Kernel
from vlgen.solvers import SOLVERS, Solver, check_kernel

FREE, ADAPTER, REFUSED = "free", "needs an adapter", "refused"


def swap(solver: Solver, trained: Kernel, asked: Kernel) -> str:
    """What `vlgen.plan` makes of a solver and a kernel on weights that were trained under one.

    free              the images are the same in distribution as by any other solver
    needs an adapter  the weights have not learned this kernel's noise: it runs, with a note, and gives wrong contrast
    refused           the solver draws Gaussian noise, which erases a finite D
    """
    try:
        check_kernel(solver, asked)
    except ValueError:
        return REFUSED
    return FREE if asked.D == trained.D else ADAPTER


def swaps(gaussian: Kernel, pfgmpp: Kernel) -> list[tuple[list[str], dict[tuple[str, str], str]]]:
    """Solvers that agree, and what comes of each (kernel of the weights, kernel asked for).

    gaussian, pfgmpp  the two kernels that the table is of
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    pairs = [(trained, asked) for trained in (gaussian, pfgmpp) for asked in (gaussian, pfgmpp)]
    for name, each in SOLVERS.items():
        groups.setdefault(tuple(swap(each, *pair) for pair in pairs), []).append(name)
    titles = [(trained.name, asked.name) for trained, asked in pairs]
    return [(names, dict(zip(titles, found, strict=True))) for found, names in groups.items()]
