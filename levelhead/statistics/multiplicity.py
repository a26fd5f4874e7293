"""Many intervals at once: how many miss by chance, and which differences stand all the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

Interval = tuple[float | None, float | None, float | None]
"""value, low, high."""


def holm(intervals: Sequence[Interval], level: float = 0.95) -> set[int]:
    """Positions of the differences that are still shown when all are taken together.

    p of each by its interval's width, as if it were a normal's; Holm's step-down (1979) at
    1 − level. What has no interval is no test.
    """
    z, tests = NormalDist().inv_cdf((1 + level) / 2), []
    for i, (value, low, high) in enumerate(intervals):
        if value is None or low is None or high is None:
            continue
        # Of an interval that is not even, the side towards 0 decides.
        half = (value - low) if value > 0 else (high - value)
        ratio = abs(value) / half * z if half > 0 else math.inf if value else 0.0
        tests.append((2 * (1 - NormalDist().cdf(ratio)), i))
    stand: set[int] = set()
    for place, (p, i) in enumerate(sorted(tests)):
        if p > (1 - level) / (len(tests) - place):
            break
        stand.add(i)
    return stand


def missing_by_chance(count: int, level: float = 0.95) -> str:
    """A sentence: of so many intervals, how many miss.

    >>> missing_by_chance(120)
    'Of the 120 intervals on this page about 6 miss by chance.'
    """
    return (
        f"Of the {count} intervals on this page about {round(count * (1 - level))} miss by chance."
    )
