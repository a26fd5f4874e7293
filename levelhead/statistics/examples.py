"""Intervals: how much a number from N examples can be off.

Examples that belong together (frames of one video, photos of one patient) are no independent draws.
`units` int64 [N] says which unit each example belongs to; then units are what is resampled, and
what is counted. None: every example is a unit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError

ANALYTIC = 100_000
"""Above so many examples an interval is value ± z · deviation of the influence/√n: a bootstrap
agrees."""
CORRECTED = 20_000
"""Up to so many units a bootstrap is studentised: beyond, skewness no longer shows."""
FEW_ERRORS = 10
"""Fewer wrong answers are said to be few."""
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
    """Score interval of a share k of n (Wilson 1927); stays inside [0, 1] at k = 0 and k = n.

    Up to 3 from either end (2 where n ≤ 50) the end there is a Poisson law's: Wilson's holds the
    truth in 84 to 89 % where one error of many is seen. Source: Brown, Cai & DasGupta 2001, the
    modified Wilson interval.
    """
    # scipy's binomtest takes whole counts, and so no effective sizes; it has not the Poisson ends.
    z = normal_quantile(level)
    if not 0 <= k <= n or n <= 0:
        raise LevelheadError(f"a share of {k} in {n}: needs 0 <= k <= n and n above 0")
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    low, high = max(0.0, centre - half) if k else 0.0, min(1.0, centre + half) if k < n else 1.0
    few = 2 if n <= 50 else 3
    if 0 < k <= few:
        low = min(low, _poisson(k, level) / n)
    if 0 < n - k <= few:
        high = max(high, 1 - _poisson(n - k, level) / n)
    return low, high


def _poisson(k: float, level: float) -> float:
    """The λ of a Poisson law under which k or more has the probability 1 − level."""
    from scipy.special import gammaincinv

    return float(gammaincinv(k, 1 - level))


def clopper_pearson(k: Any, n: Any, level: float = 0.95) -> tuple[Any, Any]:
    """Exact two-sided interval of a share k of n, arrays of one shape (Clopper, Pearson 1934)."""
    tail = (1 - level) / 2
    return 1 - upper_bound(np.subtract(n, k), n, tail), upper_bound(k, n, tail)


def upper_bound(k: Any, n: Any, delta: float) -> Any:
    """Clopper–Pearson's one-sided bound: the share p with P(Binomial(n, p) <= k) = delta."""
    from scipy.special import betainccinv

    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    bounds = betainccinv(k + 1, np.maximum(n - k, 1e-300), delta)
    return np.where(k >= n, 1.0, bounds)


def count_units(n: int, units: Tensor | None) -> int:
    """How many independent units n examples are."""
    return n if units is None else int(units.max()) + 1


def by_unit(values: Tensor, units: Tensor | None) -> Tensor:
    """What each unit adds to the mean of values [..., N]: [..., G], with the same mean.

    G/N Σ (value − mean) + mean over the unit's examples: the influence of a unit on a mean over
    examples, whose number varies with the units drawn.
    """
    if units is None:
        return values
    values = values.double()
    mean, groups = values.mean(-1, keepdim=True), count_units(len(units), units)
    start = values.new_zeros(*values.shape[:-1], groups)
    total: Tensor = start.index_add(-1, units, values - mean)
    return total * (groups / len(units)) + mean


def small_sample(level: float, units: int) -> float:
    """The level whose normal quantile is Student's t of `units` − 1 at `level`.

    √(u/(u − 1)) t: what percentiles of a bootstrap of u units lack (Hesterberg 2015, section 5.3).
    """
    from scipy.special import stdtrit

    units = max(units, 2)
    t = float(stdtrit(units - 1, (1 + level) / 2)) * math.sqrt(units / (units - 1))
    return min(2 * NormalDist().cdf(t) - 1, 1 - 1e-12)


def effective_size(values: Tensor, units: Tensor | None) -> float:
    """How many independent examples tell as much of the mean of values [N] as these do.

    N / design effect (Kish 1965): the variance of the mean with units over that without. At least
    N²/Σ m², as if a unit of m were one example said m times; at most N.
    """
    n = len(values)
    if units is None:
        return float(n)
    sizes = torch.bincount(units).double()
    least = n * n / float(sizes.square().sum())
    together = example_variance(values, units)
    if not 0 < together < math.inf:
        return least
    return min(max(n * example_variance(values) / together, least), float(n))


def share_interval(
    hits: Tensor, level: float = 0.95, units: Tensor | None = None
) -> tuple[float, float]:
    """Wilson's interval of the share of ones in hits [N]; with units, at their effective size."""
    n, size = len(hits), effective_size(hits, units)
    if units is not None:
        level = small_sample(level, count_units(n, units))
    return wilson(min(float(hits.sum()) / n, 1.0) * size, size, level)


