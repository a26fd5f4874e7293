"""Cross-entropy with label smoothing inside, or against explicit soft targets."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.targets import Convention, Targets, levels, warn_double_smoothing


def cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    smoothing: float = 0.0,
    convention: Convention = "uniform",
    class_weights: Tensor | None = None,
) -> Tensor:
    """−Σ_k w_k q_k log p_k for each example; logits [B,K] -> loss [B], in nats.

    q is `targets.soft` where given, else the one-hot label; both are smoothed by ε here, exactly
    as `levelhead.targets.smooth` would (soft targets with a warning). A class weight multiplies
    its class's term; the caller's mean divides by the batch, not by the weights. With `uniform`
    it equals torch's `cross_entropy(reduction="none", label_smoothing=ε)`.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
    """
    # Half precision would lose the small terms of the sum; float64 stays.
    log_p = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    on, off = levels(smoothing, logits.shape[1], convention)
    if targets.soft is not None:
        warn_double_smoothing(smoothing)
        q = targets.soft if smoothing == 0 else off + (on - off) * targets.soft
        terms = q * log_p if class_weights is None else q * log_p * class_weights
        return -terms.sum(dim=1)
    # −(on − off) w_y log p_y − off Σ_k w_k log p_k: no [B,K] targets are made.
    weighted = log_p if class_weights is None else log_p * class_weights
    right = weighted.gather(1, targets.labels[:, None]).squeeze(1)
    if off == 0:
        return -right
    return -(on - off) * right - off * weighted.sum(dim=1)
