"""Expected calibration error and its relatives: confidence against accuracy, in bins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, number, once
from levelhead.outputs import Outputs
from levelhead.statistics.binning import BINS, bin_index, sums
from levelhead.statistics.calibration_error import Cells, Error, absolute_error, unit_noise


@dataclass(frozen=True, eq=False)
class Binned:
    """Examples in bins: a probability of something, and whether it came true."""

    index: Tensor  # int64 [N], the bin
    size: int  # how many bins
    pool: int  # bins of the same rest by this number have similar gaps
    confidence: Tensor  # float64 [N]
    correct: Tensor  # float64 [N]
    gap: Tensor  # float64 [N], confidence − correct

    def __len__(self) -> int:
        return len(self.index)

    def sum(self, values: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Sums over the (weighted) examples of each bin, [..., size]; of 1 without values."""
        return sums(self.index, self.size, values, weights)

    def share(self, weights: Tensor | None = None) -> Tensor:
        """Of all examples, in each bin, [..., size]."""
        count = self.sum(None, weights)
        return count / count.sum(-1, keepdim=True)

    def gaps(self, weights: Tensor | None = None) -> Tensor:
        """share · (mean confidence − accuracy), [..., size]: what calibration errors add up."""
        total = len(self) if weights is None else weights.sum(-1, keepdim=True)
        return self.sum(self.gap, weights) / total


def binned(
    index: Tensor, size: int, confidence: Tensor, correct: Tensor, pool: int | None = None
) -> Binned:
    """Examples in the bins of their `index`; see the fields of `Binned`."""
    return Binned(index, size, pool or size, confidence, correct, confidence - correct)


@once
def prepare(outputs: Outputs, bins: int = BINS) -> Binned:
    """The prediction, in bins of equal width."""
    rows = outputs.rows
    return binned(bin_index(rows.confidence, bins), bins, rows.confidence, rows.correct)


