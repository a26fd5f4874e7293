"""Platt scaling and beta calibration: two classes."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.calibrators.affine import PRIOR, BiasTemperature, Vector
from levelhead.calibrators.newton import newton


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
