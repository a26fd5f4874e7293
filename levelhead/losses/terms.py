"""What the losses share: log-probabilities, and the expectation of class terms under targets."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.losses.loss import Options
from levelhead.targets import Targets, levels, smooths, spread, warn_double_smoothing


def widened(logits: Tensor) -> Tensor:
    """Logits in float32 or better: half precision would lose the small terms of the sums."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities [B,K], in float32 or better."""
    return torch.log_softmax(widened(logits), dim=1)


def expectation(terms: Tensor, targets: Targets, options: Options) -> Tensor:
    """Σ_k w_k q_k terms_k [B] of terms [B,K]: here smoothing and class weights have their meaning.

    q is `targets.soft` where given, else the one-hot label; both are smoothed by ε here, exactly
    as `levelhead.targets.smooth` would (soft targets with a warning).
    """
    on, off = levels(options.smoothing, terms.shape[1], options.convention)
    if options.class_weights is not None:
        terms = terms * options.class_weights
    if targets.soft is not None:
        warn_double_smoothing(options.smoothing)
        q = spread(targets.soft, on, off) if smooths(options.smoothing) else targets.soft
        return (q * terms).sum(dim=1)
    # (on − off) terms_y + off Σ_k terms_k: no [B,K] targets are made.
    right = terms.gather(1, targets.labels[:, None]).squeeze(1)
    if not smooths(options.smoothing):
        return right
    if isinstance(on, Tensor) and isinstance(off, Tensor):
        on, off = (level.to(terms)[targets.labels] for level in (on, off))
    return (on - off) * right + off * terms.sum(dim=1)
