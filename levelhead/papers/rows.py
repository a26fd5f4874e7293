"""A row of a reproduction: what was published, what was found here, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from levelhead.statistics.examples import example_variance
from levelhead.statistics.seeds import SeedInterval, seeds_mean

Verdict = Literal["agrees", "differs", "cannot tell"]
ANY = (-math.inf, math.inf)
ABOVE, BELOW = (0.0, math.inf), (-math.inf, 0.0)


@dataclass(frozen=True)
class Row:
    """One quantity; `published` is as printed, or a claim in words ("above 0")."""

    what: str
    published: str
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict | None  # None: nothing published to hold it against
    seeds: int
    digits: int = 3

    @property
    def shown(self) -> tuple[str, str, str, str]:
        """Its four cells: published, ours, interval, verdict."""
        if self.value is None:
            return self.published, "–", "–", self.verdict or "–"
        d = self.digits
        ends = "–"
        if self.low is not None and self.high is not None and math.isfinite(self.low):
            ends = f"[{self.low:.{d}f}, {self.high:.{d}f}]"
        return self.published, f"{self.value:.{d}f}", ends, self.verdict or "–"

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; null where an interval has no end."""
        return {k: None if v in ANY else v for k, v in asdict(self).items()}


def number(
    what: str, found: SeedInterval, published: tuple[float, float] | None, told: str, digits: int
) -> Row:
    """A published number, given as the range it may have: agrees where our interval reaches it."""
    verdict: Verdict | None = None
    if published is not None:
        apart = found.high < published[0] or found.low > published[1]
        verdict = "differs" if apart else "agrees"
    return Row(what, told, found.mean, found.low, found.high, verdict, found.seeds, digits)


def claim(
    what: str, found: SeedInterval, wanted: tuple[float, float], told: str, digits: int
) -> Row:
    """A published claim, as a range: agrees where our interval is in it, differs where outside.

    ANY: nothing was claimed, so there is no verdict.
    """
    low, high = wanted
    verdict: Verdict | None = "cannot tell"
    if wanted == ANY:
        verdict = None
    elif low <= found.low and found.high <= high:
        verdict = "agrees"
    elif found.high < low or found.low > high:
        verdict = "differs"
    return Row(what, told, found.mean, found.low, found.high, verdict, found.seeds, digits)


def missing(what: str, published: str) -> Row:
    """What could not be measured."""
    return Row(what, published, None, None, None, "cannot tell", 0)


def over_examples(rows: Sequence[Tensor], scale: float = 1.0) -> SeedInterval:
    """Mean of [N] values of each seed, on one test set, times `scale`; see `seeds_mean`."""
    table = scale * torch.stack([row.double() for row in rows])
    return seeds_mean(table.mean(1), example_variance(table))


def over_seeds(values: Sequence[float]) -> SeedInterval:
    """Mean of one number a seed, from their spread alone; one seed has no interval but ±∞."""
    if len(values) == 1:
        return SeedInterval(values[0], *ANY, 0.0, 1, "this model")
    return seeds_mean(values, 0.0)
