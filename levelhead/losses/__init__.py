"""The table of losses: `(logits [B,K], Targets, *, smoothing, ...) -> [B]`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from levelhead.losses.cross_entropy import cross_entropy

LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy}

__all__ = ["LOSSES", "cross_entropy"]
