"""Structured vector and matrix scaling: what temperature scaling leaves, pulled towards none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from levelhead.calibrators.calibrator import Calibrator, Layer, check_classes, frozen
from levelhead.calibrators.newton import affine, newton
from levelhead.calibrators.temperature import Temperature
from levelhead.outputs import Outputs

LEAST = -87.33654475  # log of the smallest normal float32, as in the authors' code


@dataclass(frozen=True)
class Structured(Calibrator):
    """softmax(W u + b) of u, the logarithm of tempered probabilities with a little of the uniform.

    1. Temperature scaling; then u = log((1 − m) p(T) + m/K), m = 1/(n + 1): n examples cannot show
       that a class is rarer than that, so one wrong answer to come costs log(K (n + 1)) at most.
    2. Σ NLL + K (Σ (W_kk − 1)² + Σ b_k²) + K (K − 1) Σ_{i≠j} W_ij² is least: penalties that shrink
       as 1/n against the mean loss, and grow with the number of parameters.

    Source: Berta, Holzmüller, Jordan & Bach 2025 (arXiv 2511.03685), ridge penalties; agrees with
    probmetrics 1.3 (tests). Convex, by Newton's method to convergence.
    """

    temperature: float
    uniform: float  # m
    weight: Any  # K numbers (its diagonal) or K rows of K
    bias: tuple[float, ...]
    class_names: tuple[str, ...]
    n: int
    fitted_on: str = ""
    limit: str | None = None

    dims: ClassVar[Literal[1, 2]]  # of W

    def __post_init__(self) -> None:
        k, (w, b) = len(self.class_names), self._tensors()
        if w.shape != (k,) * self.dims or b.shape != (k,):
            raise ValueError(f"weight {tuple(w.shape)} and bias {tuple(b.shape)} for {k} classes")

    @classmethod
    def least(cls, classes: int) -> int:
        """10: the penalties hold what few examples leave open."""
        return 10

    @classmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split.

        Raises LevelheadError for kind "confidence", and where a label's probability is exactly 0.
        """
        k, n = outputs.classes, len(outputs)
        tempered = Temperature.fit_outputs(outputs)
        uniform = 1 / (n + 1)
        u = _mixed(outputs, tempered.temperature, uniform)
        one = torch.eye(k).flatten() if cls.dims == 2 else torch.ones(k)
        centre = torch.cat([one, torch.zeros(k)]).double()
        strength = torch.full_like(centre, 2.0 * k)
        if cls.dims == 2:
            off = ~torch.eye(k, dtype=torch.bool).flatten()
            strength[: k * k][off] = 2.0 * k * (k - 1)
        theta = newton(u, outputs.labels, centre, strength.mul)[0]
        weight = frozen(theta[:-k].view((k,) * cls.dims).tolist())
        bias = tuple(theta[-k:].tolist())
        limit = None if tempered.limit is None else f"of its temperature: {tempered.limit}"
        names, first = outputs.class_names, tempered.temperature
        return cls(first, uniform, weight, bias, names, n, fitted_on, limit)

    def _tensors(self) -> tuple[Tensor, Tensor]:
        w, b = (torch.tensor(v, dtype=torch.float64) for v in (self.weight, self.bias))
        return w, b

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated Outputs of the same kind. Raises LevelheadError for other classes."""
        check_classes(outputs, self.method, self.class_names)
        w, b = self._tensors()
        u = _mixed(outputs, self.temperature, self.uniform)
        scores = affine(u, torch.cat([w.flatten(), b]))
        if outputs.kind == "probabilities":
            scores = torch.softmax(scores, 1)
        return dataclasses.replace(outputs, scores=scores)

    def layer(self) -> Layer:
        """The same as a module."""
        w, b = self._tensors()

        def function(z: Tensor, t: Tensor, m: Tensor, theta: Tensor) -> Tensor:
            p = torch.softmax(z / t, 1)
            return torch.log_softmax(affine(((1 - m) * p + m / z.shape[1]).log(), theta), 1)

        theta = torch.cat([w.flatten(), b])
        return Layer(function, t=self.temperature, m=self.uniform, theta=theta)

    def sentence(self) -> str:
        """What was found, for people."""
        on = f"fitted on {self.n:,} examples" + (f" ({self.fitted_on})" if self.fitted_on else "")
        return f"{self.title}, {on}, after temperature {self.temperature:.3g}."


class StructuredVector(Structured):
    """A weight and a bias for each class, SVS."""

    method, title, dims = "svs", "Structured vector scaling", 1
    size = staticmethod(lambda k: 2 * k)


class StructuredMatrix(Structured):
    """Every log-probability speaks for every class, SMS."""

    method, title, dims = "sms", "Structured matrix scaling", 2
    size = staticmethod(lambda k: k * k + k)


def _mixed(outputs: Outputs, temperature: float, uniform: float) -> Tensor:
    """log((1 − m) p(T) + m/K), float64 [N, K]."""
    log_p = torch.log_softmax(outputs.log_probabilities() / temperature, 1)
    k = outputs.classes
    return ((1 - uniform) * log_p.exp() + uniform / k).log().clamp_(min=LEAST)
