"""Label relaxation: any prediction that gives the label 1 − α is right enough."""

from __future__ import annotations

import math

from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import log_softmax
from levelhead.targets import Targets


def _label_relaxation(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """0 where p_y >= 1 − α, else KL(p^r ‖ p); α = strength (0.1) -> [B], in nats.

    p^r is the nearest distribution that gives the label 1 − α: the rest, α, in proportion to p. So
    KL(p^r ‖ p) = (1 − α) log((1 − α)/p_y) + α log(α/(1 − p_y)), and that is computed; its slope is
    the same whether p^r is held fixed or not. α = 0 is cross-entropy. The example is multiplied by
    its label's class weight. Raises LevelheadError for soft targets, for ε > 0 (it takes the place
    of smoothing), and for α >= (K−1)/K, where knowing nothing would cost nothing.
    Source: Lienen & Hüllermeier 2021, "From label smoothing to label relaxation".
    """
    alpha, edge = options.knobs["strength"], 1 - 1 / logits.shape[1]
    if alpha >= edge:
        raise LevelheadError(
            f"--strength {alpha}: must be below (K-1)/K = {edge:.4g}, or a uniform p has no loss"
        )
    log_p, y = log_softmax(logits), targets.labels[:, None]
    right = log_p.gather(1, y).squeeze(1)
    rest = log_p.scatter(1, y, -math.inf).logsumexp(dim=1)  # log(1 − p_y), exact near p_y = 1
    negentropy = (1 - alpha) * math.log1p(-alpha) + (alpha * math.log(alpha) if alpha else 0.0)
    loss = negentropy - (1 - alpha) * right - alpha * rest
    loss = loss.masked_fill(right >= math.log1p(-alpha), 0)
    return loss if options.class_weights is None else loss * options.class_weights[targets.labels]


label_relaxation = Loss(
    "label_relaxation",
    _label_relaxation,
    knobs={"strength": Knob(0.1, "α", below=1.0)},
    smoothing=False,
    soft=False,
)
