"""Errors one after the other, looked at as often as one likes: evidence and bounds that hold.

Under a true rate p the ratio of a mixture of likelihoods to the likelihood of p is a martingale of
mean 1: the chance that it ever reaches 1/α is at most α (Ville 1939; Robbins 1970). The mixture is
uniform over the rates that are to be told from p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import betainc, betaln

Array = np.ndarray


def evidence(errors: Sequence[int] | Array, rate: float) -> Array:
    """Evidence against "errors have a rate of `rate` at most" after each, float64 [N].

    errors: 0 or 1, in the order in which they came. It is an e-process: whatever p <= rate, even
    one that changes, it ever reaches 1/α with probability α at most. Raises ValueError for a rate
    outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate {rate}: must be between 0 and 1")
    k = np.cumsum(np.asarray(errors, np.float64))
    n = np.arange(1, len(k) + 1)
    a, b = k + 1, n - k + 1
    with np.errstate(divide="ignore"):
        above = np.log(betainc(b, a, 1 - rate))  # of Beta(a, b), without losing small shares
    likelihood = k * math.log(rate) + (n - k) * math.log1p(-rate)
    ratio: Array = betaln(a, b) + above - math.log1p(-rate) - likelihood
    return np.asarray(np.exp(np.minimum(ratio, 700)))


def bounds(errors: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the rate that hold at all times at once: (low, high) after n, `errors` of them.

    All p against which the mixture over [0, 1] has not reached 1/(1 − level). Nothing yet: (0, 1).
    """
    if n == 0:
        return 0.0, 1.0
    limit = -math.log1p(-level)
    mixture = float(betaln(errors + 1, n - errors + 1))

    def outside(p: float) -> bool:
        wrong = errors * math.log(p) if errors else 0.0
        right = (n - errors) * math.log1p(-p) if n > errors else 0.0
        return mixture - wrong - right >= limit

    middle = errors / n
    return _end(outside, 0.0, middle), _end(outside, 1.0, middle)


def _end(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where `outside` turns between `far`, which may be outside, and `near`, which is not."""
    if far == near:
        return far
    for _ in range(60):
        middle = (far + near) / 2
        if outside(middle):
            far = middle
        else:
            near = middle
    return far
