"""Reliability class by class: of the examples given class k with probability p, how many are k?

Every probability counts, not the prediction's alone (classwise ECE; Kull et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from levelhead.figures.canvas import shorten
from levelhead.figures.reliability import Reliability, bars, uprights
from levelhead.metrics.classwise import prepare
from levelhead.statistics.binning import bin_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs


@dataclass(frozen=True)
class Table:
    """Every probability of every class in bins; NaN where one is empty."""

    counts: np.ndarray  # int64 [K, bins]
    confidence: np.ndarray  # float64 [K, bins], mean probability of the class
    share: np.ndarray  # float64 [K, bins], how many are of the class

    @property
    def error(self) -> np.ndarray:
        """Calibration error of each class, float64 [K]."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.share))
        return np.asarray((self.counts * gaps).sum(1) / self.counts.sum(1))


@dataclass(frozen=True)
class OfClass(Reliability):
    """The bins of one class; `accuracy` is the share of examples that are of it."""

    @property
    def size(self) -> tuple[float, float]:
        return 2.2, 2.2

    @property
    def heading(self) -> str:
        own = round(float(np.nansum(self.accuracy * self.counts)))
        title = f"{shorten(self.title, 22)}\nECE {self.ece[0]:.3f}, n = {own:,}"
        return title + f" of {int(self.counts.sum()):,}"


def table(outputs: Outputs) -> Table:
    """All N·K probabilities of `outputs` in their bins, as the classwise ECE has them."""
    counts, sure, right, _ = prepare(outputs).sums
    counts = torch.where(counts > 0.5, counts, 0)
    means = ((total / counts).numpy() for total in (sure, right))
    return Table(counts.numpy().astype(np.int64), *means)


def data(outputs: Outputs, limit: int = 12) -> tuple[OfClass, ...]:
    """A panel for each of the `limit` worst calibrated classes, the worst first.

    None where only the prediction's probability is known.
    """
    if outputs.kind == "confidence":
        return ()
    found, nan, edges = table(outputs), float("nan"), bin_edges().numpy()
    error = found.error
    panels = []
    for k in np.argsort(-error, kind="stable")[:limit]:
        counts, share = found.counts[k], found.share[k]
        ends, ece = uprights(share, counts), (float(error[k]), nan, nan)
        arrays = (edges, counts, share, found.confidence[k], *ends, ece)
        panels.append(OfClass(outputs.class_names[k], *arrays))
    return tuple(panels)


def draw(panel: OfClass, axes: Axes) -> None:
    """The bars of a reliability diagram, small."""
    bars(panel, axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7.5)
    axes.set_xlabel("probability of the class", fontsize=7.5)
    axes.set_ylabel("share of the class", fontsize=7.5)
    axes.set_title(panel.heading, fontsize=7.5, linespacing=1.3, pad=5, x=-0.2)
