"""The only confidence binning: equal-width, right-closed bins.

Bin b of B holds confidences in ((b−1)/B, b/B]; the first also holds 0, the last 1.0. Edges are
compared in the precision of the confidences: a float32 confidence equal to float32(2/15) lies on
the edge, in the lower bin. scikit-learn and `numpy.digitize(right=True)` do the same;
torchmetrics closes bins on the left and gives 1.0 a bin of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from levelhead.errors import LevelheadError

BINS = 15
"""Bins of every reported calibration error (Guo et al. 2017)."""


@dataclass(frozen=True, eq=False)
class Bins:
    """B bins of confidence, float64; `confidence` and `accuracy` are NaN where a bin is empty."""

    edges: Tensor  # [B + 1], from 0 to 1
    count: Tensor  # [B], examples, or the sum of their weights
    confidence: Tensor  # [B], mean
    accuracy: Tensor  # [B], share of correct predictions

    def error(self) -> float:
        """Expected calibration error: Σ_b count_b / n · |confidence_b − accuracy_b|."""
        gaps = (self.confidence - self.accuracy).abs().nan_to_num(0.0)
        return float((self.count * gaps).sum() / self.count.sum())


def bin_edges(bins: int = BINS) -> Tensor:
    """Edges b/B, correctly rounded, float64 [bins + 1]."""
    return torch.arange(bins + 1, dtype=torch.float64) / bins


def bin_index(confidence: Tensor, bins: int = BINS) -> Tensor:
    """The bin of each confidence [N], int64 from 0. Raises LevelheadError outside [0, 1]."""
    if confidence.numel() and not bool((confidence.amin() >= 0) & (confidence.amax() <= 1)):
        bad = int((~((confidence >= 0) & (confidence <= 1))).nonzero()[0])
        raise LevelheadError(
            f"row {bad}: the confidence {float(confidence[bad])} must be between 0 and 1"
        )
    return torch.bucketize(confidence, bin_edges(bins)[1:-1].to(confidence.dtype))


def sums(
    index: Tensor, size: int, values: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Sums by index [N] of `values` [N] (default 1), float64 [size]; index from 0 to size − 1.

    `weights` [N] multiply the values; weights [R, N], a bootstrap's, give [R, size].
    """
    each = values if weights is None else weights if values is None else weights * values
    if each is None or each.ndim == 1:
        return torch.bincount(index, each, minlength=size).double()
    rows = torch.arange(len(each))[:, None] * size
    flat = torch.bincount((index + rows).flatten(), each.flatten(), minlength=len(each) * size)
    return flat.view(len(each), size)


def bin_confidence(
    confidence: Tensor, correct: Tensor, weights: Tensor | None = None, bins: int = BINS
) -> Bins:
    """Sort N predictions into bins by confidence [N]; `correct` [N] is 1 or 0 (or bool).

    `weights` [N] count an example several times, or not at all (a bootstrap's re-weighting).
    """
    index = bin_index(confidence, bins)
    weight = (
        torch.ones_like(confidence, dtype=torch.float64) if weights is None else weights.double()
    )

    def total(values: Tensor) -> Tensor:
        return torch.bincount(index, values, minlength=bins)

    count = total(weight)
    return Bins(
        bin_edges(bins),
        count,
        total(weight * confidence) / count,
        total(weight * correct) / count,
    )
