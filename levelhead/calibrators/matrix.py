"""Matrix scaling and Dirichlet calibration: every log-probability speaks for every class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from levelhead.calibrators.affine import PRIOR, Affine
from levelhead.calibrators.newton import affine, newton
from levelhead.statistics.folds import folds


class Dirichlet(Affine):
    """W log p + b with off-diagonal and intercept regularisation, ODIR (Kull et al. 2019).

    Mean NLL + λ (Σ_i≠j W_ij² / (K(K − 1)) + Σ_k b_k² / K), in units where temperature scaling is
    W = I, so that the logits' unit does not matter. One λ (the paper's μ = λ) from 1,000 to
    0.001, downwards as long as the held-out NLL of five folds falls (of one fold for K > 50). As
    λ grows, this becomes vector scaling without biases.
    """

    method, title, dims = "dirichlet", "Dirichlet calibration", 2
    size = staticmethod(lambda k: k**2 - 1)  # a constant on a column of W, or on b, is nothing

    @classmethod
    def _pull(cls, d: Tensor, k: int) -> Tensor:
        """Half the gradient of the regularisation at d = theta − temperature scaling, for λ = 1."""
        w, b = d[:-k].view(k, k), d[-k:]
        off = (w - w.diag().diag()) / (k * (k - 1))
        return torch.cat([off.flatten(), b / k])

    @classmethod
    def _solve(cls, u: Tensor, labels: Tensor, centre: Tensor) -> tuple[Tensor, float | None]:
        n, k = u.shape

        def fit(rows: Tensor, start: Tensor, strength: float, tolerance: float) -> Tensor:
            def penalty(d: Tensor) -> Tensor:
                return d / PRIOR**2 + 2 * len(rows) * strength * cls._pull(d, k)

            return newton(u[rows], labels[rows], centre, penalty, start, tolerance)[0]

        fold = folds(labels, 5)
        used = range(5 if k <= 50 else 1) if n >= 10 else ()
        parts = [((fold != f).nonzero().squeeze(1), (fold == f).nonzero().squeeze(1)) for f in used]
        starts = [centre] * len(parts)
        best, strength, theta = math.inf, 1e3, centre
        for trial in (10.0**e for e in range(3, -4, -1) if parts):
            held_out = 0.0
            for i, (rest, part) in enumerate(parts):
                starts[i] = fit(rest, starts[i], trial, 0.1)  # 0.1 nats in all do not change λ
                scores = affine(u[part], starts[i])
                held_out += float(torch.nn.functional.cross_entropy(scores, labels[part]))
            if held_out >= best:
                break
            best, strength, theta = held_out, trial, starts[0]
        return fit(torch.arange(n), theta, strength, 1e-10), strength


class Matrix(Dirichlet):
    """W log p + b, matrix scaling (Guo et al. 2017), regularised towards temperature scaling.

    On log-probabilities this is the Dirichlet's map; what differs is where λ pulls: here the
    diagonal too, towards its own mean: λ Σ_k (W_kk − mean)² / K. As λ grows, this becomes
    temperature scaling; with λ = 0 (Guo et al.) it would overfit.
    """

    method, title = "matrix", "Matrix scaling"

    @classmethod
    def _pull(cls, d: Tensor, k: int) -> Tensor:
        diagonal = d[:-k].view(k, k).diag()
        even = ((diagonal - diagonal.mean()) / k).diag()
        return super()._pull(d, k) + torch.cat([even.flatten(), d.new_zeros(k)])