@once
def prepare_mass(outputs: Outputs, bins: int = BINS) -> Binned:
    """The prediction, in bins of as equal numbers as ties allow.

    The edges are the confidences at ranks ⌈N b / bins⌉, right-closed. A bootstrap keeps them.
    """
    rows = outputs.rows
    ordered = np.sort(rows.confidence.numpy())
    edges = torch.from_numpy(ordered[[-(-len(ordered) * b // bins) - 1 for b in range(1, bins)]])
    index = torch.bucketize(rows.confidence, edges)
    return binned(index, bins, rows.confidence, rows.correct)


@once
def prepare_toplabel(outputs: Outputs, bins: int = BINS) -> Binned:
    """The prediction, in bins of equal width for each predicted class."""
    rows, pooled = outputs.rows, prepare(outputs, bins)
    index = pooled.index + bins * rows.prediction
    return binned(index, bins * outputs.classes, rows.confidence, rows.correct, bins)


@once
def prepare_binary(outputs: Outputs, bins: int = BINS) -> Binned:
    """Of two classes the second, in bins of equal width of its probability."""
    rows = outputs.rows
    sure = torch.where(rows.prediction == 1, rows.confidence, rows.log_rest.exp())
    return binned(bin_index(sure, bins), bins, sure, outputs.labels.double())


def cells(prepared: Binned, units: Tensor | None = None) -> Cells:
    """The bins that hold examples, for `calibration_interval` and its relatives."""
    there = prepared.sum() > 0
    count, sure, hits = (
        prepared.sum(v)[there].numpy() for v in (None, prepared.confidence, prepared.correct)
    )
    place = there.nonzero().squeeze(1).numpy() % prepared.pool
    noise = None
    if units is not None:
        cell = (there.long().cumsum(0) - 1)[prepared.index]
        noise = unit_noise(units.numpy(), cell.numpy(), prepared.gap.numpy(), len(count))
    pooled = np.unique(place, return_inverse=True)[1]
    return Cells(count, sure / count, hits, pooled, noise=noise)


def squared_error(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Σ share · (confidence − accuracy)²."""
    squares = residual**2 / np.maximum(count, 1)
    return np.asarray(squares.sum(-1) / count.sum(-1))


def largest_error(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The largest |confidence − accuracy|."""
    return np.asarray((np.abs(residual) / np.maximum(count, 1)).max(-1))


def _side_error(side: int) -> Error:
    def error(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(side * residual, 0).sum(-1) / count.sum(-1))

    return error


def metric(
    name: str,
    title: str,
    source: str,
    of_gaps: Callable[[Binned, Tensor | None], Tensor],
    error: Error | None = absolute_error,
    prepare: Callable[[Outputs], Binned] = prepare,
    **more: Any,
) -> Metric:
    """A calibration error whose value is `of_gaps(prepared, weights)`; `error` is its interval's.

    Without `error` it has no interval. A sum of absolute gaps also has influence values.
    """
    if of_gaps is _absolute:
        more["influence"] = _influence
    return Metric(
        name=name,
        title=title,
        direction="down",
        source=source,
        prepare=prepare,
        value=lambda prepared, weights=None: {name: number(of_gaps(prepared, weights))},
        interval="none" if error is None else "calibration",
        binned=True,
        cells=None if error is None else lambda prepared, units: (cells(prepared, units), error),
        **more,
    )


def _absolute(prepared: Binned, weights: Tensor | None) -> Tensor:
    return prepared.gaps(weights).abs().sum(-1)


def _influence(prepared: Binned) -> Tensor:
    added = torch.sign(prepared.gaps())[prepared.index] * prepared.gap
    return added - added.mean()


def _largest(prepared: Binned, weights: Tensor | None) -> Tensor:
    return (prepared.gaps(weights).abs() / prepared.share(weights)).nan_to_num(0).amax(-1)


def squared(prepared: Binned, weights: Tensor | None = None) -> Tensor:
    """Σ share · (confidence − accuracy)² over bins, [...]."""
    gaps, share = prepared.gaps(weights), prepared.share(weights)
    return (gaps.square() / share).nan_to_num(0).sum(-1)


def _debiased(prepared: Binned, weights: Tensor | None) -> Tensor:
    count, hits = prepared.sum(None, weights), prepared.sum(prepared.correct, weights)
    accuracy = hits / count
    noise = (accuracy * (1 - accuracy) / (count - 1)).where(count >= 2, 0)
    return squared(prepared, weights) - (prepared.share(weights) * noise).sum(-1)


ece = metric(
    "ece",
    "Expected calibration error",
    "15 equal-width right-closed bins of the top probability (Guo et al. 2017)",
    _absolute,
    short="ECE",
    heading="ECE",
    meaning="how far confidence and accuracy are apart, over 15 bins",
)

ece_mass = metric(
    "ece_mass",
    "ECE, equal-mass bins",
    "15 bins of equal numbers of examples, equal confidences together (Nguyen & O'Connor 2015)",
    _absolute,
    prepare=prepare_mass,
)

mce = metric(
    "mce",
    "Maximum calibration error",
    "the largest gap of a bin, 15 equal-width bins; of a bin of few examples mostly chance "
    "(Naeini et al. 2015)",
    _largest,
    largest_error,
)

toplabel_ece = metric(
    "toplabel_ece",
    "Top-label ECE",
    "15 equal-width bins within each predicted class (Gupta & Ramdas 2021)",
    _absolute,
    prepare=prepare_toplabel,
    needs="classes",
)

binary_ece = metric(
    "binary_ece",
    "Binary ECE",
    "of two classes, the probability of the second against whether it is the label, 15 equal-width "
    "bins (Naeini et al. 2015)",
    _absolute,
    prepare=prepare_binary,
    needs="classes",
    undefined=lambda outputs: (
        f"of two classes only; here are {outputs.classes}" if outputs.classes != 2 else None
    ),
)

ece_debiased = metric(
    "ece_debiased",
    "Squared calibration error, debiased",
    "Σ share [(confidence − accuracy)² − accuracy (1 − accuracy)/(n − 1)] over 15 equal-width "
    "bins: without the bias, so it may be below 0, and never rooted (Kumar et al. 2019)",
    _debiased,
    squared_error,
)

overconfidence = metric(
    "overconfidence",
    "Overconfidence",
    "the part of ECE from bins with confidence above accuracy; Thulasidasan et al. 2019 weight "
    "it by confidence too",
    lambda prepared, weights: prepared.gaps(weights).clamp(min=0).sum(-1),
    _side_error(1),
    side=1,
)

underconfidence = metric(
    "underconfidence",
    "Underconfidence",
    "the part of ECE from bins with confidence below accuracy",
    lambda prepared, weights: prepared.gaps(weights).clamp(max=0).neg().sum(-1),
    _side_error(-1),
    side=-1,
)


def cumulative(outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Calibration without bins: the cumulative difference (Arrieta-Ibarra et al. 2022).

    Confidences in ascending order, Σ over examples up to there of (confidence − correct)/N, and
    the half-width of its 95 % band under calibration, float64 [N] each: as N grows the curve is a
    Brownian motion of variance Σ confidence (1 − confidence)/N², whose largest excursion stays
    within 2.2414 deviations in 95 %. Its steepness is the miscalibration there, ECCE-MAD its
    largest absolute value. Equal confidences share their difference.
    """
    rows = outputs.rows
    order = torch.from_numpy(np.argsort(rows.confidence.numpy(), kind="stable"))
    sure, correct = rows.confidence[order], rows.correct[order]
    _, group, count = sure.unique_consecutive(return_inverse=True, return_counts=True)
    shared = (torch.bincount(group, correct) / count)[group]
    n = len(sure)
    deviation = math.sqrt(float((sure * (1 - sure)).sum())) / n
    return sure, (sure - shared).cumsum(0) / n, torch.full_like(sure, 2.2414 * deviation)
