"""Brier score, and the three parts of the top label's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.ece import Binned, cells, metric, prepare, squared, squared_error
from levelhead.metrics.metric import Metric, error_cost, mean, number
from levelhead.outputs import Outputs
from levelhead.statistics.calibration_error import Cells, Error


def _error_cost(outputs: Outputs) -> float:
    """By the model's odds: Σ q² + 1 − 2 q_y where y is not the prediction."""
    rows = outputs.rows
    squares = rows.brier + 2 * torch.exp(-rows.nll) - 1  # Σ_k q_k²
    others = (squares - rows.confidence.square()).clamp(min=0)
    return error_cost(outputs, rows.log_rest.exp() * (squares + 1) - 2 * others)


brier = Metric(
    name="brier",
    meaning="squared distance from certainty of the truth, 0 to 2",
    title="Brier score",
    short="Brier score",
    direction="down",
    source="mean squared distance to the one-hot label, summed over classes, 0 to 2 (Brier 1950)",
    prepare=lambda outputs: outputs.rows.brier,
    value=mean("brier"),
    interval="bootstrap",
    needs="probabilities",
    error_cost=_error_cost,
)

# Of the top label: mean (confidence − correct)² = reliability − resolution + uncertainty + W, with
# W = mean of (c − c_b)² − 2 (c − c_b) correct, c_b the mean confidence of the bin: what bins hide
# (Stephenson et al. 2008). The score of all classes would need bins of each class.
brier_reliability = metric(
    "brier_reliability",
    "Top-label Brier score, reliability",
    "Σ share (confidence − accuracy)² over 15 equal-width bins: with the top label's mean "
    "(confidence − correct)² = reliability − resolution + uncertainty, but for what varies within "
    "bins (Murphy 1973)",
    squared,
    squared_error,
)


def _resolution(prepared: Binned, weights: Tensor | None = None) -> dict[str, Any]:
    share = prepared.share(weights)
    hits = prepared.sum(prepared.correct, weights)
    accuracy = (hits / prepared.sum(None, weights)).nan_to_num(0)
    mean = (share * accuracy).sum(-1, keepdim=True)
    return {"brier_resolution": number((share * (accuracy - mean).square()).sum(-1))}


def _resolution_cells(prepared: Binned, units: Tensor | None) -> tuple[Cells, Error]:
    """Resolution is the squared error of a forecast that is always the accuracy."""
    bins = cells(prepared, units)
    rate = np.full(len(bins.count), bins.hits.sum() / bins.count.sum())
    return replace(bins, confidence=rate), _spread_error


def _spread_error(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
    shift = residual.sum(-1, keepdims=True) / count.sum(-1, keepdims=True)
    return squared_error(residual - count * shift, count)


def _uncertainty(prepared: Binned, weights: Tensor | None = None) -> dict[str, Any]:
    right = mean("right")(prepared.correct, weights)["right"]
    return {"brier_uncertainty": right * (1 - right)}


def _uncertainty_influence(prepared: Binned) -> Tensor:
    right = prepared.correct.mean()
    return (1 - 2 * right) * (prepared.correct - right)


brier_resolution = Metric(
    name="brier_resolution",
    title="Top-label Brier score, resolution",
    direction="up",
    source="Σ share (accuracy of the bin − accuracy)² over 15 equal-width bins (Murphy 1973)",
    prepare=prepare,
    value=_resolution,
    interval="calibration",
    cells=_resolution_cells,
)

brier_uncertainty = Metric(
    name="brier_uncertainty",
    title="Top-label Brier score, uncertainty",
    direction="none",
    source="accuracy (1 − accuracy) (Murphy 1973)",
    prepare=prepare,
    value=_uncertainty,
    interval="bootstrap",
    influence=_uncertainty_influence,
)
