"""Over seeds: the interval of a mean, and of a difference paired by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.statistics.examples import example_variance, normal_quantile, wilson


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds with its interval; `scope` is "this recipe", with one seed "this model"."""

    mean: float
    low: float
    high: float
    df: float  # of Student's t for the seeds' part; infinite with one seed
    seeds: int
    scope: str


def seeds_mean(
    values: Any, example_variance: float, level: float = 0.95, shared: float = 0.0
) -> SeedInterval:
    """Interval of one setting's mean over S seeds, judged on one test set.

    1. Two variances: s²/S over seeds, and `example_variance`, of the seeds' mean over examples,
       less `shared`, which the first holds already: what a seed does to single examples
       (`interaction`).
    2. Half-width: √(t² s²/S + z² rest), t of S − 1 degrees of freedom. One quantile for the sum,
       with Welch's degrees of freedom, is too small where s² came out small by chance: with two
       seeds it covers 84–94 %. At least one standard error of the examples.
    3. One seed cannot show how seeds differ: its interval holds the examples' variance alone, and
       speaks for this model.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    seeds = len(numbers)
    if seeds == 0:
        raise LevelheadError("no seeds: give the value of at least one")
    if not example_variance >= 0:
        raise LevelheadError(f"example variance {example_variance}: must be 0 or more")
    centre = float(numbers.mean())
    if seeds == 1:
        half, df = normal_quantile(level) * math.sqrt(example_variance), math.inf
        return SeedInterval(centre, centre - half, centre + half, df, 1, "this model")
    over_seeds = float(numbers.var(ddof=1)) / seeds
    rest = max(example_variance - shared, 0.0)
    t, z = _t_quantile(seeds - 1, level), normal_quantile(level)
    half = math.sqrt(t * t * over_seeds + z * z * rest)
    # Seeds that agree by chance (two do now and then) must not make a spread of nothing.
    half = max(half, math.sqrt(example_variance))
    return SeedInterval(centre, centre - half, centre + half, seeds - 1, seeds, "this recipe")


def interaction(rows: Tensor) -> float:
    """What seeds do to single examples, as a variance of the mean over both, from [S, N].

    Σ (x_si − x̄_s − x̄_i + x̄)² / ((S − 1)(N − 1)) / (S N): two-way analysis of variance. It
    stands whole in s²/S, and again in the variance over examples of the seeds' mean.
    """
    seeds, n = rows.shape
    if seeds < 2 or n < 2:
        return 0.0
    x = rows.double()
    own = x - x.mean(1, keepdim=True) - x.mean(0, keepdim=True) + x.mean()
    return float(own.square().sum()) / ((seeds - 1) * (n - 1)) / (seeds * n)


def widened(
    values: Any, low: float, high: float, level: float = 0.95, shared: float = 0.0
) -> SeedInterval:
    """Mean over S seeds: the examples' interval of that mean, widened by the seeds' variance.

    It is widened about its own centre, which is not the mean where a bias was corrected, and never
    narrower than it was; cut at 0.
    """
    variance = ((high - low) / 2 / normal_quantile(level)) ** 2
    interval = seeds_mean(values, variance, level, shared)
    shift = (low + high) / 2 - interval.mean
    ends = min(interval.low + shift, low), max(interval.high + shift, high)
    return replace(interval, low=max(ends[0], 0.0), high=ends[1])


def seeds_share(rows: Tensor, level: float = 0.95) -> SeedInterval:
    """A share over S seeds from [S, N] of ones and zeros: Wilson's interval, widened."""
    value, n = float(rows.double().mean()), float(rows.shape[1])
    variance = example_variance(rows)
    if len(rows) > 1 and 0 < variance < math.inf:
        # As many examples as make a share vary as much as the seeds' mean does.
        n = value * (1 - value) / variance
    ends = wilson(value * n, n, level)
    interval = widened(rows.double().mean(1), *ends, level, interaction(rows))
    return replace(interval, high=min(interval.high, 1.0))


def paired_seeds(
    per_seed_differences: Any,
    example_variance_of_seed_mean: float,
    level: float = 0.95,
    shared: float = 0.0,
) -> SeedInterval:
    """Interval of the difference of two settings: B − A seed by seed [S], on one test set.

    `example_variance_of_seed_mean` is the variance over examples of the seeds' mean difference:
    `example_variance(losses_b - losses_a)` for [S, N] per-example losses, or the variance of the
    mean over seeds of the influence of B minus that of A for other metrics. See `seeds_mean`.
    """
    return seeds_mean(per_seed_differences, example_variance_of_seed_mean, level, shared)


def _t_quantile(df: float, level: float) -> float:
    """Student's t at two-sided `level`."""
    if math.isinf(df):
        return normal_quantile(level)
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))
