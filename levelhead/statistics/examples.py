"""Intervals: how much a number from N examples, or from S seeds, can be off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from levelhead.errors import LevelheadError

ANALYTIC = 100_000
"""Above so many examples an interval is value ± z · deviation of the influence/√n: a bootstrap
agrees."""
CORRECTED = 20_000
"""Up to so many examples a bootstrap's interval is corrected for bias and skewness (BCa)."""
CHANCE = 0.8
"""The power of `examples_needed`: how often so many examples would show what is there."""


@dataclass(frozen=True)
class Interval:
    """The ends of an interval and how they were found."""

    low: float
    high: float
    method: str


def normal_quantile(level: float) -> float:
    """z of a two-sided interval: 1.96 for 0.95."""
    if not 0 < level < 1:
        raise LevelheadError(f"level {level}: must be between 0 and 1, for example 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(k: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share k of n (Wilson 1927); stays inside [0, 1] at k = 0 and k = n."""
    z = normal_quantile(level)
    if not 0 <= k <= n or n <= 0:
        raise LevelheadError(f"a share of {k} in {n}: needs 0 <= k <= n and n above 0")
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (max(0.0, centre - half) if k else 0.0), (min(1.0, centre + half) if k < n else 1.0)


def weights(n: int, resamples: int = 1000, seed: int = 0) -> Iterator[Tensor]:
    """Multinomial bootstrap weights, float64 blocks [r, n] of `resamples` rows in all.

    Row r says how often each example was drawn; the same seed gives the same draws to every
    metric and model, which makes their differences paired.
    """
    draw = torch.Generator().manual_seed(seed)
    block = max(1, (1 << 18) // n)  # stays in the processor's cache
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=draw)
        drawn += torch.arange(rows)[:, None] * n
        yield torch.bincount(drawn.flatten(), minlength=rows * n).view(rows, n).double()


def bootstrap_interval(
    drawn: Tensor, value: float, influence: Tensor, level: float = 0.95
) -> Interval:
    """The interval of `value` from its bootstrap values `drawn` [R] and influence values [N].

    BCa (Efron 1987) up to 20,000 examples: percentiles moved by the bias z₀ = Φ⁻¹(share of drawn
    values below `value`, half of those equal) and the acceleration a = Σ L³ / 6 (Σ L²)^1.5.
    Percentiles above.
    """
    tail = (1 - level) / 2
    if len(influence) > CORRECTED:
        return Interval(*percentiles(drawn, level), "bootstrap percentile")
    normal, near = NormalDist(), 1e-12 * max(1.0, abs(value))
    below = float((drawn < value - near).double().mean() + (drawn <= value + near).double().mean())
    edge = 0.5 / len(drawn)
    bias = normal.inv_cdf(min(max(below / 2, edge), 1 - edge))
    spread = float(influence.square().sum())
    skew = float(influence.pow(3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = []
    for z in (normal.inv_cdf(tail), normal.inv_cdf(1 - tail)):
        slope = 1 - skew * (bias + z)
        moved = bias + (bias + z) / slope if slope > 0 else math.copysign(9, z)
        tails.append(normal.cdf(moved))
    low, high = torch.quantile(drawn, torch.tensor(tails, dtype=drawn.dtype)).tolist()
    return Interval(low, high, "bootstrap BCa")


def normal_interval(value: float, influence: Tensor, level: float = 0.95) -> Interval:
    """`value` ± z · √(Σ L²)/N of its influence values L [N] (infinitesimal jackknife)."""
    half = normal_quantile(level) * math.sqrt(example_variance(influence))
    return Interval(value - half, value + half, "normal")


def percentiles(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of some values [R]."""
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def mean_interval(
    values: Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Interval of the mean of per-example values [N]: bootstrap, analytic above 100,000."""
    values = values.double()
    mean, n = float(values.mean()), len(values)
    if n > ANALYTIC:
        return normal_interval(mean, values - mean, level)
    drawn = torch.cat([block @ values / n for block in weights(n, resamples, seed)])
    return bootstrap_interval(drawn, mean, values - mean, level)


def examples_needed(mean: float, deviation: float, level: float = 0.95) -> int | None:
    """How many examples show in 80 % of samples that a mean is not 0, at this level.

    From the mean (say of paired differences of two models) and the standard deviation over
    examples: ((z_level + z_0.8) deviation / mean)². None where the mean is 0.
    """
    if mean == 0:
        return None
    needed = ((normal_quantile(level) + NormalDist().inv_cdf(CHANCE)) * deviation / mean) ** 2
    return max(2, math.ceil(needed))


def example_variance(values: Tensor) -> float:
    """Variance of the mean over examples, from the last axis of [N] or [S, N].

    With seeds (or their paired differences) in front, of the mean over seeds and examples: what
    another test set of this size would change.
    """
    per_example = values.double().reshape(-1, values.shape[-1]).mean(0)
    n = len(per_example)
    return float(per_example.var(correction=1)) / n if n > 1 else math.inf
