"""Loss: the contract of the table LOSSES; what a loss is told is checked here, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.targets import UNLABELLED, Convention, Epsilon, Targets, smooths


@dataclass(frozen=True)
class Knob:
    """A number that a loss takes: its default, its letter in the formula, its range [0, below).

    `positive` excludes 0.
    """

    default: float
    letter: str = ""
    below: float = math.inf
    positive: bool = False


@dataclass(frozen=True)
class Options:
    """What a loss is told: ε (a number or [K]), its convention, class weights [K], its knobs."""

    smoothing: Epsilon = 0.0
    convention: Convention = "uniform"
    class_weights: Tensor | None = None
    knobs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A loss for each example: `loss(logits [B,K], targets, smoothing=0.1, …) -> [B]`, in nats.

    `function(logits, targets, options)` works it out; `knobs` are its own numbers by name.
    `smoothing`, `soft`: whether it goes with ε > 0, with soft targets. `scale`: whether a penalty
    on the weights alone has a minimum with it, as the head on a frozen body needs.
    """

    name: str
    function: Callable[[Tensor, Targets, Options], Tensor]
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    smoothing: bool = True
    soft: bool = True
    scale: bool = True
    why_unsmoothed: str = "takes the place of smoothing"

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """What its function says."""
        return self.function.__doc__

    def __call__(
        self,
        logits: Tensor,
        targets: Targets | Tensor,
        *,
        smoothing: Epsilon = 0.0,
        convention: Convention = "uniform",
        class_weights: Tensor | None = None,
        **knobs: float | None,
    ) -> Tensor:
        """The loss of each example, [B]. Raises LevelheadError as `options` and `check` do.

        A plain tensor as targets holds labels int64 [B] (−1: without one, loss 0), or distributions
        [B,K].
        """
        if isinstance(targets, Tensor):
            soft = targets.is_floating_point()
            targets = Targets(targets.argmax(1), targets) if soft else Targets(targets)
        options = self.options(smoothing, convention, class_weights, knobs)
        self.check(targets)
        return self.of(logits, targets, options)

    def of(self, logits: Tensor, targets: Targets, options: Options) -> Tensor:
        """The loss of each example, [B]: 0 where the label is `UNLABELLED` (`ignore_index`).

        Its mean over a batch divides by all of them, unlike PyTorch's.
        """
        known = targets.labels != UNLABELLED
        whole = Targets(targets.labels.clamp_min(0), targets.soft)
        return torch.where(known, self.function(logits, whole, options), 0)

    def options(
        self,
        smoothing: Epsilon = 0.0,
        convention: Convention = "uniform",
        class_weights: Tensor | None = None,
        knobs: Mapping[str, float | None] | None = None,
    ) -> Options:
        """Options with the defaults filled in where a knob is None.

        Raises LevelheadError for a knob that the loss lacks, a value out of range, and for ε > 0
        where the loss takes the place of smoothing.
        """
        values = {name: knob.default for name, knob in self.knobs.items()}
        for name, value in (knobs or {}).items():
            if value is None:
                continue
            if name not in self.knobs:
                raise LevelheadError(
                    f"--{name} {value}: --loss {self.name} has no {name}; leave it out"
                )
            _check_range(self.name, name, self.knobs[name], value)
            values[name] = value
        if not self.smoothing and smooths(smoothing):
            raise LevelheadError(
                f"--loss {self.name}: {self.why_unsmoothed}; leave out --smoothing"
            )
        return Options(smoothing, convention, class_weights, values)

    def check(self, targets: Targets) -> None:
        """Raise LevelheadError for soft targets where the loss wants one label."""
        if not self.soft and targets.soft is not None:
            raise LevelheadError(
                f"--loss {self.name}: relaxes one label, not soft targets; train it with "
                "--targets loss and labels that are not mixed, or take cross_entropy"
            )


def _check_range(loss: str, name: str, knob: Knob, value: float) -> None:
    if not 0 <= value < knob.below or (knob.positive and value == 0):
        of = f"{knob.letter} of --loss {loss} " if knob.letter else ""
        raise LevelheadError(
            f"--{name} {value}: {of}must be in {'(' if knob.positive else '['}0, {knob.below:g}), "
            f"for example {knob.default:g}"
        )
