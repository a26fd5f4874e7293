"""Intervals: how much a number from N examples, or from S seeds, can be off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.metrics.ece import Binned
from levelhead.metrics.metric import Metric

ANALYTIC = 100_000
"""Above so many examples a mean's interval is mean ± z · deviation/√n: a bootstrap agrees."""


@dataclass(frozen=True)
class Interval:
    """The ends of an interval and how they were found."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds with its interval; `scope` is "this recipe", with one seed "this model"."""

    mean: float
    low: float
    high: float
    df: float  # of Student's t; infinite with one seed
    seeds: int
    scope: str


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
    block = max(1, (1 << 21) // n)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=draw)
        drawn += torch.arange(rows)[:, None] * n
        yield torch.bincount(drawn.flatten(), minlength=rows * n).view(rows, n).double()


def replicates(
    metric: Metric, prepared: Sequence[Any], resamples: int = 1000, seed: int = 0
) -> Tensor:
    """Bootstrap values of one metric for several sources on the same N examples, [M, resamples].

    `prepared` holds what `metric.prepare` gave for each source (settings, seeds).
    """
    means = [p for p in prepared if isinstance(p, Tensor)]
    n = len(prepared[0] if means else prepared[0].index)
    found = []
    for block in weights(n, resamples, seed):
        if means:
            found.append((block @ torch.stack(means, 1) / n).T)
        else:
            values = [[metric.value(p, row)[metric.name] for row in block] for p in prepared]
            found.append(torch.tensor(values, dtype=torch.float64))
    return torch.cat(found, 1)


def bootstrap(
    prepared: Any, metric: Metric, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of `metric` over examples by re-weighting (Efron 1979)."""
    return percentiles(replicates(metric, [prepared], resamples, seed)[0], level)


def percentiles(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of some values [R]."""
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def mean_interval(
    values: Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Interval of the mean of per-example values [N]: bootstrap, analytic above 100,000."""
    n, values = len(values), values.double()
    if n > ANALYTIC:
        centre, half = (
            float(values.mean()),
            normal_quantile(level) * math.sqrt(example_variance(values)),
        )
        return Interval(centre - half, centre + half, "normal")
    drawn = torch.cat([block @ values / n for block in weights(n, resamples, seed)])
    return Interval(*percentiles(drawn, level), "bootstrap percentile")


def interval(
    metric: Metric, prepared: Any, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The interval that belongs to the metric (its field `interval`)."""
    if metric.interval == "wilson":
        return Interval(*wilson(float(prepared.sum()), len(prepared), level), "wilson")
    if metric.interval == "ece":
        found = ece_interval(prepared, level, resamples, seed)
        return Interval(*found, "bias-corrected by simulation, cut at 0")
    if isinstance(prepared, Tensor):
        return mean_interval(prepared, level, resamples, seed)
    found = bootstrap(prepared, metric, resamples, seed, level)
    return Interval(*found, "bootstrap percentile")


def ece_interval(
    prepared: Binned, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval for the population's binned calibration error, cut at 0.

    The plug-in error of a finite sample lies above the population's, most where the model is well
    calibrated, so a percentile bootstrap never covers 0. Instead a hypothesis test is inverted:
    a true error t stays in the interval unless the plug-in error x that was seen is extreme among
    those of `resamples` simulated samples of a population whose error is t. That population has
    the bins, their shares and mean confidences seen, and an accuracy in bin b of confidence − δ_b,
    with δ on the path from none to beyond the gaps D_b seen (soft thresholding, s_b the standard
    error of D_b): |δ_b| = max(0, |D_b| − λ s_b), so that gaps no larger than noise go first and
    large ones keep their size. Counts are multinomial, successes binomial; at t = 0 this is the
    consistency test of Bröcker and Smith (2007). Of the error probability, all goes against
    t = 0 from above at t = 0 (0 is covered in 95 %, not 97.5 %), half to either side from two
    standard deviations on, linear in between.

    Coverage seen at level 0.95 (ten simulated worlds, n = 200, 1,000 and 10,000, 400 data sets a
    cell, so ± 1 point): 94–97 % where the model is calibrated, 92–98 % where it is over- or
    underconfident, lowest where the error is slight (92 % at 10,000) or sits in one bin (93 %; 91 %
    at n = 200 in a second run). Neglected: the spread of confidence within a bin, and any error
    that the bins average out, which no binned figure can see.
    """
    seen = prepared.bins.count.numpy() > 0
    count = prepared.bins.count.numpy()[seen]
    sure = prepared.bins.confidence.numpy()[seen]
    n, share = float(count.sum()), count / count.sum()
    right = prepared.bins.accuracy.numpy()[seen] * count
    gap = sure * share - right / n  # D_b, in units of the error
    shrunk = (right + 2) / (count + 4)  # never 0 or 1, else the path could not leave there
    noise = np.sqrt(shrunk * (1 - shrunk) * count) / n
    sign = np.where(gap >= 0, 1.0, -1.0)
    room = np.where(sign > 0, sure, 1 - sure) * share  # an accuracy stays within [0, 1]
    x, alpha = float(np.abs(gap).sum()), 1 - level

    def size(lam: float) -> float:
        return float(np.minimum(np.maximum(np.abs(gap) - lam * noise, 0), room).sum())

    def tails(lam: float) -> tuple[bool, bool]:
        """Whether t(λ) survives: x not too large for it, x not too small for it."""
        delta = sign * np.minimum(np.maximum(np.abs(gap) - lam * noise, 0), room)
        t = float(np.abs(delta).sum())
        draw = np.random.default_rng(seed)
        counts = draw.multinomial(int(n), share, size=resamples)
        hits = draw.binomial(counts, np.clip(sure - delta / share, 0, 1))
        errors = np.abs(counts * sure - hits).sum(1) / n
        upper = alpha * (1 - min(0.5, t / (4 * errors.std() + 1e-300)))
        return (
            float((errors >= x - 1e-12).mean()) > upper,
            float((errors <= x + 1e-12).mean()) >= alpha - upper,
        )

    calm = float((np.abs(gap) / noise).max())  # from this λ on, δ = 0
    low, high = 0.0, 0.0
    if not tails(calm)[0]:
        inside, outside = 0.0, 1.0
        while outside < calm and tails(outside)[0]:
            inside, outside = outside, 2 * outside
        low = size(_edge(lambda lam: tails(lam)[0], inside, min(outside, calm)))
    # The largest λ that survives from below starts at 0 or, where the bias is large, above it.
    inside, outside = 0.0, -1.0
    if tails(0.0)[1]:
        while outside > -1000 and tails(outside)[1]:
            inside, outside = outside, 2 * outside
    else:
        inside, outside = 1.0, 0.0
        while inside < calm and not tails(inside)[1]:
            inside, outside = 2 * inside, inside
        inside = min(inside, calm)
    high = size(_edge(lambda lam: tails(lam)[1], inside, outside))
    return low, max(low, high)


def _edge(holds: Any, inside: float, outside: float) -> float:
    """Bisect to where `holds` changes between a λ where it holds and one where it does not."""
    for _ in range(10):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return (inside + outside) / 2


def example_variance(values: Tensor) -> float:
    """Variance of the mean over examples, from the last axis of [N] or [S, N].

    With seeds (or their paired differences) in front, of the mean over seeds and examples: what
    another test set of this size would change.
    """
    per_example = values.double().reshape(-1, values.shape[-1]).mean(0)
    n = len(per_example)
    return float(per_example.var(correction=1)) / n if n > 1 else math.inf


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


def paired_seeds(
    per_seed_differences: Any, example_variance_of_seed_mean: float, level: float = 0.95
) -> SeedInterval:
    """Interval of the difference of two settings: B − A seed by seed [S], on one test set.

    `example_variance_of_seed_mean` is the variance over examples of the seeds' mean difference:
    `example_variance(losses_b - losses_a)` for [S, N] per-example losses, or the variance of the
    mean over seeds of `replicates(B) - replicates(A)` for other metrics. See `seeds_mean`.
    """
    return seeds_mean(per_seed_differences, example_variance_of_seed_mean, level)


def _t_quantile(df: float, level: float) -> float:
    """Student's t at two-sided `level`."""
    if math.isinf(df):
        return normal_quantile(level)
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))
