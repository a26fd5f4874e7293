"""Calibrator: the contract of the table CALIBRATORS, and what all its entries share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.outputs.coerce import MASKED

LOG_ZERO = MASKED  # stands for log 0


class Layer(torch.nn.Module):
    """A function of logits [N, K] and of tensors that were fitted, as a module to export."""

    def __init__(self, function: Callable[..., Tensor], **fitted: Any) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(fitted)
        for name, value in fitted.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        fitted = {name: getattr(self, name) for name in self.names}
        return self.function(logits.double(), **fitted)


class Calibrator(ABC):
    """Fitted on validation by `fit_on`; then Outputs in, calibrated Outputs out; saved as JSON.

    Entries are frozen dataclasses of plain numbers and strings.
    """

    method: ClassVar[str]  # its key in CALIBRATORS
    title: ClassVar[str]
    size: ClassVar[Any]  # K -> number of free parameters, None where the examples decide
    only: ClassVar[int | None] = None  # the number of classes, where it must be one
    n: int  # examples it was fitted on
    fitted_on: str
    limit: Any  # None, or what the examples could not tell

    @classmethod
    @abstractmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split, in float64. Raises LevelheadError where it cannot be."""

    @classmethod
    def fit_on(cls, outputs: Outputs) -> Self:
        """`fit_outputs` on validation. Raises LevelheadError for the splits train and test."""
        return cls.fit_outputs(outputs, fitted_on=fitting_split(outputs))

    @classmethod
    def parameters(cls, classes: int) -> int | None:
        """Free parameters for so many classes; None where the examples decide how many."""
        numbers: int | None = cls.size(classes)
        return numbers

    @classmethod
    def least(cls, classes: int) -> int:
        """Examples from which `choose` considers it: 10 a parameter."""
        return 10 * (cls.parameters(classes) or 0)

    @abstractmethod
    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated Outputs, in float64. Raises LevelheadError for other classes."""

    @abstractmethod
    def layer(self) -> Layer:
        """The same as a module: logits [N, K] -> calibrated log-probabilities, float64 [N, K].

        Tensor operations alone, so that it can be exported with a network.
        """

    def probabilities(self, scores: Any, kind: Literal["logits", "probabilities"]) -> Tensor:
        """Calibrated probabilities, float64 [N, K], of scores [N, K] that have no labels.

        `scores`: an array, a tensor or lists. Raises LevelheadError as `apply` and `Outputs` do.
        """
        names = getattr(self, "class_names", None)
        make = Outputs.from_logits if kind == "logits" else Outputs.from_probabilities
        n = len(scores)
        return self.apply(make(scores, torch.zeros(n, dtype=torch.int64), names)).probabilities()

    def summary(self) -> dict[str, Any]:
        """Its block in a judgement: what was applied, and what it was fitted on."""
        block = {"method": self.method, "fitted_on": self.fitted_on, "n": self.n}
        return block | ({"limit": self.limit} if self.limit else {})

    def sentence(self) -> str:
        """What was found, for people."""
        on = f"fitted on {self.n:,} examples" + (f" ({self.fitted_on})" if self.fitted_on else "")
        return f"{self.title}, {on}." + (f" But {self.limit}." if self.limit else "")

    def to_json(self) -> dict[str, Any]:
        """A JSON object of its fields, all plain and finite, with the key `method`."""
        return {"method": self.method, **vars(self)}

    @classmethod
    def from_json(cls, stored: Any) -> Self:
        """What `to_json` gave, exactly. Raises LevelheadError if it is not that."""
        try:
            fields = dict(stored)
            if fields.pop("method") != cls.method:
                raise KeyError("method")
            return cls(**{name: frozen(value) for name, value in fields.items()})
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise LevelheadError(
                f"calibration: not a saved {cls.method} ({error}); fit it anew"
            ) from None


def frozen(value: Any) -> Any:
    """Lists as tuples, at any depth. Raises ValueError for a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value}")
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def fitting_split(outputs: Outputs) -> str:
    """The name of the split to fit on. Raises LevelheadError for train and test: the model saw
    the one, and the other has to judge."""
    if outputs.split in ("train", "test"):
        raise LevelheadError(
            f"outputs of the split {outputs.split!r}: a calibrator is fitted on validation, on "
            "examples that neither trained nor judge the model"
        )
    return outputs.split or "outputs of no named split"


def check_classes(outputs: Outputs, method: str, names: tuple[str, ...] | None = None) -> None:
    """Raise LevelheadError for Outputs of the confidence alone, or with other classes' names."""
    if not isinstance(outputs, Outputs):
        raise LevelheadError(
            f"{method}: applies to Outputs, not {type(outputs).__name__}; for an array: "
            "calibrator.probabilities(scores, 'logits')"
        )
    if outputs.kind == "confidence":
        raise LevelheadError(
            f"{method}: the outputs hold the confidence alone; give the scores of all classes"
        )
    if names is None or outputs.class_names == names:
        return
    if len(names) != outputs.classes:
        raise LevelheadError(
            f"{method}: fitted for {len(names)} classes; these outputs have {outputs.classes}"
        )
    i = next(i for i, name in enumerate(names) if name != outputs.class_names[i])
    raise LevelheadError(
        f"{method}: class {i} was {names[i]!r} where it was fitted and is "
        f"{outputs.class_names[i]!r} here; bring the columns into the same order"
    )
