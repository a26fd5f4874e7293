"""Two samples compared by many statistics at once, exactly: one set of permutations for all.

Each statistic is turned into its permutation p-value, the least of them is compared with the least
of every permutation (Westfall and Young 1993, single-step min-p): where the two samples come from
one source, the chance of any adjusted p-value <= α is at most α, however the statistics depend on
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Statistic = Callable[[Array], Array]
"""Weights [B, N], which are 1/n in the first sample and −1/m in the second: a value each, [B]."""


def adjusted(
    statistics: Mapping[str, Statistic], n: int, m: int, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """p-value of each statistic, adjusted for all of them; large values speak for a difference.

    The pooled sample has the n examples of the first in front of the m of the second. The smallest
    value possible is 1 / (draws + 1).
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((draws + 1, n + m))
    plain = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    weights[0] = plain
    for row in weights[1:]:
        row[:] = rng.permutation(plain)
    values = np.stack([statistic(weights) for statistic in statistics.values()], 1)
    p = np.stack([_ranks(column) for column in values.T], 1)
    least = np.sort(p.min(1))
    within = np.searchsorted(least, p[0] * (1 + 1e-12), side="right") / (draws + 1)
    return dict(zip(statistics, within.tolist(), strict=True))


def _ranks(values: Array) -> Array:
    """Share of the values that are at least each, float64 [B].

    What rounding alone parts is equal: of discrete statistics the sample as it is would else come
    before permutations that have the same value, as its sum is formed in another order.
    """
    rounded = np.round(values, min(10 - _magnitude(values), 12))
    order = np.sort(rounded)
    return np.asarray(len(values) - np.searchsorted(order, rounded, side="left")) / len(values)


def _magnitude(values: Array) -> int:
    """The power of ten of the largest value."""
    most = float(np.abs(values).max())
    return int(np.ceil(np.log10(most))) if most > 0 else 0


def kolmogorov_smirnov(column: Array) -> Statistic:
    """The largest distance of the two distribution functions of a column [N]."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of equal values

    def value(weights: Array) -> Array:
        return np.asarray(np.abs(np.cumsum(weights[:, order], axis=1)[:, last]).max(1))

    return value


def shares_apart(places: Array, k: int) -> Statistic:
    """How far the shares of k kinds are apart, each by its pooled share (χ² but for a factor)."""
    counts = np.eye(k)[places]
    pooled = counts.mean(0)
    used = pooled > 0

    def value(weights: Array) -> Array:
        return np.asarray(((weights @ counts)[:, used] ** 2 / pooled[used]).sum(1))

    return value


def mean_discrepancy(rows: Array) -> Statistic:
    """Maximum mean discrepancy of rows [N, D] (Gretton et al. 2012).

    A Gaussian kernel, as wide as the median distance.
    """
    x = rows - rows.mean(0, dtype=np.float64)
    squares = (x * x).sum(1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * (x @ x.T), 0)
    above = apart[np.triu_indices(len(x), 1)]
    width = float(np.median(above)) if len(above) else 1.0
    kernel = np.exp(-apart / (2 * width if width > 0 else 1.0))

    def value(weights: Array) -> Array:
        return np.asarray(((weights @ kernel) * weights).sum(1))

    return value
