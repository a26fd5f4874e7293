"""Does the confidence tell wrong answers from right ones?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, number, once
from levelhead.outputs import Outputs
from levelhead.statistics.binning import sums
from levelhead.statistics.examples import (
    count_units,
    example_variance,
    normal_quantile,
    share_interval,
    small_sample,
)
from levelhead.statistics.placements import auroc_interval, placements

KEPT = 0.95
"""The share of right answers that the threshold of `fpr95_errors` keeps."""


@dataclass(frozen=True, eq=False)
class Sorted:
    """Examples in groups of equal certainty, from the least certain up."""

    certainty: Tensor  # float64 [N]
    correct: Tensor  # float64 [N]
    group: Tensor  # int64 [N]
    size: int  # groups

    def __len__(self) -> int:
        return len(self.correct)

    def counts(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Right and wrong answers of each group, [..., size]."""
        each = (self.correct, 1 - self.correct)
        right, wrong = (sums(self.group, self.size, kind, weights) for kind in each)
        return right, wrong


@once
def prepare(outputs: Outputs) -> Sorted:
    """Sort by the top probability."""
    certainty = -outputs.rows.log_rest
    levels, group = np.unique(certainty.numpy(), return_inverse=True)
    return Sorted(certainty, outputs.rows.correct, torch.from_numpy(group), len(levels))


def _auroc(prepared: Sorted, weights: Tensor | None = None) -> dict[str, Any]:
    right, wrong = prepared.counts(weights)
    below = wrong.cumsum(-1) - wrong / 2
    area = (right * below).sum(-1) / (right.sum(-1) * wrong.sum(-1))
    return {"auroc_errors": number(area)}


def _placements(prepared: Sorted) -> Tensor:
    """Of a right answer the share of wrong ones below, of a wrong one that of right ones above."""
    right, wrong = prepared.counts()
    below = (wrong.cumsum(0) - wrong / 2) / wrong.sum()
    above = 1 - (right.cumsum(0) - right / 2) / right.sum()
    return torch.where(prepared.correct > 0, below[prepared.group], above[prepared.group])


def _influence(prepared: Sorted) -> Tensor:
    right = prepared.correct.mean()
    share = torch.where(prepared.correct > 0, right, 1 - right)
    area = float(_auroc(prepared)["auroc_errors"])
    return (_placements(prepared) - area) / share


def _ends(prepared: Sorted, level: float, units: Tensor | None) -> tuple[float, float] | None:
    """On the logit, by the variance of the influence (DeLong's); where all are apart, Newcombe's.

    Source: DeLong, DeLong & Clarke-Pearson 1988; Newcombe 2006.
    """
    area = _auroc(prepared)["auroc_errors"]
    fewest = min(float(prepared.correct.sum()), float((1 - prepared.correct).sum()))
    if units is None or not 0 < area < 1:
        right = prepared.correct.numpy() > 0
        sure = prepared.certainty.numpy()
        both = placements(sure[right], sure[~right])
        return auroc_interval(area, *both, normal_quantile(small_sample(level, int(fewest))))
    level = small_sample(level, min(count_units(len(prepared), units), int(fewest)))
    half = normal_quantile(level) * math.sqrt(example_variance(_influence(prepared), units))
    half /= area * (1 - area)
    centre = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-max(-700.0, min(700.0, centre + s * half)))) for s in (-1, 1))
    return low, high


def _fpr(prepared: Sorted, weights: Tensor | None = None) -> dict[str, Any]:
    right, wrong = prepared.counts(weights)
    # Kept by a threshold at each group: it and all above.
    kept = right.flip(-1).cumsum(-1).flip(-1)
    enough = kept >= KEPT * right.sum(-1, keepdim=True) - 1e-9
    last = enough.long().cumsum(-1).argmax(-1, keepdim=True)  # the highest that keeps enough
    passed = wrong.flip(-1).cumsum(-1).flip(-1).gather(-1, last).squeeze(-1)
    return {"fpr95_errors": number(passed / wrong.sum(-1))}


def _fpr_ends(prepared: Sorted, level: float, units: Tensor | None) -> tuple[float, float] | None:
    """Wilson's, with the threshold as given."""
    right, _ = prepared.counts()
    kept = right.flip(0).cumsum(0).flip(0)
    last = int((kept >= KEPT * right.sum() - 1e-9).nonzero().max())
    wrong = prepared.correct == 0
    own = None if units is None else units[wrong].unique(return_inverse=True)[1]
    return share_interval((prepared.group[wrong] >= last).double(), level, own)


def _undefined(outputs: Outputs) -> str | None:
    right = int(outputs.rows.correct.sum())
    if right in (0, len(outputs)):
        return "every answer is right" if right else "every answer is wrong"
    return None


auroc_errors = Metric(
    name="auroc_errors",
    title="AUROC of errors",
    short="AUROC of errors",
    direction="up",
    source="how often a right answer has a higher top probability than a wrong one, equals half "
    "(Hendrycks & Gimpel 2017)",
    prepare=prepare,
    value=_auroc,
    interval="bootstrap",
    influence=_influence,
    ends=_ends,
    undefined=_undefined,
)

fpr95_errors = Metric(
    name="fpr95_errors",
    title="Errors kept with 95 % of right answers",
    unit="%",
    digits=1,
    direction="down",
    source="share of wrong answers at or above the highest top probability that keeps 95 % of the "
    "right ones (FPR at 95 % TPR, Hendrycks & Gimpel 2017)",
    prepare=prepare,
    value=_fpr,
    interval="bootstrap",
    ends=_fpr_ends,
    undefined=_undefined,
)
