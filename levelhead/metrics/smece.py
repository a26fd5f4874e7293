"""Smooth calibration error, and the smoothed reliability curve.

No bins: examples are smoothed over confidence by a Gaussian reflected at 0 and 1. On a grid of
cells that is a product in the space of the cosine transform, whose basis is even at both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, number, once
from levelhead.outputs import Outputs
from levelhead.statistics.binning import BINS, sums
from levelhead.statistics.calibration_error import Cells, Error, unit_noise

GRID = 4096
"""Cells: the bandwidth of a million calibrated examples is still some cells wide."""
FINE = 65_536  # cells for a few examples, whose places between cells would show
_FEW = 5000
_COARSE = 128  # cells of the interval's simulation


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Examples in cells of confidence."""

    index: Tensor  # int64 [N], the cell
    grid: int  # how many cells
    confidence: Tensor  # float64 [N]
    correct: Tensor  # float64 [N]

    def __len__(self) -> int:
        return len(self.index)


def curve(
    confidence: Tensor,
    correct: Tensor,
    at: Tensor,
    bandwidth: float,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The smoothed reliability curve: accuracy and density of the examples at points [G].

    Kernel means of `correct` [N] over `confidence` [N], with the reflected Gaussian of standard
    deviation `bandwidth` (Błasiok & Nakkiran 2023): float64 [G] each, or [R, G] under `weights`
    [R, N]. The density integrates to 1 over [0, 1]; the accuracy is NaN where there is none.
    Examples are first moved to the middle of one of 4,096 cells: good for bandwidths from 0.001.
    """
    index = _cells(confidence.double(), GRID)
    weight = None if weights is None else weights.double()
    waves = min(GRID, math.ceil(9 / (math.pi * bandwidth)) + 1)  # the rest is damped to nothing
    wave = math.pi * torch.arange(waves, dtype=torch.float64)[:, None]
    basis = torch.cos(wave * at.double()) * torch.exp(-0.5 * (bandwidth * wave) ** 2)

    def smooth(values: Tensor | None) -> Tensor:
        transform = _dct(sums(index, GRID, values, weight).numpy())[..., :waves]
        transform[..., 0] /= 2
        return torch.from_numpy(transform) @ basis

    count, hits = smooth(None), smooth(correct.double())
    total = len(index) if weight is None else weight.sum(-1, keepdim=True)
    accuracy = torch.where(count > 1e-9 * total, (hits / count).clamp(0, 1), math.nan)
    return accuracy, (count / total).clamp(min=0)


def bandwidth(outputs: Outputs) -> float:
    """The bandwidth σ that smECE chooses, where smECE_σ = σ; at least one cell of the grid."""
    return max(float(value(prepare(outputs))["smece"]), 1 / GRID)


def error(residual: np.ndarray, total: Any, steps: int = 12) -> np.ndarray:
    """smECE [..] of the sums of confidence − correct in G cells [.., G] of `total` [..] examples.

    smECE_σ, the integral of the absolute smoothed residual, falls as σ grows. The σ that it equals
    is found by secants of log smECE_σ − log σ, whose slope is −1 at most: from one cell to 1.
    """
    spectrum, cells = _dct(residual), residual.shape[-1]
    sigma, least, slope = np.full(residual.shape[:-1], -3.0), -math.log(cells), np.array(-1.0)
    last = before = smoothed = sigma
    for step in range(steps):
        smoothed = np.abs(_smooth(spectrum, sigma)).sum(-1) / total
        away = np.log(np.maximum(smoothed, 1e-300)) - sigma
        if step:
            run = sigma - last
            rise = np.divide(away - before, run, out=np.full_like(run, -1.0), where=run != 0)
            slope = np.minimum(rise, -1.0)
        last, before = sigma, away
        sigma = np.clip(sigma - away / slope, least, 0.0)
    return np.asarray(np.where(sigma > least, np.exp(sigma), smoothed))


def _dct(values: np.ndarray) -> np.ndarray:
    from scipy.fft import dct

    return np.asarray(dct(values, type=2))


def _smooth(spectrum: np.ndarray, log_sigma: np.ndarray) -> np.ndarray:
    """The values of a cosine transform [.., G] after smoothing, each row by its bandwidth [..]."""
    from scipy.fft import idct

    decay = (math.pi * np.arange(spectrum.shape[-1])) ** 2 / 2
    return np.asarray(idct(spectrum * np.exp(-decay * np.exp(2 * log_sigma)[..., None]), type=2))


@once
def prepare(outputs: Outputs) -> Smoothed:
    """Sort the examples of `outputs` into cells of confidence."""
    rows = outputs.rows
    grid = FINE if len(outputs) <= _FEW else GRID
    return Smoothed(_cells(rows.confidence, grid), grid, rows.confidence, rows.correct)


def value(prepared: Smoothed, weights: Tensor | None = None) -> dict[str, Any]:
    """smECE of the (weighted) examples."""
    gap = prepared.confidence - prepared.correct
    residual = sums(prepared.index, prepared.grid, gap, weights)
    total = len(prepared) if weights is None else weights.sum(-1).numpy()
    return {"smece": number(torch.as_tensor(error(residual.numpy(), total)))}


def _cells_of(prepared: Smoothed, units: Tensor | None) -> tuple[Cells, Error]:
    """A coarser grid: the noise that simulation adds up is smoother than its cells."""
    index = torch.div(prepared.index, prepared.grid // _COARSE, rounding_mode="floor")
    count = sums(index, _COARSE).numpy()
    middle = (np.arange(_COARSE) + 0.5) / _COARSE
    total = sums(index, _COARSE, prepared.confidence).numpy()
    sure = np.divide(total, count, out=middle, where=count > 0)
    hits = sums(index, _COARSE, prepared.correct).numpy()
    place = (count.cumsum() - count / 2) / count.sum()  # bins of about equal mass
    residual = count * sure - hits
    plugin = max(float(_coarse(residual, count)), 1 / _COARSE)
    noise = math.sqrt(float((count * sure * (1 - sure)).sum())) / count.sum()
    # The smoothest pattern that loses no more than noise: one that has more changes of sign than
    # the population has would need a larger noise to show the error seen.
    for width in (4, 2, 1):
        near = [_smooth(_dct(v), np.array(math.log(width * plugin))) for v in (residual, count)]
        pattern = count * near[0] / np.maximum(near[1], 1e-12)
        if float(np.abs(pattern).sum()) / count.sum() >= plugin - noise:
            break
    bins = (place * BINS).astype(np.int64)
    noise = None
    if units is not None:
        gap = (prepared.confidence - prepared.correct).numpy()
        noise = unit_noise(units.numpy(), index.numpy(), gap, _COARSE)
    return Cells(count, sure, hits, bins, None, pattern, noise), _coarse


def _coarse(residual: np.ndarray, count: np.ndarray) -> np.ndarray:
    return error(residual, count.sum(-1), 4)  # good to 1e-4


def _cells(confidence: Tensor, cells: int) -> Tensor:
    return (confidence * cells).long().clamp_(max=cells - 1)


def _influence(prepared: Smoothed, cells: int = 256) -> Tensor:
    """Slope of the error in the residual of each cell of a coarser grid, by differences."""
    n = len(prepared)
    gap = prepared.confidence - prepared.correct
    index, place = torch.unique(prepared.index // (prepared.grid // cells), return_inverse=True)
    residual = sums(index[place], cells, gap).numpy()
    step = np.eye(cells)[index.numpy()] * 1e-3 * math.sqrt(n)
    up, down = (error(residual + side * step, n) for side in (1, -1))
    slope = torch.from_numpy((up - down) / (2e-3 * math.sqrt(n)))
    added = n * slope[place] * gap
    return added - added.mean()


smece = Metric(
    name="smece",
    meaning="how far confidence and accuracy are apart, without bins",
    title="Smooth calibration error",
    short="smooth calibration error",
    direction="down",
    source="confidence − correct smoothed by a reflected Gaussian whose deviation equals the error "
    "(Błasiok & Nakkiran 2023)",
    prepare=prepare,
    value=value,
    interval="calibration",
    cells=_cells_of,
    influence=_influence,
)
