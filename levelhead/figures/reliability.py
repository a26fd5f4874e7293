"""Reliability diagram: of the predictions made with confidence c, how many were right?

Bins: `levelhead.binning` (15, right-closed); DeGroot and Fienberg 1983, Guo et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.binning import bin_confidence
from levelhead.figures.canvas import BLUE, GREEN, INK, MUTED, VERMILLION, number
from levelhead.intervals import interval, wilson
from levelhead.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of confidence, and the calibration error they add up to."""

    title: str
    edges: np.ndarray  # float64 [bins+1]
    counts: np.ndarray  # int64 [bins]
    accuracy: np.ndarray  # float64 [bins]; NaN in an empty bin, as in the next three
    confidence: np.ndarray  # float64 [bins], mean
    low: np.ndarray  # float64 [bins], Wilson's 95 % interval of the accuracy
    high: np.ndarray
    ece: tuple[float, float, float]  # value, low, high; NaN where unknown

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 5.5

    @property
    def heading(self) -> str:
        value, low, high = self.ece
        text = f"ECE {value:.3f}" if math.isfinite(value) else "ECE unknown"
        text += f" [{low:.3f}, {high:.3f}]" if math.isfinite(low + high) else ""
        return f"{self.title}\n{text}, n = {int(self.counts.sum()):,}"

    @property
    def label(self) -> str:
        return "Reliability diagram, " + self.heading.replace("\n", ": ")


def data(
    before: Outputs,
    after: Outputs | None = None,
    *,
    ece: Sequence[Mapping[str, float | None]] = (),
) -> tuple[Reliability, ...]:
    """Bins of `before` and, where given, of `after`: the same outputs with a temperature.

    `ece` are the `metrics.ece` of their judgements; without them the intervals are made here.
    """
    panels = []
    titles = ["Reliability"] if after is None else ["Before temperature", "After temperature"]
    for place, (title, outputs) in enumerate(zip(titles, [before, after], strict=False)):
        assert outputs is not None
        bins = bin_confidence(outputs.rows.confidence, outputs.rows.correct)
        counts, accuracy = bins.count.numpy().astype(np.int64), bins.accuracy.numpy()
        ends = np.array(
            [
                wilson(round(share * n), n) if n else (math.nan, math.nan)
                for share, n in zip(accuracy.tolist(), counts.tolist(), strict=True)
            ]
        )
        if place < len(ece):
            low, high = number(ece[place].get("low")), number(ece[place].get("high"))
        else:
            found = interval(METRICS["ece"], METRICS["ece"].prepare(outputs))
            low, high = found.low, found.high
        ece_ = (bins.error(), low, high)
        made = (bins.edges.numpy(), counts, accuracy, bins.confidence.numpy())
        panels.append(Reliability(title, *made, ends[:, 0], ends[:, 1], ece_))
    return tuple(panels)


def draw(panel: Reliability, axes: Axes) -> None:
    """Bars reach the bin's accuracy; hatching spans the gap to its mean confidence. Above: how
    many examples each bin holds. A thin upright is the 95 % interval of the bar."""
    width = np.diff(panel.edges)
    centre = panel.edges[:-1] + width / 2
    there = panel.counts > 0
    accuracy, confidence = panel.accuracy[there], panel.confidence[there]
    x, w = centre[there], width[there] * 0.92
    axes.bar(x, accuracy, w, color=BLUE, alpha=0.85, linewidth=0, label="accuracy of the bin")
    for over, colour, name in (
        (True, VERMILLION, "gap: too confident"),
        (False, GREEN, "gap: not confident enough"),
    ):
        some = (confidence > accuracy) == over
        if some.any():
            gap = (
                np.abs(confidence - accuracy)[some],
                w[some],
                np.minimum(confidence, accuracy)[some],
            )
            if over:
                axes.bar(x[some], *gap, color=colour, alpha=0.3, linewidth=0)
            axes.bar(
                x[some], *gap, fill=False, edgecolor=colour, hatch="///", linewidth=0.8, label=name
            )
    axes.vlines(x, panel.low[there], panel.high[there], color=INK, linewidth=1)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1.1, label="perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1.32), xlabel="confidence", ylabel="accuracy")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_label_coords(-0.12, 0.5 / 1.32)
    axes.spines["left"].set_bounds(0, 1)
    axes.grid(axis="y")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.11), ncols=2, handlelength=1.5, columnspacing=1
    )
    most = int(panel.counts.max(initial=1))
    height = 0.25 * panel.counts / most
    axes.bar(centre, height, width * 0.92, 1.05, color=MUTED, alpha=0.5, linewidth=0)
    for at, bar, count in zip(centre, height, panel.counts.tolist(), strict=True):
        if count:
            above = bar < 0.1
            place = {"y": 1.06 + bar, "va": "bottom"} if above else {"y": 1.04 + bar, "va": "top"}
            axes.text(at, s=_compact(count), ha="center", rotation=90, fontsize=7.5, **place)
    axes.set_title(panel.heading, linespacing=1.4)


def _compact(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.1f}M"
