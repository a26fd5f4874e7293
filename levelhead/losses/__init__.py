"""The table of losses: a `Loss` each, called as `loss(logits, targets, smoothing=…) -> [B]`."""

from __future__ import annotations

from levelhead.errors import LevelheadError, nearest
from levelhead.losses.confidence_penalty import confidence_penalty
from levelhead.losses.cross_entropy import cross_entropy
from levelhead.losses.focal import focal
from levelhead.losses.label_relaxation import label_relaxation
from levelhead.losses.logit_norm import logit_norm
from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.margin_smoothing import margin_smoothing
from levelhead.losses.maxsup import maxsup
from levelhead.losses.rmse import rmse

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        cross_entropy,
        focal,
        confidence_penalty,
        margin_smoothing,
        maxsup,
        label_relaxation,
        logit_norm,
        rmse,
    )
}


def find_loss(name: str) -> Loss:
    """The loss of that name. Raises LevelheadError for an unknown one, with the nearest."""
    if name in ("zero_one", "0-1"):
        raise LevelheadError(
            f"--loss {name}: is flat, its gradient is 0 wherever it has one, so that nothing is "
            "learnt; it is reported as zero_one. Train with cross_entropy, which bounds it "
            "(0–1 loss ≤ NLL / log 2)"
        )
    if name not in LOSSES:
        raise LevelheadError(f"--loss {name}: unknown; {nearest(name, list(LOSSES))}")
    return LOSSES[name]


__all__ = ["LOSSES", "Knob", "Loss", "Options", "cross_entropy", "find_loss"]
