"""Tests of perfect calibration without bins: Spiegelhalter's z and Kuiper's range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from levelhead.statistics.examples import by_unit

RARE = 50
"""With fewer errors expected a sum over examples is no normal."""


@dataclass(frozen=True)
class Tested:
    """A statistic and the probability of one as large if the model were calibrated."""

    statistic: float
    p_value: float


def spiegelhalter(confidence: Tensor, correct: Tensor, units: Tensor | None = None) -> Tested:
    """z of the Brier score: Σ (y − p)(1 − 2p) / √Σ (1 − 2p)² p (1 − p).

    For confidences p [N] and outcomes y [N]. Above 0: the Brier score is larger than p lets expect.
    With units the variance is that of their sums, and z a Student's t. Where fewer than 50 errors
    are expected z is no normal: its law is simulated. Source: Spiegelhalter 1986.
    """
    p, y = confidence.double(), correct.double()
    each = (y - p) * (1 - 2 * p)
    variance = float(((1 - 2 * p).square() * p * (1 - p)).sum())
    if units is not None:
        groups = int(units.max()) + 1
        sums = by_unit(each, units) * (len(each) / groups)
        variance = max(variance, float(sums.square().sum()))
    if variance <= 0:
        return Tested(0.0, 1.0)
    z = float(each.sum()) / math.sqrt(variance)
    if units is not None and groups > 1:
        from scipy.special import stdtr

        return Tested(z, float(2 * stdtr(groups - 1, -abs(z))))
    if float((p * (1 - p)).sum()) < RARE:
        return Tested(z, _simulated(p, abs(float(each.sum()))))
    return Tested(z, 2 * (1 - NormalDist().cdf(abs(z))))


def _simulated(p: Tensor, size: float) -> float:
    """How often |Σ (y − p)(1 − 2p)| is as large if y is drawn by p."""
    draw = np.random.default_rng(0)
    sure, weight = p.numpy(), (1 - 2 * p).numpy()
    draws = int(min(4000, max(500, 2e7 / len(sure))))
    times, step = 0, max(1, int(1e6 / len(sure)))
    for start in range(0, draws, step):
        shape = (min(step, draws - start), len(sure))
        sums = ((draw.random(shape) < sure) - sure) @ weight
        times += int((np.abs(sums) >= size - 1e-12).sum())
    return (1 + times) / (1 + draws)


def kuiper(confidence: Tensor, correct: Tensor, units: Tensor | None = None) -> Tested:
    """Range of the cumulative differences of p − y, ordered by p, in their standard deviations.

    Under calibration a Brownian motion's on [0, 1]: P(range > r) = 4 Σ (−1)^(k−1) k erfc(k r/√2)
    (Feller 1951). Examples of equal confidence move as one. With units the deviation grows by the
    design effect of p − y. Source: Arrieta-Ibarra et al. 2022 (ECCE-R).
    """
    order = torch.argsort(confidence, stable=True)
    p, y = confidence[order].double(), correct[order].double()
    _, count = p.unique_consecutive(return_counts=True)
    path = (p - y).cumsum(0)[count.cumsum(0) - 1]
    path = torch.cat([path.new_zeros(1), path])
    variance = float((p * (1 - p)).sum())
    if units is not None:
        sums = by_unit(confidence.double() - correct.double(), units)
        scale = len(p) / (int(units.max()) + 1)
        variance = max(variance, float(((sums - sums.mean()) * scale).square().sum()))
    if variance <= 0:
        return Tested(0.0, 1.0)
    r = float(path.max() - path.min()) / math.sqrt(variance)
    return Tested(r, range_tail(r))


def range_tail(r: float) -> float:
    """P(range of a Brownian motion on [0, 1] > r)."""
    if r < 0.4:  # the tail is 1 to 12 digits, where the series is slow
        return 1.0
    total = 0.0
    for k in range(1, 200):
        term = 4 * k * math.erfc(k * r / math.sqrt(2))
        total += term if k % 2 else -term
        if term < 1e-15:
            break
    return min(max(total, 0.0), 1.0)
