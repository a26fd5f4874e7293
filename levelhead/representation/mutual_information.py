"""Mutual information of an example and its logits: what smoothing erases.

The estimator of Müller, Kornblith and Hinton (2019, section 4). X is the index of an example and Y
the difference of two logits of it, which varies as the example is augmented at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.outputs.validate import first
from levelhead.statistics.examples import Interval, normal_interval

_PIECE = 1 << 20  # pairs of examples worked on at once


@dataclass(frozen=True, eq=False)
class Information:
    """An estimate of I(X; Y), and what it may be: `low` = 0 to `high` = log n, in nats.

    The estimate itself may come out below 0 (by about 0.06 with five draws of mere noise).
    """

    value: float  # nats
    sigma2: float  # variance of the noise, shared by all examples
    n: int
    influence: Tensor  # float64 [n], centred: n · what an example's weight adds to the value
    low: float = 0.0

    @property
    def high(self) -> float:
        return math.log(self.n)

    def interval(self, level: float = 0.95) -> Interval:
        """Where the estimate would lie for as many other examples, augmented anew.

        value ± z · deviation of the influence/√n. No bootstrap: an example drawn twice would count
        as one, and log n as log(0.63 n). It does not speak of the estimator's bias: `bias_check`.
        """
        return normal_interval(self.value, self.influence, level)


def mutual_information(draws: Any, fresh: Any) -> Information:
    """Î(X; Y) = mean_x [ −(f_x − μ_x)²/2σ² − log mean_x' exp(−(f_x − μ_x')²/2σ²) ], in nats.

    draws: [N, L], Y of L random augmentations of each example; μ_x is their mean.
    fresh: [N], f, Y of one more augmentation, independent of the L (else noise would look like
    information). σ² = mean_x (f_x − μ_x)². Where σ² is 0, the limit: Y tells apart what differs.
    Raises LevelheadError for shapes that do not fit and numbers that are not finite.
    """
    mean, f = torch.as_tensor(draws), torch.as_tensor(fresh)
    if mean.ndim != 2 or f.shape != mean.shape[:1] or len(f) < 2 or mean.shape[1] < 1:
        raise LevelheadError(
            f"draws {tuple(mean.shape)} and fresh {tuple(f.shape)}: must be [N, L] and [N], N > 1"
        )
    mean, f, n = _finite(mean, "draws").mean(1), _finite(f, "fresh"), len(f)
    noise = (f - mean).square()
    sigma2 = float(noise.mean())
    log_mixture, shared = torch.empty_like(f), torch.zeros_like(f)
    widening = 0.0  # mean over x of ∂ log mixture / ∂σ²
    size = max(1, _PIECE // n)
    for start in range(0, n, size):
        square = (f[start : start + size, None] - mean).square()
        power = -square / (2 * sigma2) if sigma2 else torch.where(square == 0, 0.0, -math.inf)
        log_mixture[start : start + size] = log_sum = power.logsumexp(1) - math.log(n)
        part = (power - log_sum[:, None]).exp() / n  # posterior of x' given f, rows add up to 1
        shared += part.sum(0)
        if sigma2:
            widening += float((part * square).sum()) / (2 * sigma2**2 * n)
    # d value / d weight: as an example, as a part of every mixture, and through σ².
    influence = -log_mixture - shared - widening * noise
    value = -float(log_mixture.mean()) - (0.5 if sigma2 else 0.0)
    return Information(value, sigma2, n, influence - influence.mean())


def integrated(means: Any, sigma: float, points: int = 20_001) -> float:
    """I(X; Y) in nats of X uniform over N examples and Y = means[X] + sigma · Gaussian noise.

    By the trapezoidal rule for h(Y) − h(Y|X): within 1e-6 while means span less than about 2,000
    sigma.
    """
    mu = torch.as_tensor(means, dtype=torch.float64)
    at = torch.linspace(
        float(mu.min()) - 9 * sigma, float(mu.max()) + 9 * sigma, points, dtype=torch.float64
    )
    density = torch.cat(
        [
            torch.exp(-((y[:, None] - mu) / sigma).square() / 2).mean(1)
            for y in at.split(max(1, _PIECE // len(mu)))
        ]
    ) / (sigma * math.sqrt(2 * math.pi))
    entropy = -float(torch.trapezoid(torch.xlogy(density, density), at))
    return entropy - 0.5 * math.log(2 * math.pi * math.e * sigma**2)


def bias_check(
    n: int = 600, draws: int = 5, repeats: int = 20, seed: int = 0
) -> list[dict[str, Any]]:
    """The estimator on simulated data whose mutual information is known, a row a case.

    Columns: case, truth, estimate (mean over `repeats`), bias, deviation (of one estimate; the
    examples stay, the noise is anew). Cases: all examples equal (0), two clusters (log 2), Gaussian
    means at signal-to-noise ratios 1, 10 and 100 (integrated; about ½ log(1 + ratio)), all distinct
    (log n).
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    two = 40.0 * (torch.arange(n) % 2).double()
    cases = {"all equal": (torch.zeros(n, dtype=torch.float64), 0.0)}
    share = float(two.mean()) / 40
    cases["two clusters"] = (two, -share * math.log(share) - (1 - share) * math.log1p(-share))
    for ratio in (1, 10, 100):
        means = math.sqrt(ratio) * normal
        cases[f"Gaussian, signal/noise {ratio}"] = (means, integrated(means, 1.0))
    cases["all distinct"] = (40.0 * torch.arange(n).double(), math.log(n))
    rows = []
    for case, (means, truth) in cases.items():
        noise = torch.randn(repeats, n, draws + 1, generator=generator, dtype=torch.float64)
        estimates = [mutual_information(y[:, 1:], y[:, 0]).value for y in means[:, None] + noise]
        values = torch.tensor(estimates, dtype=torch.float64)
        estimate = float(values.mean())
        rows.append(
            {
                "case": case, "truth": truth, "estimate": estimate, "bias": estimate - truth,
                "deviation": float(values.std(correction=min(1, repeats - 1))),
            }
        )  # fmt: skip
    return rows


def _finite(values: Tensor, name: str) -> Tensor:
    values = values.double()
    row = first(~values.isfinite().reshape(len(values), -1).all(1))
    if row is not None:
        raise LevelheadError(f"{name}: row {row} is not a finite number; fix or remove it")
    return values
