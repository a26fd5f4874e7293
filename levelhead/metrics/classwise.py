"""Calibration of every class's probability, not of the prediction's alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, number, once
from levelhead.outputs import Outputs, probabilities
from levelhead.statistics.binning import BINS, bin_edges, bin_index, sums
from levelhead.statistics.calibration_error import Cells, Error, absolute_error, most_units
from levelhead.statistics.examples import FEW_ERRORS


@dataclass(frozen=True, eq=False)
class Classwise:
    """Each class's probabilities in bins, and what came true of them."""

    outputs: Outputs
    bins: int
    soft: bool  # whether outcomes are what annotators said, not the label
    sums: Tensor  # what `tables` gave, [4, K, bins]

    def __len__(self) -> int:
        return len(self.outputs)

    def errors(self, weights: Tensor | None = None) -> Tensor:
        """The calibration error of each class, [..., K]: Σ over bins |Σ p − Σ outcome| / N."""
        if weights is None:
            table, total = self.sums, torch.tensor(float(len(self)))
        else:
            table = tables(self.outputs, self.bins, self.soft, weights)
            total = weights.sum(-1, keepdim=True)
        return (table[1] - table[2]).abs().sum(-1) / total


def tables(
    outputs: Outputs, bins: int = BINS, soft: bool = False, weights: Tensor | None = None
) -> Tensor:
    """What lies in each class's bins of its probability p, float64 [4, ..., K, bins].

    (Weighted) count, Σ p, Σ outcome and Σ (p − outcome)². The outcome of class k is 1 for the label
    k, or where `soft` the share of annotators who said k. A row has few probabilities above the
    first bin, and only these are sorted: the first bin holds the rest of a column's sums.
    """
    k, n, start = outputs.classes, len(outputs), 0
    rows = torch.ones(1, n, dtype=torch.float64) if weights is None else weights.view(-1, n)
    table = torch.zeros(4, len(rows), k, bins, dtype=torch.float64)
    column = torch.zeros(4, len(rows), k, dtype=torch.float64)
    column[0] = rows.sum(1, keepdim=True)
    for scores, labels in outputs.pieces():
        here = slice(start, start + len(labels))
        weight, start = rows[:, here], here.stop
        p = scores.double()
        if outputs.kind == "logits":  # log Σ exp = the label's logit + its NLL
            p = (p - (p.gather(1, labels[:, None]) + outputs.rows.nll[here, None])).exp_()
        else:
            p = p / p.sum(1, keepdim=True)
        column[1] += weight @ p
        row, klass = (p > bin_edges(bins)[1]).nonzero(as_tuple=True)
        sure = p[row, klass].clamp_(max=1)
        if soft:
            assert outputs.label_distribution is not None
            shares = outputs.label_distribution[here]
            outcome = shares[row, klass]
            column[2] += weight @ shares
            column[3] += weight @ (p - shares).square_()
        else:
            outcome = (labels[row] == klass).double()
            column[2] += sums(labels, k, None, weight)
        index = klass * bins + bin_index(sure, bins)
        for i, values in enumerate((None, sure, outcome, (sure - outcome).square())):
            if i < 3 or soft:
                table[i] += sums(index, k * bins, values, weight[:, row]).view(-1, k, bins)
    table[..., 0] = column - table[..., 1:].sum(-1)
    return table[:, 0] if weights is None or weights.ndim == 1 else table


@once
def prepare(outputs: Outputs, bins: int = BINS, soft: bool = False) -> Classwise:
    """Sort the probabilities of every class of `outputs` into bins of equal width."""
    return Classwise(outputs, bins, soft, tables(outputs, bins, soft))


def cells(prepared: Classwise, units: Tensor | None = None) -> tuple[Cells, Error]:
    """The bins that hold examples; they pool over classes, and their errors are independent.

    Of two classes the second alone: the first is its mirror image. An error takes a hit from one
    class and gives it to another: with few errors these are not independent.
    """
    table = prepared.sums[:, 1:] if prepared.sums.shape[1] == 2 else prepared.sums
    there = table[0] > 0.5
    pool = torch.arange(prepared.bins).expand_as(there)[there].numpy()
    count, sure, hits, squares = table[:, there].numpy()
    sure = np.clip(sure / count, 0, 1)
    variance = None
    if prepared.soft:
        variance = np.maximum(squares / count - (sure - hits / count) ** 2, 0)
    noise = None
    if units is not None:
        noise = _unit_noise(prepared, units)[:, -len(table[0]) * prepared.bins :]
        noise = noise[:, there.flatten().numpy()]
    wrong = len(prepared) - int(prepared.outputs.rows.correct.sum())
    together = 2 if wrong < FEW_ERRORS and len(table[0]) > 1 else 1
    return Cells(count, sure, hits, pool, variance, noise=noise, together=together), absolute_error


def _unit_noise(prepared: Classwise, units: Tensor) -> np.ndarray:
    """`unit_noise` of every class's bins, [G, K · bins], piece by piece."""
    outputs, k, bins = prepared.outputs, prepared.outputs.classes, prepared.bins
    mean = ((prepared.sums[1] - prepared.sums[2]) / prepared.sums[0].clamp(min=1)).flatten()
    groups = most_units(int(units.max()) + 1, k * bins)
    noise, start = torch.zeros(groups * k * bins, dtype=torch.float64), 0
    for scores, labels in outputs.pieces():
        here = slice(start, start + len(labels))
        start = here.stop
        p = probabilities(outputs.kind, scores)
        outcome = torch.zeros_like(p).scatter_(1, labels[:, None], 1.0)
        if prepared.soft:
            assert outputs.label_distribution is not None
            outcome = outputs.label_distribution[here]
        cell = torch.arange(k) * bins + bin_index(p.clamp(max=1).flatten(), bins).view_as(p)
        place = (units[here, None] % groups) * (k * bins) + cell
        noise.index_add_(0, place.flatten(), (p - outcome - mean[cell]).flatten())
    return noise.view(groups, -1).numpy()


def _value(name: str, prepared: Classwise, weights: Tensor | None = None) -> dict[str, Any]:
    return {name: number(prepared.errors(weights).mean(-1))}


classwise_ece = Metric(
    name="classwise_ece",
    title="Classwise ECE",
    direction="down",
    source="mean over classes of the ECE of their probability against whether they are the label, "
    "15 equal-width bins (Kull et al. 2019)",
    prepare=prepare,
    value=partial(_value, "classwise_ece"),
    interval="calibration",
    binned=True,
    needs="probabilities",
    cells=cells,
)

human_calibration = Metric(
    name="human_calibration",
    title="Calibration to annotators",
    direction="down",
    source="mean over classes of Σ share |mean probability − mean share of annotators| over 15 "
    "equal-width bins: classwise ECE with what annotators said as outcomes (Baan et al. 2022)",
    prepare=partial(prepare, soft=True),
    value=partial(_value, "human_calibration"),
    interval="calibration",
    binned=True,
    needs="label_distribution",
    cells=cells,
)
