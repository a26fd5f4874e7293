"""Cumulative differences of confidence and correctness: calibration without bins or bandwidth.

Arrieta-Ibarra et al. 2022 ("Metrics of calibration for probabilistic predictions"): the slope of
the curve is the miscalibration there, its greatest height the ECCE-MAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import BLUE, INK, MUTED, percent, tips
from levelhead.metrics.ece import cumulative

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs

POINTS = 1000


@dataclass(frozen=True)
class Cumulative:
    """Running sums over examples by rising confidence, float64 [points], from share 0 to 1."""

    share: np.ndarray  # of the examples that were added up
    confidence: np.ndarray  # of the last one added
    difference: np.ndarray  # Σ (confidence − correct) / n
    half: float  # within ± this the whole curve stays for 95 % of calibrated models
    mad: float  # max |difference| over all examples
    n: int
    title: str = "Cumulative difference"

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 3.4

    @property
    def label(self) -> str:
        return f"{self.title}: ECCE-MAD {self.mad:.4f}, n = {self.n:,}"


def data(outputs: Outputs, title: str = "Cumulative difference") -> tuple[Cumulative]:
    """Add up confidence − correct over the examples of `outputs`, sorted by confidence."""
    sure, difference, half = (x.numpy() for x in cumulative(outputs))
    n = len(outputs)
    keep = np.unique(np.linspace(0, n - 1, min(n, POINTS - 1)).astype(int))
    share, x, y = np.append(0, (keep + 1) / n), sure[keep], np.append(0, difference[keep])
    mad = float(np.abs(difference).max())
    return (Cumulative(share, np.append(sure[0], x), y, float(half[-1]), mad, n, title),)


def draw(panel: Cumulative, axes: Axes) -> None:
    """The curve and the band in which a calibrated model stays; below, the confidences."""
    from matplotlib.ticker import MaxNLocator

    x, y = panel.share, panel.difference
    band = axes.axhspan(-panel.half, panel.half, color=MUTED, alpha=0.25, linewidth=0)
    band.set_label("95 % of calibrated models")
    axes.axhline(0, color=INK, linestyle="--", linewidth=1.1)
    marker = "o" if len(x) <= 12 else None
    axes.plot(x, y, color=BLUE, marker=marker, markersize=3.5, label="rising: too confident there")
    at = np.linspace(0, 1, 6)
    sure = panel.confidence[np.searchsorted(x, at - 1e-9).clip(max=len(x) - 1)]
    axes.set_xticks(at, [f"{percent(a)}\n{c:.3f}" for a, c in zip(at, sure, strict=True)])
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlim=(0, 1), xlabel="examples by rising confidence, and their confidence")
    what = f"largest {panel.mad:.4f} (ECCE-MAD), n = {panel.n:,}"
    axes.set_title(f"{panel.title}\n{what}", linespacing=1.4)
    axes.set_ylabel("Σ (confidence − correct) / n")
    axes.grid(axis="y")
    axes.legend(loc="best", handlelength=1.5)
    texts = [
        f"up to confidence {c:.3f} ({percent(s)} of examples): {d:+.4f}"
        for c, s, d in zip(panel.confidence, x, y, strict=True)
    ]
    tips(axes, x, y, texts)
