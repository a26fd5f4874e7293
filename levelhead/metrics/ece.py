"""Expected calibration error of the predicted class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from levelhead.binning import BINS, Bins, bin_confidence, bin_index
from levelhead.metrics.metric import Metric
from levelhead.outputs import Outputs


@dataclass(frozen=True, eq=False)
class Binned:
    """Examples in their bins, and what the interval needs of the bins."""

    index: Tensor  # int64 [N]
    gap: Tensor  # float64 [N], confidence − correct
    bins: Bins
    variance: Tensor  # float64 [B], mean of confidence (1 − confidence) within the bin


def prepare(outputs: Outputs, bins: int = BINS) -> Binned:
    """Sort the examples of `outputs` into bins of confidence."""
    rows = outputs.rows
    sure, index = rows.confidence, bin_index(rows.confidence, bins)
    table = bin_confidence(sure, rows.correct, bins=bins)
    spread = torch.bincount(index, sure * (1 - sure), minlength=bins) / table.count
    return Binned(index, sure - rows.correct, table, spread)


def value(prepared: Binned, weights: Tensor | None = None) -> dict[str, float]:
    """Σ over bins of |Σ over examples of weight · (confidence − correct)|, over all weight."""
    gap = prepared.gap if weights is None else prepared.gap * weights
    total = float(len(gap) if weights is None else weights.sum())
    return {"ece": float(torch.bincount(prepared.index, gap).abs().sum() / total)}


ece = Metric(
    name="ece",
    title="Expected calibration error",
    direction="down",
    source="15 equal-width right-closed bins of the top probability (Guo et al. 2017)",
    prepare=prepare,
    value=value,
    interval="ece",
)
