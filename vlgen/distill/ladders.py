"""Ladders: the noise levels that a student walks down, one list for each number of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

START = 0.8  # of the start of the next larger count


@dataclass(frozen=True)
class Ladder:
    """The walk of one count of evaluations, and where the teacher is meanwhile.

    sigmas  (n + 1,)  decreasing, the last 0: the levels that the network is told
    rungs   (n + 1,)  places in the teacher's own levels that the walk passes, from 0, its start, to its end
    """

    sigmas: tuple[float, ...]
    rungs: tuple[int, ...]

    @property
    def nfe(self) -> int:
        return len(self.sigmas) - 1


def ladders(counts: Sequence[int], teacher: Sequence[float]) -> tuple[Ladder, ...]:
    """A ladder for each count of evaluations, the smallest first, on the teacher's levels (m + 1,).

    A step of a student of four evaluations is another one than that of a student of two from the same place, and the
    network is told nothing but the level. So no level is on two ladders: the rungs are spread evenly over the teacher's
    own, a rung that is taken gives way to the nearest free one, and the start, where all is noise, is called by a level
    of its own, 0.8 times that of the next larger count.

    Raises ValueError where the teacher has too few levels.
    """
    counts = sorted(set(counts))
    last = len(teacher) - 1
    if not counts or counts[0] < 1 or sum(n - 1 for n in counts) > last - 1:
        raise ValueError(
            f"students of {', '.join(map(str, counts)) or 'no'} evaluations need {sum(n - 1 for n in counts)} levels "
            f"of their own, and a teacher of {last} steps has {max(last - 1, 0)} between its ends: give it more steps"
        )
    free, found = set(range(1, last)), []
    for n in counts:
        inner = []
        for k in range(1, n):
            wanted = last * k / n
            inner.append(min(free, key=lambda rung: (abs(rung - wanted), rung)))
            free.remove(inner[-1])
        rungs = (0, *sorted(inner), last)
        start = teacher[0] * START ** counts.index(n)
        if n > 1 and start <= teacher[rungs[1]]:
            raise ValueError(
                f"the teacher's second level {teacher[rungs[1]]:g} is too near its first for {n} evaluations"
            )
        found.append(Ladder((start, *(float(teacher[rung]) for rung in rungs[1:])), rungs))
    return tuple(found)
