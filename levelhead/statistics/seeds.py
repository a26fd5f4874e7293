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
    df: float  # of Student's t; infinite with one seed
    seeds: int
    scope: str


def seeds_mean(values: Any, example_variance: float, level: float = 0.95) -> SeedInterval:
    """Interval of one setting's mean over S seeds, judged on one test set.

    Variance s²/S over seeds plus `example_variance` (of the seeds' mean, over examples); Student's
    t with the degrees of freedom of Welch and Satterthwaite (1946), S − 1 for the first part and
    infinitely many for the second. One seed cannot show how seeds differ: its interval holds the
    examples' variance alone, and speaks for this model.
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
    total = over_seeds + example_variance
    df = math.inf if over_seeds == 0 else (total / over_seeds) ** 2 * (seeds - 1)
    half = _t_quantile(df, level) * math.sqrt(total)
    return SeedInterval(centre, centre - half, centre + half, df, seeds, "this recipe")


def widened(values: Any, low: float, high: float, level: float = 0.95) -> SeedInterval:
    """Mean over S seeds: the examples' interval of that mean, widened by the seeds' variance.

    It is widened about its own centre, which is not the mean where a bias was corrected; cut at 0.
    """
    interval = seeds_mean(values, ((high - low) / 2 / normal_quantile(level)) ** 2, level)
    shift = (low + high) / 2 - interval.mean
    return replace(interval, low=max(interval.low + shift, 0.0), high=interval.high + shift)


def seeds_share(rows: Tensor, level: float = 0.95) -> SeedInterval:
    """A share over S seeds from [S, N] of ones and zeros: Wilson's interval, widened."""
    value, n = float(rows.double().mean()), float(rows.shape[1])
    variance = example_variance(rows)
    if len(rows) > 1 and 0 < variance < math.inf:
        # As many examples as make a share vary as much as the seeds' mean does.
        n = value * (1 - value) / variance
    interval = widened(rows.double().mean(1), *wilson(value * n, n, level), level)
    return replace(interval, high=min(interval.high, 1.0))


def paired_seeds(
    per_seed_differences: Any, example_variance_of_seed_mean: float, level: float = 0.95
) -> SeedInterval:
    """Interval of the difference of two settings: B − A seed by seed [S], on one test set.

    `example_variance_of_seed_mean` is the variance over examples of the seeds' mean difference:
    `example_variance(losses_b - losses_a)` for [S, N] per-example losses, or the variance of the
    mean over seeds of the influence of B minus that of A for other metrics. See `seeds_mean`.
    """
    return seeds_mean(per_seed_differences, example_variance_of_seed_mean, level)


def _t_quantile(df: float, level: float) -> float:
    """Student's t at two-sided `level`."""
    if math.isinf(df):
        return normal_quantile(level)
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))
