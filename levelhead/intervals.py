"""Intervals: how much a number from N examples, or from S seeds, can be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
"""Up to so many examples a bootstrap's interval is corrected for bias and skewness (BCa)."""
CHANCE = 0.8
"""The power of `examples_needed`: how often so many examples would show what is there."""

_DRAWS = 200_000  # cells × resamples of one simulation
_FEW = 300  # with fewer resamples tails are a normal's


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


@dataclass(frozen=True, eq=False)
class Cells:
    """Examples in C cells that share a probability each, NumPy arrays [C].

    A cell's accuracy strays from its confidence by what its `bin` strays. Outcomes are 0 or 1,
    or have the given `variance` within a cell. `pattern` is a better guess than the residuals of
    how the population strays, in their unit.
    """

    count: np.ndarray  # examples
    confidence: np.ndarray  # their mean probability
    hits: np.ndarray  # how many of them came true
    bin: np.ndarray  # int, from 0
    variance: np.ndarray | None = None
    pattern: np.ndarray | None = None

    @property
    def residual(self) -> np.ndarray:
        """count · confidence − hits, [C]."""
        return np.asarray(self.count * self.confidence - self.hits)


Error = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A calibration error [..] of residuals and counts of cells, [.., C] each."""


def absolute_error(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Σ |residual| / Σ count: the expected calibration error of cells that are bins."""
    return np.asarray(np.abs(residual).sum(-1) / count.sum(-1))


