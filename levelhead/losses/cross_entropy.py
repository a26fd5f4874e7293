"""Cross-entropy with label smoothing inside, or against explicit soft targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from levelhead.losses.loss import Loss, Options
from levelhead.losses.terms import expectation, log_softmax, widened
from levelhead.targets import Targets, levels

MANY = 1024
"""From so many classes on the loss is worked out in pieces."""
PIECE = 1 << 20
"""Logits at a time: 4 MB, which stay in the cache."""


def _cross_entropy(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """−Σ_k w_k q_k log p_k for each example; logits [B,K] -> loss [B], in nats.

    q is `targets.soft` where given, else the one-hot label; both are smoothed by ε here, exactly
    as `levelhead.targets.smooth` would (soft targets with a warning). A class weight multiplies
    its class's term; the caller's mean divides by the batch, not by the weights. With `uniform`
    it equals torch's `cross_entropy(reduction="none", label_smoothing=ε)`.
    Raises LevelheadError for an ε out of range, and for a strength or margin: it has none.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
    """
    plain = targets.soft is None and options.class_weights is None
    if logits.shape[1] >= MANY and plain and not isinstance(options.smoothing, Tensor):
        on, off = levels(options.smoothing, logits.shape[1], options.convention)
        apply: Callable[..., Tensor] = _InPieces.apply
        return apply(widened(logits), targets.labels, on, off)
    return -expectation(log_softmax(logits), targets, options)


class _InPieces(torch.autograd.Function):
    """log Σ e^z − (on − off) z_y − off Σ z, some rows at a time: nothing else of size [B,K] is made
    but the gradient, for vocabularies of thousands."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, on: float, off: float) -> Tensor:
        size = max(1, PIECE // logits.shape[1])
        parts = []
        for z, y in zip(logits.split(size), labels.split(size), strict=True):
            top = z.amax(1, keepdim=True)
            d = z - top  # from the largest, so that the sums stay exact
            right = d.gather(1, y[:, None])[:, 0]
            rest = off * d.sum(1) if off else torch.zeros_like(right)
            log_sum = d.exp_().sum(1).log()
            parts.append(torch.stack([log_sum - (on - off) * right - rest, log_sum + top[:, 0]]))
        losses, log_sums = torch.cat(parts, 1)
        ctx.save_for_backward(logits, labels, log_sums)
        ctx.levels, ctx.size = (on, off), size
        return cast(Tensor, losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, log_sums = ctx.saved_tensors
        on, off = ctx.levels
        slope = torch.empty_like(logits)
        columns = (logits, labels, log_sums, gradient, slope)
        for z, y, s, g, out in zip(*(c.split(ctx.size) for c in columns), strict=True):
            torch.sub(z, s[:, None], out=out).exp_()
            if off:
                out.sub_(off)
            out.scatter_add_(1, y[:, None], torch.full_like(g[:, None], off - on))
            out.mul_(g[:, None])
        return slope, None, None, None


cross_entropy = Loss(
    "cross_entropy",
    _cross_entropy,
)
