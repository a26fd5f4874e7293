"""Focal loss: the surer the network is of a class, the less that class's term counts."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import expectation, log_softmax
from levelhead.targets import Targets


def _focal(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """Σ_k w_k q_k (1 − p_k)^γ (−log p_k), q the smoothed or soft target; γ = strength (3) -> [B].

    With a hard label it is the paper's (1 − p_y)^γ (−log p_y), a class weight its α_t; over soft
    and smoothed targets the sum is the expectation of that. γ = 0 is cross-entropy. Not a proper
    score. Raises LevelheadError for an ε or γ out of range.
    Source: Lin et al. 2017, "Focal loss for dense object detection" (γ = 2); Mukhoti et al. 2020,
    "Calibrating deep neural networks using focal loss" (γ = 3).
    """
    log_p = log_softmax(logits)
    # Clamped: at p = 1 and γ < 1 the slope of (1 − p)^γ is infinite, and times log p = 0, nan.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -expectation(rest.pow(options.knobs["strength"]) * log_p, targets, options)


focal = Loss(
    "focal",
    _focal,
    # 3: the fixed γ of Mukhoti et al. 2020, who wanted calibration; Lin et al. 2017 detect with 2.
    knobs={"strength": Knob(3.0, "γ")},
)
