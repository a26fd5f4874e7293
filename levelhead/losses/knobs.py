"""What each loss can be told: the default of its strength and margin, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from levelhead.errors import LevelheadError, nearest
from levelhead.targets import Convention, Epsilon, Targets, smooths


class Options(TypedDict, total=False):
    """Keywords of every loss: ε (a number or [K]) and its convention, weights [K], two knobs."""

    smoothing: Epsilon
    convention: Convention
    class_weights: Tensor | None
    strength: float | None
    margin: float | None


@dataclass(frozen=True)
class Settled:
    """Options that were checked, with the defaults filled in (0 for a knob that a loss lacks)."""

    smoothing: Epsilon
    convention: Convention
    class_weights: Tensor | None
    strength: float
    margin: float


@dataclass(frozen=True)
class Knobs:
    """Letter, default (None: there is no such knob) and range [0, below) of a loss's strength.

    `positive` excludes 0; `smoothing`, `soft`: whether it goes with ε > 0, with soft targets.
    """

    letter: str = ""
    strength: float | None = None
    margin: float | None = None
    below: float = math.inf
    positive: bool = False
    smoothing: bool = True
    soft: bool = True


KNOBS = {
    "cross_entropy": Knobs(),
    # 3: the fixed γ of Mukhoti et al. 2020, who wanted calibration; Lin et al. 2017 detect with 2.
    "focal": Knobs("γ", 3.0),
    "confidence_penalty": Knobs("β", 0.1),
    "mbls": Knobs("λ", 0.1, margin=10.0, smoothing=False),
    "maxsup": Knobs("α", 0.1, smoothing=False),
    "label_relaxation": Knobs("α", 0.1, below=1.0, smoothing=False, soft=False),
    "logit_norm": Knobs("τ", 0.04, positive=True),
}


def check_strength(loss: str, strength: float | None, margin: float | None) -> tuple[float, float]:
    """Strength and margin that a loss will use, defaults filled in (0 for a knob it lacks).

    Raises LevelheadError for an unknown loss, a knob that the loss lacks, or a value out of range.
    """
    if loss not in KNOBS:
        raise LevelheadError(f"--loss {loss}: unknown; {nearest(loss, list(KNOBS))}")
    knobs = KNOBS[loss]
    for name, given in (("strength", strength), ("margin", margin)):
        if given is not None and getattr(knobs, name) is None:
            raise LevelheadError(f"--{name} {given}: --loss {loss} has no {name}; leave it out")
    strength = (knobs.strength or 0.0) if strength is None else strength
    margin = (knobs.margin or 0.0) if margin is None else margin
    if not 0 <= strength < knobs.below or (knobs.positive and strength == 0):
        raise LevelheadError(
            f"--strength {strength}: {knobs.letter} of --loss {loss} must be in "
            f"{'(' if knobs.positive else '['}0, {knobs.below:g}), for example {knobs.strength}"
        )
    if not 0 <= margin < math.inf:
        raise LevelheadError(f"--margin {margin}: must be 0 or more, for example {knobs.margin}")
    return strength, margin


def settle(
    loss: str,
    targets: Targets | None = None,
    *,
    smoothing: Epsilon = 0.0,
    convention: Convention = "uniform",
    class_weights: Tensor | None = None,
    strength: float | None = None,
    margin: float | None = None,
) -> Settled:
    """`check_strength`, and that the loss goes with this smoothing and these targets (or raise)."""
    strength, margin = check_strength(loss, strength, margin)
    if not KNOBS[loss].smoothing and smooths(smoothing):
        raise LevelheadError(f"--loss {loss}: takes the place of smoothing; leave out --smoothing")
    if not KNOBS[loss].soft and targets is not None and targets.soft is not None:
        raise LevelheadError(
            f"--loss {loss}: relaxes one label, not soft targets; train it with --targets loss "
            "and labels that are not mixed, or take cross_entropy"
        )
    return Settled(smoothing, convention, class_weights, strength, margin)
