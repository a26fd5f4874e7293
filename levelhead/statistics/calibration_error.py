"""How much a calibration error from N examples can be off, and whether there is any."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from levelhead.statistics.examples import CHANCE, normal_quantile, small_sample, two_digits

_DRAWS = 200_000  # cells × resamples of one simulation
_UNITS = 4_000_000  # units × cells of one table
_FEW = 300  # with fewer resamples tails are a normal's


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
    noise: np.ndarray | None = None  # [G, C] of `unit_noise`, where examples come in units
    together: int = 1  # how many cells one rare event moves at once

    @property
    def residual(self) -> np.ndarray:
        """count · confidence − hits, [C]."""
        return np.asarray(self.count * self.confidence - self.hits)


def unit_noise(units: np.ndarray, cell: np.ndarray, residual: np.ndarray, cells: int) -> np.ndarray:
    """What each unit adds to the residuals of cells beyond its share of them, [G, C].

    For examples (or any parts of them) with their unit, cell and residual, [M]. Many units are
    added up into fewer, as independent as they were.
    """
    groups = most_units(int(units.max()) + 1, cells)
    count, total = (np.bincount(cell, w, cells) for w in (None, residual))
    mean = np.divide(total, count, out=np.zeros(cells), where=count > 0)
    place = (units % groups) * cells + cell
    noise = np.bincount(place, residual - mean[cell], groups * cells)
    return np.asarray(noise.reshape(groups, cells))


def most_units(units: int, cells: int) -> int:
    """How many of so many units a table of them and `cells` may have."""
    return min(units, max(64, _UNITS // max(cells, 1)))


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
        self.factor = np.zeros((0, len(cells.count)))
        if cells.noise is not None:
            self._use_units(cells.noise / total)
        self.bin_gap = np.bincount(cells.bin, self.gap)
        self.perfect = hits >= count
        self.part = self.share / np.bincount(cells.bin, self.share)[cells.bin]
        self.excess = self.gap - self.part * self.bin_gap[cells.bin]
        self.rare = math.sqrt(2 * math.log(len(cells.count) + 1))  # noise's largest in C cells
        ratios = np.abs(self.bin_gap) / self.bin_noise, np.abs(self.excess) / self.noise - self.rare
        self.calm = max(0.0, *(float(r.max()) for r in ratios)) + 1e-9  # from here on, no gaps

    def _use_units(self, noise: np.ndarray) -> None:
        """Noise that examples of one unit share: no less than that of independent examples."""
        groups = len(noise)
        level = small_sample(0.95, groups) if groups > 1 else 0.95
        wider = normal_quantile(level) / normal_quantile(0.95)
        noise = noise * wider
        own = np.sqrt((noise**2).sum(0))
        # Units that err alike in few examples, or none, show too little noise.
        raised = np.divide(self.noise, own, out=np.zeros_like(own), where=own > 0)
        self.factor = noise * np.maximum(raised, 1.0)
        self.noise = np.maximum(self.noise, own)
        pooled = np.zeros((groups, len(self.bin_noise)))
        np.add.at(pooled.T, self.cells.bin, self.factor.T)
        self.bin_noise = np.maximum(self.bin_noise, np.sqrt((pooled**2).sum(0)))

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
            if lam < 0:  # beyond what was seen, where no error was seen the gap can only be above
                pooled = np.where(self.perfect, gap - lam * noise, pooled)
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
        if len(self.factor):
            shared = draw.standard_normal((self.resamples, len(self.factor))) @ self.factor
            # Cells whose units show no noise at all have that of independent examples.
            alone = np.where((self.factor**2).sum(0) > 0, 0.0, self.noise)
            shared += alone * draw.standard_normal(shape)
            residual = self.count * stray + shared * self.cells.count.sum()
        elif variance is None:
            together = self.cells.together
            events = -(-self.count // together)  # rounded up
            hits = draw.binomial(events, np.clip(sure - stray, 0, 1), size=shape)
            residual = self.count * (sure - hits / np.maximum(events, 1))
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

    1. A true error t stays in the interval unless the plug-in error x that was seen is extreme
       among those of `resamples` simulated samples of a population whose error is t.
    2. That population has the cells, counts and mean confidences seen, and in bin b a gap on the
       path from none to beyond the gap D_b seen, by soft thresholding (s_b its standard error):
       |δ_b| = max(0, |D_b| − λ s_b). Gaps no larger than noise go first, large ones keep their
       size.
    3. A bin's cells share its gap; a cell that strays from its bin by more than √(2 log cells) of
       its standard errors keeps the rest, less λ.
    4. For an error that counts gaps of one `side` alone (+1: confidence above accuracy, −1), these
       are D_b − λ s_b, and those of the other side stay as seen (where t may be too small, two
       standard errors nearer to 0).
    5. Outcomes are binomial at the counts seen; other counts change an error by as much as they
       change that without noise. At t = 0 this is the consistency test of Bröcker and Smith (2007).
    6. Where cells pool (classes in one bin), gaps of opposite sign cancel in the pool, and gaps
       smaller than noise in every cell hardly raise x: the upper end is at least that of a second
       path, on which each cell strays by the same number μ of its standard errors.
    7. Of the error probability, all goes against t = 0 from above at t = 0 (0 is covered in 95 %,
       not 97.5 %), half to either side from two standard deviations on, linear in between.

    Above 200 cells the resamples are fewer (200,000 / cells, at least 64), and below 300 of them
    their quantiles a normal's. Coverage: benchmarks/interval_coverage.py. Neglected: any error that
    the bins average out, which no binned figure can see.
    """
    world, alpha = _World(cells, error, resamples, seed), 1 - level
    x = float(error(cells.residual, cells.count))

    def path(lam: float, tail: int) -> np.ndarray:
        return world.path(lam, side, 2.0 if tail > 0 else 0.0)

    def margin(lam: float, tail: int) -> float:
        return survives(path(lam, tail), tail)

    def survives(gap: np.ndarray, tail: int) -> float:
        """How far x is from being too large (tail +1) or too small (−1) for t; < 0: it is."""
        errors = world.drawn(gap)
        t, deviation = world.size(gap), float(errors.std())
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
    if error is absolute_error and len(cells.count) > len(world.bin_gap):

        def spread(size: float) -> np.ndarray:
            return size * world.noise * np.where(world.gap > 0, 1.0, -1.0)

        edge = _edge(lambda size: survives(spread(size), -1), 0.0, 0.5, 1000.0)
        high = max(high, world.size(spread(edge)))
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
    cells = replace(cells, noise=None)
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
    return two_digits(math.exp(high))
