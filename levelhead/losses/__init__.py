"""The table of losses: `(logits [B,K], Targets, **Options) -> [B]`, one for each example."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from levelhead.losses.confidence_penalty import confidence_penalty
from levelhead.losses.cross_entropy import cross_entropy
from levelhead.losses.focal import focal
from levelhead.losses.knobs import KNOBS, check_strength, settle
from levelhead.losses.label_relaxation import label_relaxation
from levelhead.losses.logit_norm import logit_norm
from levelhead.losses.margin_smoothing import margin_smoothing
from levelhead.losses.maxsup import maxsup

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "confidence_penalty": confidence_penalty,
    "mbls": margin_smoothing,
    "maxsup": maxsup,
    "label_relaxation": label_relaxation,
    "logit_norm": logit_norm,
}

__all__ = ["KNOBS", "LOSSES", "check_strength", "cross_entropy", "settle"]
