"""Confidence penalty: cross-entropy less a share of the prediction's entropy."""

from __future__ import annotations

from torch import Tensor

from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import expectation, log_softmax
from levelhead.targets import Targets


def _confidence_penalty(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """CE − β H(p), H(p) = −Σ_k p_k log p_k in nats; β = strength (0.1) -> [B].

    CE is `cross_entropy` with its smoothing, soft targets and class weights; the penalty knows no
    class and is not weighted. −H(p) is KL(p ‖ uniform) − log K, where smoothing penalises
    KL(uniform ‖ p). Raises LevelheadError for an ε or β out of range.
    Source: Pereyra et al. 2017, "Regularizing neural networks by penalizing confident output
    distributions".
    """
    log_p = log_softmax(logits)
    negentropy = (log_p.exp() * log_p).sum(dim=1)
    return options.knobs["strength"] * negentropy - expectation(log_p, targets, options)


confidence_penalty = Loss(
    "confidence_penalty",
    _confidence_penalty,
    knobs={"strength": Knob(0.1, "β")},
)
