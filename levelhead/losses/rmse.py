"""Root-mean-square error to the one-hot label, as a first course of networks has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from levelhead.losses.loss import Loss, Options
from levelhead.losses.terms import widened
from levelhead.targets import Targets, one_hot


def _rmse(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """√(Σ_k (p_k − q_k)² / K), q the one-hot or soft label -> [B]; in probability, not nats.

    The example is multiplied by its label's class weight (a soft label's mean weight). Raises
    LevelheadError for ε > 0: smoothed targets are cross-entropy's. Not a proper score, unlike its
    square (Brier's / K): of two classes it is 1 − p_y, least in expectation at p = 0 or 1, which is
    over-confidence by design.
    Source: Brier 1950, whose score it is the root of; for its use in networks, Golik et al. 2013,
    "Cross-entropy vs. squared error training".
    """
    p = torch.softmax(widened(logits), dim=1)
    q = one_hot(targets.labels, p.shape[1]).to(p) if targets.soft is None else targets.soft.to(p)
    loss: Tensor = (p - q).norm(dim=1) / math.sqrt(p.shape[1])  # its slope at 0 is 0
    return loss if options.class_weights is None else loss * (q @ options.class_weights.to(p))


rmse = Loss(
    "rmse",
    _rmse,
    smoothing=False,
    why_unsmoothed="is to the one-hot label",
)
