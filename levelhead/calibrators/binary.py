"""Platt scaling, beta calibration, quadratic scaling, Venn–Abers predictors: two classes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators.affine import PRIOR, BiasTemperature, Vector
from levelhead.calibrators.calibrator import Calibrator, Layer, check_classes
from levelhead.calibrators.newton import newton
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs


class Platt(BiasTemperature):
    """sigmoid(a · log-odds + b) for two classes (Platt 1999), fitted to the labels as they are.

    Platt's softened targets are not used. For K = 2 the map is bias-corrected temperature
    scaling: a is its weight, b the difference of its biases.
    """

    method, title, only = "platt", "Platt scaling", 2


class Beta(Vector):
    """sigmoid(a log p − b log(1 − p) + c) for two classes, a and b ≥ 0 (Kull et al. 2017).

    p is the second class's probability. For K = 2 the map is vector scaling with the weights
    (b, a) and c the difference of the biases, but for the bound: where a weight would be below 0,
    the best of the fits with one weight or both held at 0, which is the optimum within the bound.
    """

    method, title, only = "beta", "Beta calibration", 2

    @classmethod
    def _solve(cls, u: Tensor, labels: Tensor, centre: Tensor) -> tuple[Tensor, float | None]:
        parts = []
        for free in ([1, 1], [0, 1], [1, 0], [0, 0]):
            mask = centre.new_tensor([*free, 1, 1])
            hold = torch.where(mask > 0, 1 / PRIOR**2, 1e15)
            theta, value = newton(u, labels, centre * mask, hold.mul)
            if bool((theta * mask >= 0)[:2].all()):
                parts.append((value, theta * mask))
            if parts and free == [1, 1]:
                break
        return min(parts, key=lambda pair: pair[0])[1], None


@dataclass(frozen=True)
class Quadratic(Calibrator):
    """sigmoid(a + b s + c s²) of the log-odds s, as Berta et al. 2025 do for two classes.

    Logistic regression, with a weak Gaussian penalty of deviation `PRIOR` around s itself, in units
    of the deviation of s. Where c is not 0 the map falls somewhere: beyond its turning point the
    value there is kept.
    """

    method, title, only = "quadratic", "Quadratic scaling", 2
    size = staticmethod(lambda k: 3)

    coefficients: tuple[float, ...]  # a, b, c
    class_names: tuple[str, ...]
    n: int
    fitted_on: str = ""
    limit: str | None = None

    def __post_init__(self) -> None:
        if len(self.coefficients) != 3:
            raise ValueError(f"{len(self.coefficients)} coefficients")

    @classmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split. Raises LevelheadError for other than two classes."""
        check_two(outputs, cls.method)
        s = _odds(outputs)
        unit = max(float(s.square().mean().sqrt()), 1e-12)
        x = torch.stack([torch.ones_like(s), s / unit, (s / unit).square()], 1)
        y, theta = outputs.labels.double(), torch.tensor([0.0, unit, 0.0], dtype=torch.float64)
        centre, value = theta.clone(), math.inf
        for _ in range(100):  # Newton's method, each step halved until it descends
            p = torch.sigmoid(x @ theta)
            gradient = x.T @ (p - y) + (theta - centre) / PRIOR**2
            hessian = (x * (p * (1 - p))[:, None]).T @ x + torch.eye(3).double() / PRIOR**2
            step = torch.linalg.solve(hessian, gradient)
            length = 1.0
            while (new := _loss(x, y, theta - length * step, centre)) > value and length > 1e-6:
                length /= 2
            theta, before, value = theta - length * step, value, new
            if before - value < 1e-10:
                break
        a, b, c = (theta / torch.tensor([1.0, unit, unit * unit])).tolist()
        return cls((a, b, c), outputs.class_names, len(outputs), fitted_on)

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated Outputs of the same kind. Raises LevelheadError for other classes."""
        check_classes(outputs, self.method, self.class_names)
        s, (a, b, c) = _odds(outputs), self.coefficients
        if c != 0:
            turn = -b / (2 * c)
            s = s.clamp(min=turn) if c > 0 else s.clamp(max=turn)
        odds = a + b * s + c * s * s
        scores = torch.stack([torch.zeros_like(odds), odds], 1)
        if outputs.kind == "probabilities":
            scores = torch.softmax(scores, 1)
        return dataclasses.replace(outputs, scores=scores)

    def layer(self) -> Layer:
        """The same as a module."""
        _, b, c = self.coefficients
        turn = -b / (2 * c) if c else 0.0
        low, high = (turn if c > 0 else -math.inf), (turn if c < 0 else math.inf)

        def function(z: Tensor, fitted: Tensor) -> Tensor:
            s = (z[:, 1] - z[:, 0]).clamp(-700, 700).clamp(max(low, -700.0), min(high, 700.0))
            odds = fitted[0] + fitted[1] * s + fitted[2] * s * s
            return torch.log_softmax(torch.stack([torch.zeros_like(odds), odds], 1), 1)

        return Layer(function, fitted=self.coefficients)


@dataclass(frozen=True)
class VennAbers(Calibrator):
    """p₁/(1 − p₀ + p₁), p₀ and p₁ of isotonic regressions that hold the new example as each class.

    The inductive Venn–Abers predictor (Vovk, Petej & Fedorova 2015), whose pair (p₀, p₁) holds a
    calibrated probability whatever the data; merged for log loss (their section 4). Never 0 or 1.
    """

    method, title, only = "venn_abers", "Venn–Abers predictor", 2
    size = staticmethod(lambda k: None)

    x: tuple[float, ...]  # log-odds of the examples, ascending, without repeats [M]
    p: tuple[float, ...]  # [2 M + 1]: between two of x, at x, between, …
    class_names: tuple[str, ...]
    n: int
    fitted_on: str = ""
    limit: str | None = None

    def __post_init__(self) -> None:
        if len(self.p) != 2 * len(self.x) + 1:
            raise ValueError(f"{len(self.p)} probabilities for {len(self.x)} places")

    @classmethod
    def least(cls, classes: int) -> int:
        """100 examples."""
        return 100

    @classmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split. Raises LevelheadError for other than two classes."""
        check_two(outputs, cls.method)
        s, y = _odds(outputs).numpy(), outputs.labels.numpy()
        x, place = np.unique(s, return_inverse=True)
        count, hits = np.bincount(place).astype(float), np.bincount(place, y).astype(float)
        # Of class 0 the same turned around: p₀ is 1 less what p₁ would be there.
        upper = _inserted(count, hits)
        lower = 1 - _inserted(count[::-1], (count - hits)[::-1])[::-1]
        merged = upper / (1 - lower + upper)
        return cls(
            tuple(x.tolist()), tuple(merged.tolist()), outputs.class_names, len(s), fitted_on
        )

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated probabilities. Raises LevelheadError for other classes."""
        check_classes(outputs, self.method, self.class_names)
        s, x = _odds(outputs).numpy(), np.array(self.x)
        at = np.searchsorted(x, s)
        same = x[np.minimum(at, len(x) - 1)] == s
        p = torch.from_numpy(np.array(self.p)[2 * at + same])
        scores = torch.stack([1 - p, p], 1)
        return dataclasses.replace(outputs, kind="probabilities", scores=scores)

    def layer(self) -> Layer:
        """The same as a module."""

        def function(z: Tensor, x: Tensor, p: Tensor) -> Tensor:
            u = torch.log_softmax(z, 1)
            s = (u[:, 1] - u[:, 0]).clamp(-700, 700)[:, None]
            one = p[(x < s).sum(1) + (x <= s).sum(1)]
            return torch.stack([1 - one, one], 1).log()

        return Layer(function, x=self.x, p=self.p)


def check_two(outputs: Outputs, method: str) -> None:
    """Raise LevelheadError for other than two classes."""
    check_classes(outputs, method)
    if outputs.classes != 2:
        raise LevelheadError(f"{method}: is for 2 classes; these outputs have {outputs.classes}")


def _odds(outputs: Outputs) -> Tensor:
    """Log-odds of the second class, float64 [N], within ± 700."""
    u = outputs.log_probabilities()
    return (u[:, 1] - u[:, 0]).clamp(-700, 700)


def _loss(x: Tensor, y: Tensor, theta: Tensor, centre: Tensor) -> float:
    z = x @ theta
    own = float((torch.nn.functional.softplus(z) - y * z).sum())
    return own + float((theta - centre).square().sum()) / (2 * PRIOR**2)


def _inserted(count: Any, hits: Any) -> Any:
    """Isotonic regression at an inserted example that came true, for each place, [2 M + 1].

    Places: before the first group of equals, at it, between it and the next, … By the minimax
    formula it is max over a min over b of the slope from the left points (X_a − 1, Y_a − 1) to the
    right ones (X_b, Y_b) of the cumulative sums; only corners of their lower hulls matter.
    """
    xs, ys = (np.append(0.0, np.cumsum(v)) for v in (count, hits))
    groups = len(count)
    right: list[Any] = [None] * (groups + 1)
    hull: list[int] = []
    for b in range(groups, -1, -1):  # lower hull of the points b … M
        while len(hull) > 1 and _above(xs, ys, b, hull[-1], hull[-2]):
            hull.pop()
        hull.append(b)
        right[b] = np.array(hull)
    left: list[int] = []
    found = np.empty(2 * groups + 1)
    for a in range(groups + 1):
        # Inserted after group a (alone), then together with group a + 1.
        while len(left) > 1 and _above(xs, ys, left[-2], left[-1], a):
            left.pop()
        left.append(a)
        corners = np.array(left)
        for place, b in ((2 * a, a), (2 * a + 1, a + 1)):
            if b > groups:
                continue
            ends = right[b]
            rise = ys[ends][None] - ys[corners][:, None] + 1
            run = xs[ends][None] - xs[corners][:, None] + 1
            found[place] = (rise / run).min(1).max()
    return found


def _above(xs: Any, ys: Any, i: int, j: int, k: int) -> bool:
    """Whether point j lies on or above the line from i to k, i < j < k."""
    return bool((ys[j] - ys[i]) * (xs[k] - xs[i]) >= (ys[k] - ys[i]) * (xs[j] - xs[i]))
