"""Counts of what was taken for what."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from levelhead.outputs import Outputs


def confusion(outputs: Outputs) -> Tensor:
    """Counts, int64 [K, K]: row the true class, column the prediction."""
    k = outputs.classes
    cells = outputs.labels * k + outputs.predictions()
    return torch.bincount(cells, minlength=k * k).view(k, k)


def class_counts(outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """The diagonal, row and column sums of `confusion`, int64 [K] each, without the matrix."""
    labels, predictions, k = outputs.labels, outputs.predictions(), outputs.classes
    hits = labels[labels == predictions]
    right, support, predicted = (
        torch.bincount(values, minlength=k) for values in (hits, labels, predictions)
    )
    return right, support, predicted


def taken_for(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The wrong prediction that each class gets most often, and how often, int64 [K] each.

    Of equals the first; 0 times where every example of a class is right.
    """
    labels, predictions, k = outputs.labels, outputs.predictions(), outputs.classes
    wrong = labels != predictions
    cells, counts = (labels * k + predictions)[wrong].unique(return_counts=True)
    order = np.lexsort((cells.numpy(), -counts.numpy()))
    rows, first = np.unique(cells.numpy()[order] // k, return_index=True)
    other, times = torch.zeros(k, dtype=torch.int64), torch.zeros(k, dtype=torch.int64)
    best = torch.from_numpy(order[first])
    other[rows], times[rows] = cells[best] % k, counts[best]
    return other, times
