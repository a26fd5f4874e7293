"""Affine calibrators: softmax of W log p + b."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from levelhead.calibrators.calibrator import LOG_ZERO, Calibrator, Layer, check_classes, frozen
from levelhead.calibrators.newton import affine, newton
from levelhead.calibrators.temperature import WIDEST, Temperature
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.outputs.validate import first

PRIOR = 10.0
"""Standard deviation of the weak Gaussian penalty on every parameter, around temperature scaling
and in its units: weights relative to 1/T, biases in nats. It matters only where the examples leave
a parameter without bound: separable data, a class without examples."""


@dataclass(frozen=True)
class Affine(Calibrator):
    """softmax(W log p + b), p the probabilities: adding a constant to a row of logits is nothing.

    Logits stay logits, probabilities stay probabilities; the prediction may change. Fitted by
    Newton's method to convergence, from temperature scaling, with the penalty of `PRIOR`.
    """

    weight: Any  # W: a number, K numbers (its diagonal) or K rows of K
    bias: tuple[float, ...]
    class_names: tuple[str, ...]
    n: int
    fitted_on: str = ""
    limit: str | None = None
    penalty: float | None = None  # λ of the matrix calibrators

    dims: ClassVar[Literal[0, 1, 2]]  # of W

    def __post_init__(self) -> None:
        k, (w, b) = len(self.class_names), self._tensors()
        if w.shape != (k,) * self.dims or b.shape != (k,):
            raise ValueError(f"weight {tuple(w.shape)} and bias {tuple(b.shape)} for {k} classes")

    @classmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split.

        Raises LevelheadError for kind "confidence", where a label's probability is exactly 0, and
        for a full W (which mixes the classes) where any is.
        """
        k, names = outputs.classes, outputs.class_names
        if cls.only not in (None, k):
            raise LevelheadError(f"{cls.method}: is for {cls.only} classes; these outputs have {k}")
        guess = Temperature.fit_outputs(outputs)
        # Where a bias lets no temperature help, the unit is the logits' spread.
        unit = guess.temperature / (WIDEST if guess.limit == "T -> infinity" else 1)
        u = _logs(outputs, cls).div_(unit)
        one = torch.eye(k).flatten() if cls.dims == 2 else torch.ones(k if cls.dims else 1)
        theta, strength = cls._solve(u, outputs.labels, torch.cat([one, torch.zeros(k)]).double())
        absent = (torch.bincount(outputs.labels, minlength=k) == 0).nonzero().flatten().tolist()
        limit = None
        if guess.limit == "flat":
            limit = "all classes score the same, so the weights mean nothing"
        elif bool((affine(u, theta).argmax(1) == outputs.labels).all()):
            limit = "all of them are right then, so only a weak penalty keeps it from certainty"
        elif absent:
            some = ", ".join(repr(names[i]) for i in absent[:4]) + ", …" * (len(absent) > 4)
            limit = f"none of them is of {some}, whose bias only a weak penalty holds"
        weight = (theta[:-k] / unit).view((k,) * cls.dims).tolist()
        bias = tuple(theta[-k:].tolist())
        return cls(frozen(weight), bias, names, len(outputs), fitted_on, limit, strength)

    @classmethod
    def _solve(cls, u: Tensor, labels: Tensor, centre: Tensor) -> tuple[Tensor, float | None]:
        """W and b for log-probabilities u [N, K] divided by T, and λ; `centre`: W = 1, b = 0."""
        return newton(u, labels, centre, lambda d: d / PRIOR**2)[0], None

    def _tensors(self) -> tuple[Tensor, Tensor]:
        w, b = (torch.tensor(v, dtype=torch.float64) for v in (self.weight, self.bias))
        return w, b

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated Outputs of the same kind. Raises LevelheadError for other classes."""
        check_classes(outputs, self.method, self.class_names)
        w, b = self._tensors()
        scores = affine(_logs(outputs, type(self)), torch.cat([w.flatten(), b]))
        if outputs.kind == "probabilities":
            scores = torch.softmax(scores, 1)
        return dataclasses.replace(outputs, scores=scores)

    def layer(self) -> Layer:
        """The same as a module."""
        w, b = self._tensors()
        return Layer(
            lambda z, theta: torch.log_softmax(
                affine(torch.log_softmax(z, 1).clamp(min=LOG_ZERO), theta), 1
            ),
            theta=torch.cat([w.flatten(), b]),
        )


class BiasTemperature(Affine):
    """logits / T + b_k, "bias-corrected temperature scaling" (Alexandari et al. 2020)."""

    method, title, dims = "bias_temperature", "Temperature with a bias for each class", 0
    size = staticmethod(lambda k: k)  # 1/T, and K biases of which only differences matter


class Vector(Affine):
    """w_k log p_k + b_k, vector scaling (Guo et al. 2017)."""

    method, title, dims = "vector", "Vector scaling", 1
    size = staticmethod(lambda k: 2 * k - 1)


def _logs(outputs: Outputs, calibrator: type[Affine]) -> Tensor:
    """Log-probabilities, float64 [N, K], with LOG_ZERO for log 0."""
    u = outputs.log_probabilities()
    zero = (u.clamp_(min=LOG_ZERO) == LOG_ZERO).any(1)
    if calibrator.dims == 2 and (i := first(zero)) is not None:
        raise LevelheadError(
            f"row {i}: a probability is exactly 0, which {calibrator.method} cannot mix with "
            "the others; give logits, or probabilities with more digits"
        )
    return u