def weights(
    n: int, resamples: int = 1000, seed: int = 0, units: Tensor | None = None
) -> Iterator[Tensor]:
    """Multinomial bootstrap weights, float64 blocks [r, n] of `resamples` rows in all.

    Row r says how often each example (with its unit) was drawn; the same seed gives the same draws
    to every metric and model, which makes their differences paired.
    """
    # scipy.stats.bootstrap (BCa) resamples one statistic: no draws shared by metrics, no weights
    # in place of indices, no units.
    draw = torch.Generator().manual_seed(seed)
    block = max(1, (1 << 18) // n)  # stays in the processor's cache
    groups = count_units(n, units)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(groups, (rows, groups), generator=draw)
        drawn += torch.arange(rows)[:, None] * groups
        often = torch.bincount(drawn.flatten(), minlength=rows * groups).view(rows, groups).double()
        yield often if units is None else often[:, units]


@dataclass(frozen=True, eq=False)
class Resampled:
    """A number of examples under bootstrap weights: its values and their own deviations, [R]."""

    values: Tensor
    deviations: Tensor


def deviations(block: Tensor, influence: Tensor, units: Tensor | None = None) -> Tensor:
    """Deviation of a number in each resample, [r], by its influence values [N], up to a constant.

    √(Σ_g w_g L_g² / G − (Σ_g w_g L_g / G)²) / √G over the G units, of the weights `block` [r, N].
    """
    centred = influence.double() - influence.double().mean()
    groups = count_units(len(influence), units)
    if units is None:
        columns = torch.stack([centred, centred.square()], 1)
    else:
        total = by_unit(centred, units)
        size = torch.bincount(units).double()
        each = (total.square() / size)[units]
        columns = torch.stack([centred * (groups / len(influence)), each], 1)
    first, second = (block @ columns / groups).T
    variance: Tensor = (second - first.square()).clamp(min=0) / groups
    return variance.sqrt()


def bootstrap_interval(
    drawn: Resampled,
    value: float,
    influence: Tensor,
    level: float = 0.95,
    units: Tensor | None = None,
) -> Interval:
    """The interval of `value` from its bootstrap and its influence values [N].

    Up to 20,000 units bootstrap-t (Efron & Tibshirani 1993, chapter 12): value − t s, t the
    quantiles of (drawn − value) over the resample's own deviation, s the deviation of the value.
    A resample that missed the rare large losses has next to no deviation; it counts as s/4 at
    least. Percentiles above.
    """
    count = count_units(len(influence), units)
    if count > CORRECTED:
        return Interval(*percentiles(drawn.values, level), "bootstrap percentile")
    own = math.sqrt(example_variance(influence, units)) if count > 1 else 0.0
    if own == 0:
        return Interval(*percentiles(drawn.values, level), "bootstrap percentile")
    t = (drawn.values - value) / drawn.deviations.clamp(min=own / 4)
    low, high = percentiles(t, level)
    return Interval(value - high * own, value - low * own, "bootstrap-t")


def normal_interval(
    value: float, influence: Tensor, level: float = 0.95, units: Tensor | None = None
) -> Interval:
    """`value` ± z · √(Σ L²)/N of its influence values L [N] (infinitesimal jackknife)."""
    level = small_sample(level, count_units(len(influence), units))
    half = normal_quantile(level) * math.sqrt(example_variance(influence, units))
    return Interval(value - half, value + half, "normal")


def percentiles(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of some values [R]."""
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def mean_interval(
    values: Tensor,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    units: Tensor | None = None,
) -> Interval:
    """Interval of the mean of per-example values [N]: bootstrap, analytic above 100,000."""
    values = values.double()
    mean, n = float(values.mean()), len(values)
    if n > ANALYTIC:
        return normal_interval(mean, values - mean, level, units)
    means, spreads = [], []
    for block in weights(n, resamples, seed, units):
        means.append(block @ values / block.sum(1))
        spreads.append(deviations(block, values, units))
    drawn = Resampled(torch.cat(means), torch.cat(spreads))
    return bootstrap_interval(drawn, mean, values, level, units)


def with_unseen_errors(
    interval: Interval,
    value: float,
    correct: Tensor,
    cost: float,
    level: float = 0.95,
    units: Tensor | None = None,
) -> Interval:
    """The interval of a mean loss, reaching up to what rare errors would add.

    Where few answers are wrong, a sample holds too few of the largest losses (or none), and no
    resampling of it shows them. The upper end is at least value + (w − e) · cost: e the share of
    errors seen, w Wilson's upper end of it, and `cost` the mean loss of a wrong answer, by the
    model's own odds of which answers are wrong.
    """
    seen = 1 - float(correct.mean())
    more = share_interval(1 - correct, level, units)[1] - seen
    if not (cost > 0 and math.isfinite(cost)):
        return interval
    high = max(interval.high, value + more * cost)
    return Interval(interval.low, high, interval.method)


def examples_needed(mean: float, deviation: float, level: float = 0.95) -> int | None:
    """How many examples show in 80 % of samples that a mean is not 0, at this level.

    From the mean (say of paired differences of two models) and the standard deviation over
    examples: ((z_level + z_0.8) deviation / mean)². None where the mean is 0.
    """
    if mean == 0:
        return None
    needed = ((normal_quantile(level) + NormalDist().inv_cdf(CHANCE)) * deviation / mean) ** 2
    return max(2, two_digits(needed))


def two_digits(number: float) -> int:
    """A count rounded up to two digits: what is planned with need not be exact."""
    unit = int(10 ** max(0, math.floor(math.log10(max(number, 1))) - 1))
    return math.ceil(number / unit) * unit


def example_variance(values: Tensor, units: Tensor | None = None) -> float:
    """Variance of the mean over examples, from the last axis of [N] or [S, N].

    With seeds (or their paired differences) in front, of the mean over seeds and examples: what
    another test set of this size would change.
    """
    per_example = by_unit(values.double().reshape(-1, values.shape[-1]).mean(0), units)
    n = len(per_example)
    return float(per_example.var(correction=1)) / n if n > 1 else math.inf
