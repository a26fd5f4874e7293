"""Accuracy, and accuracy among the top 5."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, mean
from levelhead.outputs import Outputs


def _among_top(outputs: Outputs, k: int) -> Tensor:
    """1.0 where fewer than k classes stand before the label, float64 [N]; ties: first class."""
    found = []
    order = torch.arange(outputs.classes)
    for scores, labels in outputs.pieces():
        own = scores.gather(1, labels[:, None])
        before = (scores > own) | ((scores == own) & (order < labels[:, None]))
        found.append(before.sum(1) < k)
    return torch.cat(found).double()


accuracy = Metric(
    name="accuracy",
    title="Accuracy",
    direction="up",
    source="share of examples whose highest score is the label's; of equal scores the first counts",
    prepare=lambda outputs: outputs.rows.correct,
    value=mean("accuracy"),
    interval="wilson",
)

top5 = Metric(
    name="top5",
    title="Top-5 accuracy",
    direction="up",
    source="share of examples whose label is among the five highest scores",
    prepare=lambda outputs: _among_top(outputs, 5),
    value=mean("top5"),
    interval="wilson",
    undefined=lambda outputs: (
        f"any answer is among the top 5 of {outputs.classes} classes"
        if outputs.classes <= 5
        else None
    ),
)
