"""Targets: what a network is trained towards, made apart from the loss.

Two conventions of label smoothing, never mixed up:

* `uniform`: ε is spread over all K classes, so the right class gets 1 − ε + ε/K
  (Szegedy et al. 2016, section 7; torch's `label_smoothing`; Müller et al. 2019).
* `others`: ε is spread over the K − 1 wrong classes, so the right class gets 1 − ε.

They are the same targets at ε_others = ε_uniform · (K − 1)/K.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from levelhead.errors import LevelheadError

Convention = Literal["uniform", "others"]


@dataclass(frozen=True)
class Targets:
    """labels [B] int64; soft [B,K] where targets are distributions; teacher_logits [B,K]."""

    labels: Tensor
    soft: Tensor | None = None
    teacher_logits: Tensor | None = None


def check_smoothing(epsilon: float, classes: int, convention: Convention) -> None:
    """Raise LevelheadError for an ε that makes the right class no longer the likeliest."""
    if not 0 <= epsilon < 1:
        raise LevelheadError(f"--smoothing {epsilon}: must be in [0, 1), for example 0.1")
    if convention == "others" and epsilon >= (classes - 1) / classes:
        raise LevelheadError(
            f"--smoothing {epsilon} --convention others: must be below (K-1)/K = "
            f"{(classes - 1) / classes:.4g} for {classes} classes, or a wrong class gains as much "
            "as the right one"
        )


def levels(epsilon: float, classes: int, convention: Convention) -> tuple[float, float]:
    """Probability of the right class, and of each wrong class.

    >>> levels(0.1, 10, "uniform")
    (0.91, 0.01)
    >>> levels(0.09, 10, "others")
    (0.91, 0.01)
    """
    check_smoothing(epsilon, classes, convention)
    off = epsilon / classes if convention == "uniform" else epsilon / (classes - 1)
    on = 1 - epsilon + off if convention == "uniform" else 1 - epsilon
    return on, off


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels [B] -> float32 [B,K] with a one in the label's column."""
    return torch.nn.functional.one_hot(labels, classes).float()


def smooth(
    labels: Tensor, classes: int, epsilon: float, convention: Convention = "uniform"
) -> Tensor:
    """Labels [B] int64, or soft labels [B,K] -> smoothed targets [B,K] float32.

    Soft labels are mixed with the uniform distribution by the same rule, and a warning is given:
    they have been softened already. Raises LevelheadError for an ε out of range.
    """
    on, off = levels(epsilon, classes, convention)
    if labels.dim() == 2:
        warn_double_smoothing(epsilon)
        return off + (on - off) * labels.float()
    return one_hot(labels, classes) * (on - off) + off


def warn_double_smoothing(epsilon: float) -> None:
    """Warn that targets which are soft already are being smoothed again."""
    if epsilon > 0:
        warnings.warn(
            f"smoothing {epsilon} is applied to targets that are soft already; "
            "set smoothing to 0 unless this is meant",
            stacklevel=3,
        )
