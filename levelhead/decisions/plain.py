"""Plain values of results, for JSON: numbers with their intervals, no NaN, no arrays."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from torch import Tensor

from levelhead.statistics.examples import mean_interval, share_interval

HAIR = 1e-5
"""A policy's limits lie so far (relative, at least absolute) to the safe side of the examples that
set them: the float32 arithmetic of an export decides these examples alike."""


def plain(value: Any) -> Any:
    """Dataclasses as dicts, arrays and tensors as lists, numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def share(hits: Tensor, level: float, units: Tensor | None = None) -> dict[str, float]:
    """The share of ones in hits [N] with Wilson's interval: value, low, high."""
    low, high = share_interval(hits.double(), level, units)
    return {"value": float(hits.double().mean()), "low": low, "high": high}


def mean(values: Tensor, level: float, units: Tensor | None = None) -> dict[str, float]:
    """The mean of values [N] with its interval: value, low, high."""
    interval = mean_interval(values, level, units=units)
    return {"value": float(values.double().mean()), "low": interval.low, "high": interval.high}


def missing(reason: str) -> dict[str, Any]:
    """No number, and why."""
    return {"value": None, "low": None, "high": None, "reason": reason}
