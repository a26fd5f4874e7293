"""Margin-based label smoothing (MbLS): logits may differ by a margin at no cost."""

from __future__ import annotations

from torch import Tensor

from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import expectation, log_softmax, widened
from levelhead.targets import Targets


def _margin_smoothing(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """CE + λ · mean_k max(0, max_j l_j − l_k − m); λ = strength (0.1), m = margin (10) -> [B].

    The mean over classes is that of the published code, to which λ = 0.1 belongs. CE is
    `cross_entropy` with its soft targets and class weights; the penalty is not weighted. It takes
    the place of smoothing: LevelheadError for ε > 0, and for λ or m out of range.
    Source: Liu et al. 2022, "The devil is in the margin: margin-based label smoothing".
    """
    scores = widened(logits)
    over = (scores.amax(dim=1, keepdim=True) - scores - options.knobs["margin"]).relu().mean(dim=1)
    return options.knobs["strength"] * over - expectation(log_softmax(scores), targets, options)


margin_smoothing = Loss(
    "mbls",
    _margin_smoothing,
    knobs={"strength": Knob(0.1, "λ"), "margin": Knob(10.0, "m")},
    smoothing=False,
)
