"""Max suppression (MaxSup): label smoothing's penalty, put on the top logit."""

from __future__ import annotations

from torch import Tensor

from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import expectation, log_softmax, widened
from levelhead.targets import Targets


def _maxsup(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """CE + α (max_k z_k − mean_k z_k); α = strength (0.1) -> [B].

    Uniform smoothing by α is CE + α (z_y − mean_k z_k): the same where the prediction is right, and
    no reward for being sure of a mistake where it is wrong. CE is `cross_entropy` with its soft
    targets and class weights; the penalty is not weighted. It takes the place of smoothing:
    LevelheadError for ε > 0, and for α out of range.
    Source: Zhou et al. 2025, "MaxSup: Overcoming representation collapse in label smoothing".
    """
    scores = widened(logits)
    over = scores.amax(dim=1) - scores.mean(dim=1)
    return options.knobs["strength"] * over - expectation(log_softmax(scores), targets, options)


maxsup = Loss(
    "maxsup",
    _maxsup,
    knobs={"strength": Knob(0.1, "α")},
    smoothing=False,
)
