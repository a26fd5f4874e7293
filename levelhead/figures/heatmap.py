"""Where which class is too confident: classes by bins of probability, one colour a sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import BLUE, GRID, INK, VERMILLION, shorten, tip
from levelhead.figures.classwise_reliability import table
from levelhead.figures.reliability import uprights
from levelhead.statistics.binning import bin_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs

FEW = 5
"""Cells with fewer examples are drawn small and pale."""


@dataclass(frozen=True)
class Heatmap:
    """Mean probability minus share, for classes (worst calibrated first) by bins."""

    class_names: tuple[str, ...]
    error: np.ndarray  # float64 [classes], the calibration error of each
    edges: np.ndarray  # float64 [bins+1]
    counts: np.ndarray  # int64 [classes, bins]
    gap: np.ndarray  # float64 [classes, bins]; NaN where a cell is empty
    sure: np.ndarray  # bool [classes, bins], whether the gap is beyond chance (95 %)
    classes: int  # in all

    @property
    def size(self) -> tuple[float, float]:
        return 6.4, 1.5 + 0.2 * len(self.class_names)

    @property
    def label(self) -> str:
        worst = f"{self.class_names[0]} {self.error[0]:.3f}"
        return f"Calibration gaps of classes by probability, worst calibrated: {worst}"


def data(outputs: Outputs, limit: int = 30) -> tuple[Heatmap, ...]:
    """The gaps of the `limit` worst calibrated classes; none where only confidences are known."""
    if outputs.kind == "confidence":
        return ()
    sums = table(outputs)
    worst = np.argsort(-sums.error, kind="stable")[:limit]
    counts, share, sure = sums.counts[worst], sums.share[worst], sums.confidence[worst]
    ends = [uprights(s, n) for s, n in zip(share, counts, strict=True)]
    low, high = (np.array(end) for end in zip(*ends, strict=True))
    names = tuple(outputs.class_names[k] for k in worst)
    arrays = (bin_edges().numpy(), counts, sure - share, (sure < low) | (sure > high))
    return (Heatmap(names, sums.error[worst], *arrays, outputs.classes),)


def draw(panel: Heatmap, axes: Axes) -> None:
    """Depth of colour is the size of the gap; a number in points where it is beyond chance."""
    from matplotlib.patches import Rectangle

    k, bins = panel.counts.shape
    axes.set(xlim=(-0.5, bins - 0.5), ylim=(k - 0.5, -0.5))
    for row, column in np.argwhere(panel.counts > 0).tolist():
        gap, n = float(panel.gap[row, column]), int(panel.counts[row, column])
        colour, depth = (VERMILLION if gap > 0 else BLUE), min(1.0, abs(gap) / 0.3)
        side = (0.94, 0.9) if n >= FEW else (0.4, 0.4)
        corner = (column - side[0] / 2, row - side[1] / 2)
        alpha = 0.08 + 0.92 * depth * (1 if n >= FEW else 0.4)
        cell = Rectangle(corner, *side, facecolor=colour, alpha=alpha, linewidth=0, clip_on=False)
        axes.add_patch(cell)
        start, end = panel.edges[column : column + 2]
        name = panel.class_names[row]
        tip(cell, f"{name}, {start:.2f} to {end:.2f}: gap {100 * gap:+.1f} points, n = {n:,}")
        if panel.sure[row, column] and n >= FEW and abs(gap) >= 0.01:
            ink, text = ("white" if depth > 0.7 else INK), f"{100 * gap:+.0f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
    names = zip(panel.class_names, panel.error, strict=True)
    axes.set_yticks(range(k), [f"{shorten(name)} (ECE {error:.3f})" for name, error in names])
    ticks = np.arange(0, bins + 1, 3)
    axes.set_xticks(ticks - 0.5, [f"{panel.edges[tick]:.1f}" for tick in ticks])
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=GRID)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("probability of the class")
    some = f"{k} worst of {panel.classes:,}" if k < panel.classes else f"{k}"
    axes.set_title(
        f"Probability − share in points, n = {int(panel.counts[0].sum()):,}\n"
        f"{some} classes; vermillion: too confident",
        linespacing=1.4,
    )
