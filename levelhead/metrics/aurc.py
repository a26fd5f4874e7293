"""Area under the risk–coverage curve: are the wrong answers the uncertain ones?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, error_cost, number, once
from levelhead.outputs import Outputs
from levelhead.statistics.binning import sums
from levelhead.statistics.examples import share_interval


@dataclass(frozen=True, eq=False)
class Ranked:
    """Examples from the most certain to the least, in groups of equally certain ones."""

    order: Tensor  # int64 [N]
    wrong: Tensor  # float64 [N], in that order
    last: Tensor  # int64 [G], the place of the last example of each group
    # Of the errors alone, by example: which they are, and the group of each among groups with one.
    errors: Tensor  # int64 [E]
    group: Tensor  # int64 [E], from 0 to B − 1
    ends: Tensor  # int64 [2, B], last places of the groups before (−1: none) and of these

    def __len__(self) -> int:
        return len(self.order)


@once
def prepare(outputs: Outputs) -> Ranked:
    """Rank by the top probability, in float64 as log(1 − confidence): few are exactly equal."""
    return ranked_by(-outputs.rows.log_rest, outputs.rows.correct)


def ranked_by(certainty: Tensor, correct: Tensor) -> Ranked:
    """Rank by any certainty [N], higher where surer; correct [N] is 1.0 or 0.0."""
    order = np.argsort(-certainty.numpy())
    ranked = certainty.numpy()[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)
    wrong = 1 - correct.numpy()[order]
    places = np.flatnonzero(wrong)
    held, group = np.unique(np.searchsorted(last, places), return_inverse=True)
    ends = np.stack([np.where(held > 0, last[held - 1], -1), last[held]])
    arrays = (order, wrong, last, order[places], group, ends)
    return Ranked(*(torch.from_numpy(array) for array in arrays))


def _areas(prepared: Ranked, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """AURC, and that of the best order with as many errors, [...].

    An error at place j adds 1/i for each i from j to N: H(N) − H(j − 1), H the harmonic numbers.
    In a group of equals that starts after s others and ends at t it may be at any place: with
    Σ_{j<x} H(j) = x H(x) − x, the mean is H(N) − [t H(t) − t − s H(s) + s]/(t − s).
    """
    n = len(prepared)
    if weights is None:
        cover, drawn = torch.arange(1, n + 1, dtype=torch.float64), None
    else:
        cover, drawn = weights[..., prepared.order].cumsum(-1), weights[..., prepared.errors]
    total, (before, last) = cover[..., -1], prepared.ends
    harmonic = _harmonic(total)
    start, end = cover[..., before.clamp(min=0)] * (before >= 0), cover[..., last]
    errors = sums(prepared.group, len(last), None, drawn)
    rate = (errors / (end - start)).nan_to_num_(0)
    wrong = errors.sum(-1)
    below = end * (harmonic(end) - 1) - start * (harmonic(start) - 1)
    area = wrong * harmonic(total) - (rate * below).sum(-1)
    right = total - wrong
    best = wrong - right * (harmonic(total) - harmonic(right))
    return area / total, best / total


def _harmonic(total: Tensor) -> Callable[[Tensor], Tensor]:
    """The function 1 + 1/2 + … + 1/x, up to `total`; between whole numbers ψ(x + 1) + γ."""
    table = torch.arange(int(total.max()) + 1, dtype=torch.float64).reciprocal_()
    table[0] = 0
    table.cumsum_(0)

    def harmonic(x: Tensor) -> Tensor:
        whole = x.long()
        if bool((whole == x).all()):
            return table[whole]
        return torch.digamma(x + 1) + 0.5772156649015329

    return harmonic


def area(prepared: Ranked) -> float:
    """AURC."""
    return float(_areas(prepared)[0])


def _aurc(prepared: Ranked, weights: Tensor | None = None) -> dict[str, Any]:
    return {"aurc": number(_areas(prepared, weights)[0])}


def _eaurc(prepared: Ranked, weights: Tensor | None = None) -> dict[str, Any]:
    area, best = _areas(prepared, weights)
    return {"eaurc": number((area - best).clamp(min=0))}


def influence(prepared: Ranked) -> Tensor:
    """R(t) − A + mean over the less certain of (wrong − risk)/coverage, R(t) the risk there.

    Shared by equals. From A = ∫ risk dF over thresholds: an example moves the risk of each
    coverage that holds it.
    """
    n, last = len(prepared), prepared.last
    size = torch.diff(last, prepend=torch.tensor([-1]))
    group = torch.repeat_interleave(torch.arange(len(last)), size)
    share = (torch.bincount(group, prepared.wrong) / size)[group]
    place = torch.arange(1, n + 1, dtype=torch.float64)
    risk = share.cumsum(0) / place

    def shared(values: Tensor) -> Tensor:
        return (torch.bincount(group, values) / size)[group]

    later = place.reciprocal().flip(0).cumsum(0).flip(0)  # Σ 1/j over this place and those after
    lost = (risk / place).flip(0).cumsum(0).flip(0)
    slope = shared(risk) + prepared.wrong * shared(later) - shared(lost)
    values = torch.empty_like(slope)
    values[prepared.order] = slope - slope.mean()
    return values


def _excess_influence(prepared: Ranked) -> Tensor:
    """Less that of the best area r + (1 − r) log(1 − r), r the share of errors."""
    wrong = torch.empty_like(prepared.wrong)
    wrong[prepared.order] = prepared.wrong
    rate = wrong.mean()
    slope = -torch.log1p(-rate) if rate < 1 else torch.zeros(())
    return influence(prepared) - slope * (wrong - rate)


def _error_cost(outputs: Outputs) -> float:
    """By the model's odds: an error at place j of N adds 1/j + … + 1/N to N times the area."""
    place = torch.arange(1, len(outputs) + 1, dtype=torch.float64)
    added = place.reciprocal().flip(0).cumsum(0).flip(0)
    return error_cost(outputs, outputs.rows.log_rest[prepare(outputs).order].exp() * added)


def _ends(prepared: Ranked, level: float, units: Tensor | None) -> tuple[float, float] | None:
    """Where no error was seen: up to Wilson's end of their share, the area of a random order."""
    return share_interval(prepared.wrong, level, units) if not prepared.wrong.any() else None


aurc = Metric(
    name="aurc",
    meaning="mean error when the surest answers come first",
    title="Area under risk–coverage",
    short="AURC",
    direction="down",
    source="mean over coverages i/N of the share of errors among the i most certain, certain by "
    "the top probability, over all orders of equals (Geifman & El-Yaniv 2017; Geifman et al. 2019)",
    prepare=prepare,
    value=_aurc,
    interval="bootstrap",
    influence=influence,
    ends=_ends,
    error_cost=_error_cost,
)

eaurc = Metric(
    name="eaurc",
    title="Excess area under risk–coverage",
    direction="down",
    source="AURC − that of an order with all errors last (Geifman et al. 2019, in its exact form)",
    prepare=prepare,
    value=_eaurc,
    interval="bootstrap",
    influence=_excess_influence,
    ends=_ends,
    error_cost=_error_cost,
)
