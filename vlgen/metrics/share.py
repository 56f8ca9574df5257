"""How sure a share is: an interval for a proportion of independent images, sound at 0 and at all of them too."""

from __future__ import annotations

import math

Z = 1.959964  # the 97.5 % point of the normal distribution


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's score interval, 95 %, of the share count / n; Wilson 1927, JASA 22.

    The bootstrap would give the share itself, without any width, where none or all of the images count.

    count  0 ... n, n at least 1
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n} is no share: give a count from 0 to n, and n of at least 1")
    share = count / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return middle - width if count else 0.0, middle + width if count < n else 1.0  # the ends exactly