class _World:
    """Populations whose cells stray from calibration by given gaps, and samples of them.

    Gaps, noise and sizes are in units of the error: share · (confidence − accuracy).
    """

    def __init__(self, cells: Cells, error: Error, resamples: int, seed: int, n: int | None = None):
        self.cells, self.error, self.seed = cells, error, seed
        total = float(cells.count.sum())
        self.share = np.maximum(cells.count / total, 1e-300)
        self.gap = (cells.residual if cells.pattern is None else cells.pattern) / total
        self.resamples = min(resamples, max(64, _DRAWS // len(cells.count)))
        draw = np.random.default_rng(seed)
        self.moved = draw.multinomial(n or round(total), cells.count / total, size=self.resamples)
        # Sparse cells would merge, and show less error, if their counts were drawn anew.
        self.count = self.moved if n else np.round(cells.count).astype(np.int64)
        self.noise = self._noise(cells.count, cells.hits, cells.variance) / total
        count, hits = (np.bincount(cells.bin, values) for values in (cells.count, cells.hits))
        noise = cells.variance
        if noise is not None:
            noise = np.bincount(cells.bin, noise * cells.count) / np.maximum(count, 1)
        self.bin_noise = self._noise(count, hits, noise) / total
        self.bin_gap = np.bincount(cells.bin, self.gap)
        self.part = self.share / np.bincount(cells.bin, self.share)[cells.bin]
        self.excess = self.gap - self.part * self.bin_gap[cells.bin]
        self.rare = math.sqrt(2 * math.log(len(cells.count) + 1))  # noise's largest in C cells
        ratios = np.abs(self.bin_gap) / self.bin_noise, np.abs(self.excess) / self.noise - self.rare
        self.calm = max(0.0, *(float(r.max()) for r in ratios)) + 1e-9  # from here on, no gaps

    @staticmethod
    def _noise(count: np.ndarray, hits: np.ndarray, variance: np.ndarray | None) -> np.ndarray:
        if variance is None:
            rate = (hits + 2) / (count + 4)  # never 0 or 1, else no path could leave there
            variance = rate * (1 - rate)
        return np.asarray(np.sqrt(np.maximum(variance * count, 1e-12)))

    def path(self, lam: float, side: int = 0, other: float = 0.0) -> np.ndarray:
        """Gaps of the cells: the seen ones, λ noises smaller; see `calibration_interval`."""
        gap, noise = self.bin_gap, self.bin_noise
        if side:
            toward = side * gap
            kept = np.minimum(toward + other * noise, 0)
            pooled = side * np.maximum(toward - lam * noise, kept)
        else:
            pooled = np.where(gap >= 0, 1.0, -1.0) * np.maximum(np.abs(gap) - lam * noise, 0)
        own = np.abs(self.excess) - max(self.rare + lam, 0) * self.noise
        own = np.sign(self.excess) * np.maximum(own, 0)
        pooled = pooled - np.bincount(self.cells.bin, own)  # a bin's gap stays what it is
        return np.asarray(self.part * pooled[self.cells.bin] + own)

    def stray(self, gap: np.ndarray) -> np.ndarray:
        """confidence − accuracy of the cells; an accuracy stays within 0 and 1."""
        stray, sure = gap / self.share, self.cells.confidence
        binary = self.cells.variance is None
        return np.asarray(np.clip(stray, sure - 1, sure) if binary else stray)

    def size(self, gap: np.ndarray) -> float:
        """The error of that population."""
        return float(self.error(self.stray(gap) * self.cells.count, self.cells.count))

    def drawn(self, gap: np.ndarray) -> np.ndarray:
        """The errors seen in samples of it, [resamples]; the draws are the same for every gap."""
        draw, stray = np.random.default_rng(self.seed + 1), self.stray(gap)
        shape = (self.resamples, len(stray))
        sure, variance = self.cells.confidence, self.cells.variance
        if variance is None:
            hits = draw.binomial(self.count, np.clip(sure - stray, 0, 1), size=shape)
            residual = self.count * sure - hits
        else:
            noise = np.sqrt(self.count * variance) * draw.standard_normal(shape)
            residual = self.count * stray + noise
        errors = self.error(residual, np.broadcast_to(self.count, shape))
        if self.count is self.moved or not stray.any():
            return np.asarray(errors)
        # What other counts would change, without the noise.
        return np.asarray(errors + self.error(stray * self.moved, self.moved) - self.size(gap))

    def quantile(self, errors: np.ndarray, p: float) -> float:
        """Of the errors, or where they are few (then of many cells) of their normal."""
        if self.resamples >= _FEW or not 0 < p < 1:
            return float(np.quantile(errors, p))
        return float(errors.mean() + NormalDist().inv_cdf(p) * errors.std())


def calibration_interval(
    cells: Cells,
    error: Error = absolute_error,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    side: int = 0,
) -> tuple[float, float]:
    """Interval for a calibration error of the population, cut at 0.

    The plug-in error of a finite sample lies above the population's, most where the model is well
    calibrated, so a percentile bootstrap never covers 0. Instead a hypothesis test is inverted:
    a true error t stays in the interval unless the plug-in error x that was seen is extreme among
    those of `resamples` simulated samples of a population whose error is t. That population has
    the cells, their counts and mean confidences seen, and in bin b a gap on the path from none to
    beyond the gap D_b seen (soft thresholding, s_b its standard error): |δ_b| = max(0, |D_b| − λ
    s_b), so that gaps no larger than noise go first and large ones keep their size. A bin's cells
    share its gap; a cell that strays from its bin by more than √(2 log cells) of its standard
    errors keeps the rest, less λ. For an error that counts gaps of one `side` alone (+1: confidence
    above accuracy, −1), these are D_b − λ s_b, and those of the other side stay as seen (where t
    may be too small, two standard errors nearer to 0).

    Outcomes are binomial at the counts seen; other counts change an error by as much as they change
    that without noise. At t = 0 this is the consistency test of Bröcker and Smith (2007). Of the
    error probability, all goes against t = 0 from above at t = 0 (0 is covered in 95 %, not
    97.5 %), half to either side from two standard deviations on, linear in between. Above 200 cells
    the resamples are fewer (200,000 / cells, at least 64), and below 300 of them their quantiles a
    normal's. Coverage: benchmarks/interval_coverage.py. Neglected: any error that the bins average
    out, which no binned figure can see.
    """
    world, alpha = _World(cells, error, resamples, seed), 1 - level
    x = float(error(cells.residual, cells.count))

    def path(lam: float, tail: int) -> np.ndarray:
        return world.path(lam, side, 2.0 if tail > 0 else 0.0)

    def margin(lam: float, tail: int) -> float:
        """How far x is from being too large (tail +1) or too small (−1) for t(λ); < 0: it is."""
        errors = world.drawn(path(lam, tail))
        t, deviation = world.size(path(lam, tail)), float(errors.std())
        upper = alpha * (1 - min(0.5, t / (4 * deviation + 1e-300)))
        p = 1 - upper if tail > 0 else alpha - upper
        return tail * (world.quantile(errors, p) - x) + 1e-12 * max(1.0, x)

    low = 0.0
    if margin(world.calm, 1) < 0:
        edge = _edge(lambda lam: margin(lam, 1), 0.0, 1.0, world.calm)
        low = world.size(path(edge, 1))
    # The largest t that survives: λ < 0 or, where the bias is large, above.
    at_seen = margin(0.0, -1)
    start, step, end = (0.0, -1.0, -1000.0) if at_seen >= 0 else (world.calm, 0.0, 0.0)
    high = world.size(path(_edge(lambda lam: margin(lam, -1), start, step, end), -1))
    return low, max(low, high)


def _edge(margin: Callable[[float], float], inside: float, outside: float, end: float) -> float:
    """Where `margin` changes its sign: step out until it is below 0, then four false positions.

    `inside` has a margin of 0 or more; steps double from there over `outside` to `end` at most.
    """
    above = max(margin(inside), 0.0)
    while (below := margin(outside)) >= 0 and abs(outside) < abs(end):
        inside, above = outside, below
        outside = min(2 * outside, end, key=abs)
    if below >= 0:
        return outside
    for _ in range(4):
        share = min(max(above / (above - below), 0.25), 0.75)
        middle = inside + share * (outside - inside)
        if (found := margin(middle)) >= 0:
            inside, above, below = middle, found, below / 2  # Illinois: the kept end counts less
        else:
            outside, below, above = middle, found, above / 2
    return (inside + outside) / 2


def consistency(
    cells: Cells, error: Error = absolute_error, resamples: int = 1000, seed: int = 0
) -> float:
    """p-value of perfect calibration: consistency resampling (Bröcker & Smith 2007).

    (1 + how many samples of a calibrated model show an error as large as was seen) / (1 +
    resamples). A small p says that the model is not calibrated, a large one that these examples
    cannot tell.
    """
    world = _World(cells, error, resamples, seed)
    x = float(error(cells.residual, cells.count))
    drawn = world.drawn(0 * world.gap)
    return (1 + int((drawn >= x - 1e-12 * max(1.0, x)).sum())) / (1 + len(drawn))


def examples_needed(mean: float, deviation: float, level: float = 0.95) -> int | None:
    """How many examples show in 80 % of samples that a mean is not 0, at this level.

    From the mean (say of paired differences of two models) and the standard deviation over
    examples: ((z_level + z_0.8) deviation / mean)². None where the mean is 0.
    """
    if mean == 0:
        return None
    needed = ((normal_quantile(level) + NormalDist().inv_cdf(CHANCE)) * deviation / mean) ** 2
    return max(2, math.ceil(needed))


def examples_needed_for_calibration(
    cells: Cells,
    error: Error = absolute_error,
    level: float = 0.95,
    resamples: int = 300,
    seed: int = 0,
) -> int | None:
    """How many examples show in 80 % of samples that a model is not calibrated, at this level.

    If the population's gaps were those seen, shrunk by the share of Σ D² that noise explains
    (positive-part James and Stein 1961): the smallest n, to 2 digits, at which `consistency`
    would reject. None where noise explains all, or where a thousand million would not do.
    """
    world = _World(cells, error, 1, seed)
    squares = float((world.bin_gap**2).sum())
    if squares == 0 or (kept := 1 - float((world.bin_noise**2).sum()) / squares) <= 0:
        return None
    gap = kept * world.part * world.bin_gap[cells.bin]

    def rejects(n: int) -> bool:
        there = _World(cells, error, resamples, seed, n)
        calm, strays = there.drawn(0 * gap), there.drawn(gap)
        return float((strays > np.quantile(calm, level)).mean()) >= CHANCE

    low, high = math.log(4.0), math.log(1e9)
    if not rejects(round(math.exp(high))):
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if rejects(round(math.exp(middle))) else (middle, high)
    n = math.exp(high)
    unit = int(10 ** max(0, math.floor(math.log10(n)) - 1))
    return math.ceil(n / unit) * unit


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


def widened(values: Any, low: float, high: float, level: float = 0.95) -> SeedInterval:
    """Mean over S seeds: the examples' interval of that mean, widened by the seeds' variance.

    It is widened about its own centre, which is not the mean where a bias was corrected; cut at 0.
    """
    found = seeds_mean(values, ((high - low) / 2 / normal_quantile(level)) ** 2, level)
    shift = (low + high) / 2 - found.mean
    return replace(found, low=max(found.low + shift, 0.0), high=found.high + shift)


def seeds_share(rows: Tensor, level: float = 0.95) -> SeedInterval:
    """A share over S seeds from [S, N] of ones and zeros: Wilson's interval, widened."""
    value, n = float(rows.double().mean()), float(rows.shape[1])
    variance = example_variance(rows)
    if len(rows) > 1 and 0 < variance < math.inf:
        # As many examples as make a share vary as much as the seeds' mean does.
        n = value * (1 - value) / variance
    found = widened(rows.double().mean(1), *wilson(value * n, n, level), level)
    return replace(found, high=min(found.high, 1.0))


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
