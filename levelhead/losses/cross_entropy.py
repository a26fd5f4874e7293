"""Cross-entropy with label smoothing inside, or against explicit soft targets."""

from __future__ import annotations

from torch import Tensor

from levelhead.losses.loss import Loss, Options
from levelhead.losses.terms import expectation, log_softmax
from levelhead.targets import Targets


def _cross_entropy(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """−Σ_k w_k q_k log p_k for each example; logits [B,K] -> loss [B], in nats.

    q is `targets.soft` where given, else the one-hot label; both are smoothed by ε here, exactly
    as `levelhead.targets.smooth` would (soft targets with a warning). A class weight multiplies
    its class's term; the caller's mean divides by the batch, not by the weights. With `uniform`
    it equals torch's `cross_entropy(reduction="none", label_smoothing=ε)`.
    Raises LevelheadError for an ε out of range, and for a strength or margin: it has none.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
    """
    return -expectation(log_softmax(logits), targets, options)


cross_entropy = Loss(
    "cross_entropy",
    _cross_entropy,
)
