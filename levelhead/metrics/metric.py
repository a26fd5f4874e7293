"""Metric: the contract of the table METRICS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from levelhead.outputs import Outputs


@dataclass(frozen=True)
class Metric:
    """A number that judges Outputs.

    `prepare(outputs)` does the work on the scores once; `value(prepared, weights=None)` gives the
    number by name, with examples weighted by `weights` [N], so that a bootstrap re-weights. A
    metric that is a mean over examples prepares a tensor [N], which lets the bootstrap use one
    matrix product. `undefined(outputs)` says why there is no number, or None.
    """

    name: str
    title: str
    direction: Literal["up", "down"]  # what is better
    source: str
    prepare: Callable[[Outputs], Any]
    value: Callable[..., dict[str, float]]
    interval: Literal["wilson", "bootstrap", "ece"]
    undefined: Callable[[Outputs], str | None] = lambda outputs: None


def mean(name: str) -> Callable[..., dict[str, float]]:
    """The `value` of a metric that is the (weighted) mean of what `prepare` gave, [N]."""

    def value(prepared: Tensor, weights: Tensor | None = None) -> dict[str, float]:
        if weights is None:
            return {name: float(prepared.mean())}
        return {name: float(prepared @ weights.to(prepared.dtype) / weights.sum())}

    return value
