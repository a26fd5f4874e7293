"""Counts of what was taken for what."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.outputs import Outputs


def confusion(outputs: Outputs) -> Tensor:
    """Counts, int64 [K, K]: row the true class, column the prediction."""
    k = outputs.classes
    cells = outputs.labels * k + outputs.predictions()
    return torch.bincount(cells, minlength=k * k).view(k, k)
