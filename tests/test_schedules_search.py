"""Levels that are searched: the best there are on a small grid, and better than diffusers' on the exact mixture."""

from itertools import combinations

import pytest
import torch
from test_solvers import THREE, last, start, table

from vlgen.benchmark.schedules import KERNELS, of_diffusers, schedule_ratios
from vlgen.kernels import Gaussian
from vlgen.schedules import exponential, karras, miss, search, searches
from vlgen.solvers import heun, solver

LO, HI = float(table()[0]), float(table()[-1])
GAUSSIAN = Gaussian()


def problem(kernel=GAUSSIAN, n=16, first=0):
    return THREE.denoiser(kernel.D, nodes=40), start(n, HI, kernel=kernel, first=first)


def exact(denoise, x):
    """Heun's 200 steps from the same noise."""
    return last(heun(denoise, x, karras(200, LO, HI).double()))


# Small grids, where every choice can be tried.


@pytest.mark.parametrize("name", ["euler", "heun", "ipndm:3", "unipc"])
@pytest.mark.parametrize("n", [2, 3])
def test_the_table_finds_the_best_of_all_choices(name, n):
    """With a beam as wide as the grid nothing is thrown away, whatever the solver remembers."""
    denoise, x = problem()
    fine = exponential(7, LO, HI)
    found = search(denoise, x, fine, n, solver(name), teacher=heun, beam=99, sweeps=0)
    end = last(heun(denoise, x, exponential(25, LO, HI)))  # six gaps of four steps each
    choices = [fine[[0, *places, 7]] for places in combinations(range(1, 7), n - 1)]
    best = min(choices, key=lambda sigmas: miss(denoise, x, sigmas, solver(name), end))
    assert torch.equal(found, best)


def test_a_narrow_beam_is_exact_for_two_steps():
    denoise, x = problem()
    fine = exponential(9, LO, HI)
    wide, narrow = (search(denoise, x, fine, 2, solver("dpmpp_2m"), teacher=heun, beam=b, sweeps=0) for b in (99, 1))
    assert torch.equal(wide, narrow)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "ipndm:3,last=2"])
def test_a_narrow_beam_keeps_the_walk_that_is_nearest_to_the_teacher_at_that_level(name):
    denoise, x = problem()
    fine = exponential(9, LO, HI)
    teacher = [state.x for state in heun(denoise, x, exponential(9, LO, HI))]  # one step from level to level

    def at(place, *above):  # the walk to a fine level, and its distance to the teacher there
        walk = solver(name)(denoise, x, fine[[0, *above, place, *([9] if place < 9 else [])]])
        there = [state.x for state in walk][len(above)]
        return float((there - teacher[place - 1]).flatten(1).square().mean(1).sqrt().mean())

    kept = {q: min(range(1, q), key=lambda p, q=q: at(q, p)) for q in range(2, 9)}
    best = min(kept, key=lambda q: at(9, kept[q], q))
    found = search(denoise, x, fine, 3, solver(name), teacher=heun, parts=1, beam=1, sweeps=0)
    assert torch.equal(found, fine[[0, kept[best], best, 9]])


def test_the_descent_only_improves_and_leaves_the_grid():
    denoise, x = problem()
    fine, end = exponential(10, LO, HI), exact(denoise, x)
    misses = []
    for sweeps in (0, 2, 8):
        sigmas = search(denoise, x, fine, 4, solver("unipc"), teacher=heun, sweeps=sweeps)
        assert sigmas.shape == (5,) and sigmas.dtype == torch.float32
        assert bool((sigmas.diff() < 0).all()) and sigmas[0] == fine[0] and sigmas[-1] == 0
        assert sigmas[-2] >= fine[-2] * (1 - 1e-6)
        misses.append(miss(denoise, x, sigmas, solver("unipc"), end))
    assert misses[2] < misses[0] and misses[2] <= misses[1] * 1.001  # the teacher's own error is below 1e-3
    assert not bool(torch.isin(sigmas, fine).all())


def test_one_step_has_nothing_to_choose():
    denoise, x = problem()
    assert search(denoise, x, exponential(8, LO, HI), 1, solver("euler"), parts=1).tolist() == [
        torch.tensor(HI).float(),
        0,
    ]


def test_all_levels_are_taken_when_all_are_asked_for():
    denoise, x = problem(n=4)
    fine = exponential(5, LO, HI)
    assert torch.equal(search(denoise, x, fine, 5, solver("euler"), parts=1, sweeps=0), fine)


def test_the_result_is_the_same_again():
    denoise, x = problem(n=8)
    a, b = (search(denoise, x, exponential(10, LO, HI), 3, solver("deis"), teacher=heun) for _ in range(2))
    assert torch.equal(a, b)


def test_walks_with_one_beginning_share_their_evaluations():
    """Of a table of 12 levels and 4 steps with a beam of 2: a call for each kept walk, and the teacher's."""
    denoise, x = problem(n=4)
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma))
        return denoise(x, sigma)

    search(counted, x, exponential(12, LO, HI), 4, solver("ipndm"), teacher=heun, sweeps=0)
    teacher = 2 * (11 * 4 + 1) - 1
    assert len(calls) <= teacher + 1 + 2 * 12 * 3 + 1


def test_several_counts_at_once_are_each_their_own_search_at_less_cost():
    denoise, x = problem(n=4)
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma))
        return denoise(x, sigma)

    settings = {"teacher": heun, "sweeps": 2}
    alone = {n: search(counted, x, exponential(9, LO, HI), n, solver("deis"), **settings) for n in (2, 4)}
    apart, calls[:] = len(calls), []
    together = dict(searches(counted, x, exponential(9, LO, HI), [4, 2, 4], solver("deis"), **settings))
    assert list(together) == [2, 4] and all(torch.equal(together[n], alone[n]) for n in alone)
    assert len(calls) < apart - 60  # the teacher walks once


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 0}, "0 steps"),
        ({"n": 9}, "9 steps were asked of 8"),
        ({"beam": 0}, "beam = 0"),
        ({"sweeps": -1}, "sweeps = -1"),
        ({"parts": 0}, "parts = 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(changed, said):
    denoise, x = problem(n=1)
    given = {"n": 3, "beam": 1, "sweeps": 0, "parts": 1} | changed
    n = given.pop("n")
    with pytest.raises(ValueError, match=said):
        search(denoise, x, exponential(8, LO, HI), n, solver("euler"), **given)


def test_fine_levels_that_rise_are_refused():
    denoise, x = problem(n=1)
    with pytest.raises(ValueError, match="strictly decreasing"):
        search(denoise, x, torch.tensor([1.0, 2.0, 0.5, 0.0]), 2, solver("euler"), parts=1)


# Against diffusers, as `vlgen benchmark schedules` prints it.


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("counts", [(5, 8), pytest.param((6, 7, 9, 10), marks=pytest.mark.slow)])
def test_searched_levels_beat_the_best_of_diffusers(kernel, counts):
    rows = list(schedule_ratios(counts, [kernel]))
    assert [row["evaluations"] for row in rows] == list(counts)
    for row in rows:
        print(row)
        assert row["ratio"] < (0.6 if row["evaluations"] == 5 else 0.8)


def test_the_reference_walks_as_diffusers_does():
    """Enough steps of any of theirs end where the exact path does, so that the loop around them is right."""
    denoise, x = problem(n=8)
    end = exact(denoise, x)
    few, many = (of_diffusers(n, denoise, x, end) for n in (10, 120))
    for name, distance in many.items():
        # first order at least, but for their ends: some stop at the least level, 0.03 above 0
        assert distance < max(few[name] / 5, 0.02), name
