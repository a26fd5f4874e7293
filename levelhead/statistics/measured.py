"""A number with its interval, and the difference of two settings: worked out here, nowhere else.

1. `Estimate`: one quantity of one run, from the examples of one test set.
2. `mean`: over the seeds of a setting, a `Measured`.
3. `difference`: setting minus baseline, paired by the seeds and examples that both have.

Which interval fits is a property of the `Quantity`: shares have Wilson's, errors that a finite
sample makes too large (calibration errors) their bias-corrected one, all others the variance of
their examples' influence.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.statistics.examples import example_variance, normal_quantile
from levelhead.statistics.seeds import SeedInterval, interaction, seeds_mean, seeds_share, widened

Verdict = Literal["better", "worse", "cannot tell"]
NO_SEED = "no seed was trained in both settings"


@dataclass(frozen=True)
class Quantity:
    """What is measured: its name, which way is better, how it is printed, which interval it has.

    share: a mean of zeros and ones (Wilson's interval; two networks that agree on every example
    may differ on the next, so a difference counts one example at least). biased: the plug-in value
    of a finite sample lies too high, most where the true one is near 0. scale and digits are for
    print; 100 makes it %.
    """

    title: str
    direction: Literal["up", "down"]
    scale: float = 1.0
    digits: int = 4
    share: bool = False
    biased: bool = False

    @property
    def unit(self) -> str:
        """What a difference is printed in."""
        return " points" if self.scale == 100 else ""

    def to_json(self) -> dict[str, Any]:
        """What a reader of findings needs to draw it: title, up, scale, biased."""
        up = self.direction == "up"
        return {"title": self.title, "up": up, "scale": self.scale, "biased": self.biased}


@dataclass(frozen=True, eq=False)
class Estimate:
    """One quantity of one run: value, its examples' interval, and what each example adds to it.

    `influence`: float64 [N] for each independent sample of examples (most quantities have one, an
    AUROC of two data sets two), up to a constant.
    """

    value: float
    low: float
    high: float
    influence: tuple[Tensor, ...]


@dataclass(frozen=True)
class Measured:
    """A number and its interval; where there is none, `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float | None, ...] = ()
    reason: str | None = None

    @classmethod
    def of(cls, interval: SeedInterval, per_seed: Sequence[float], reason: str = "") -> Measured:
        """An interval over seeds; numbers that are not finite become None, with a reason."""
        return cls.finite(interval.mean, interval.low, interval.high, per_seed, reason)

    @classmethod
    def finite(
        cls,
        value: float,
        low: float,
        high: float,
        per_seed: Sequence[float | None] = (),
        reason: str = "",
    ) -> Measured:
        """These numbers; those that are not finite become None, with a reason."""
        value_, low_, high_ = (float(x) if math.isfinite(x) else None for x in (value, low, high))
        why = (reason or "not finite") if None in (value_, low_, high_) else None
        return cls(value_, low_, high_, tuple(per_seed), why)

    def to_json(self) -> dict[str, Any]:
        """value, low, high and per_seed, and reason where a number is missing."""
        numbers: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        numbers |= {"reason": self.reason} if self.reason is not None else {}
        return numbers | {"per_seed": list(self.per_seed)}


@dataclass(frozen=True)
class Difference(Measured):
    """Setting minus baseline in one quantity; `per_seed` of the `seeds` that both have."""

    direction: Literal["up", "down"] = "up"
    seeds: tuple[Hashable, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """better or worse where the interval lies on one side of 0, else "cannot tell"."""
        return verdict(self.value, self.low, self.high, self.direction)


def verdict(
    value: float | None, low: float | None, high: float | None, direction: Literal["up", "down"]
) -> Verdict:
    """What a difference and its interval say; one that touches 0 cannot tell."""
    if value is None or low is None or high is None or low <= 0 <= high:
        return "cannot tell"
    return "better" if (value > 0) == (direction == "up") else "worse"


def mean(estimates: Mapping[Any, Estimate], quantity: Quantity, level: float = 0.95) -> Measured:
    """The mean over seeds of one setting, judged on one test set.

    One seed: its own interval, which holds the examples' variance alone. Several: the examples'
    interval of the mean, widened about its own centre by the seeds' variance s²/S (Student's t,
    weighed by the parts: `seeds_mean`). The examples' interval is Wilson's for
    a share; of a biased quantity the mean of the seeds' own, bias-corrected intervals (seen at 0.95
    for ECE: coverage 95-100 %, three seeds, n = 500 and 3,000); else ± z of the variance over
    examples of the seeds' mean. Source: `statistics.seeds`.
    """
    if not estimates:
        raise LevelheadError("no seeds: give the value of at least one")
    runs = [*estimates.values()]
    values = [run.value for run in runs]
    if len(runs) == 1:
        return Measured.finite(values[0], runs[0].low, runs[0].high, values)
    if quantity.biased:
        low, high = fmean(run.low for run in runs), fmean(run.high for run in runs)
        interval = widened(values, low, high, level)
    elif quantity.share:
        interval = seeds_share(torch.stack([run.influence[0] for run in runs]), level)
    else:
        influence = [run.influence for run in runs]
        half = normal_quantile(level) * math.sqrt(_example_variance(influence))
        ends = fmean(values) - half, fmean(values) + half
        interval = widened(values, *ends, level, _interaction(influence))
    if quantity.scale == 100:
        interval = replace(interval, high=min(interval.high, 1.0))
    return Measured.of(interval, values)


def spread(values: Sequence[float], level: float = 0.95) -> Measured:
    """Mean of a number that each seed gives as a whole, from the seeds' spread alone.

    For what no test example adds to: a ratio of distances, an estimate of mutual information. One
    seed does not say how seeds differ: its interval is missing.
    """
    if len(values) == 1:
        return Measured(values[0], None, None, tuple(values), "one seed has no spread")
    return Measured.of(seeds_mean(values, 0.0, level), values)


def difference(
    setting: Mapping[Any, Estimate],
    baseline: Mapping[Any, Estimate],
    quantity: Quantity,
    level: float = 0.95,
) -> Difference:
    """Setting minus baseline, paired by the seeds that both have and by example.

    1. Seeds that only one side has take no part: what they add is the difference of seeds.
    2. The interval: `combination` of the two, weights 1 and −1.
    3. Of a biased quantity plug-in differences lie too near 0 (seen for ECE: their paired intervals
       cover 62-74 %). So the far end is that of the difference of two independent bias-corrected
       intervals where that lies farther out (seen: 91-100 %); the end that decides stays paired.
    """
    interval, values, seeds = combination([(1.0, setting), (-1.0, baseline)], quantity, level)
    if interval is None:
        return Difference(None, None, None, (), NO_SEED, quantity.direction)
    low, high = interval.low, interval.high
    if quantity.biased:
        sides = ({s: side[s] for s in seeds} for side in (setting, baseline))
        own, other = (mean(side, quantity, level) for side in sides)
        ends = [end for one in (own, other) for end in (one.low, one.high)]
        if None not in ends:
            x_low, x_high, y_low, y_high = (float(end) for end in ends if end is not None)
            centre = (x_low + x_high - y_low - y_high) / 2
            half = math.hypot(x_high - x_low, y_high - y_low) / 2
            high = max(high, centre + half) if interval.mean > 0 else high
            low = min(low, centre - half) if interval.mean < 0 else low
    numbers = Measured.finite(interval.mean, low, high, values)
    return Difference(
        numbers.value, numbers.low, numbers.high, numbers.per_seed, numbers.reason,
        quantity.direction, seeds,
    )  # fmt: skip


def combination(
    terms: Sequence[tuple[float, Mapping[Any, Estimate]]], quantity: Quantity, level: float = 0.95
) -> tuple[SeedInterval | None, tuple[float, ...], tuple[Any, ...]]:
    """Σ w · setting over the seeds that all settings have: interval, value by seed, the seeds.

    Variance: that of the combination over seeds, s²/S, plus over examples of its mean. No interval
    (None) where the settings share no seed.
    """
    seeds = tuple(s for s in terms[0][1] if all(s in setting for _, setting in terms))
    if not seeds:
        return None, (), ()
    values = [sum(w * setting[s].value for w, setting in terms) for s in seeds]
    influence = []
    for s in seeds:
        samples = zip(*(setting[s].influence for _, setting in terms), strict=True)
        weights = [weight for weight, _ in terms]
        influence.append(
            tuple(sum(w * x for w, x in zip(weights, sample, strict=True)) for sample in samples)
        )
    variance = _example_variance(influence)
    if quantity.share:
        # Networks that agree on all n examples may differ on the next: count one at least.
        variance = max(variance, 1 / len(influence[0][0]) ** 2)
    interval = seeds_mean(values, variance, level, _interaction(influence))
    return interval, tuple(values), seeds


def _interaction(influence: Sequence[Sequence[Any]]) -> float:
    """What seeds do to single examples, over independent samples of examples."""
    samples = zip(*influence, strict=True)
    return math.fsum(interaction(torch.stack(sample)) for sample in samples)


def _example_variance(influence: Sequence[Sequence[Any]]) -> float:
    """Variance over examples of the mean over seeds; independent samples add up."""
    samples = zip(*influence, strict=True)
    return math.fsum(example_variance(torch.stack(sample)) for sample in samples)
