"""Reliability diagram: of the predictions made with confidence c, how many were right?

Bins: `levelhead.statistics.binning` (15, right-closed); DeGroot and Fienberg 1983, Guo et al.
2017. The curve needs none: kernel smoothing at the bandwidth of the smooth ECE (Błasiok and
Nakkiran 2023), where that can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import BLUE, GREEN, INK, MUTED, VERMILLION, number, tip, tips
from levelhead.metrics import METRICS
from levelhead.metrics.metric import interval_of
from levelhead.statistics.binning import bin_confidence
from levelhead.statistics.examples import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs

CELLS = 1000
"""Cells of confidence that the curve and its bootstrap are made from."""
WIDTHS = 0.02, 0.1
"""Ends of the curve's bandwidth: with less, a calibrated model's would show noise; with more, a
very badly calibrated one's would be flat."""
ENOUGH = 10
"""The curve is drawn where the kernel's weights amount to so many examples."""


@dataclass(frozen=True)
class Smooth:
    """Accuracy by confidence without bins, float64 [points]; NaN where there is too little data."""

    at: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray  # 95 % of bootstrap curves, point by point
    high: np.ndarray


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
    smooth: Smooth | None = None

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
    titles: Sequence[str] = (),
    *,
    ece: Sequence[Mapping[str, float | None]] = (),
    smooth: bool = True,
) -> tuple[Reliability, ...]:
    """Bins of `before` and, where given, of `after`: the same outputs, calibrated.

    `titles` name the calibration, by default a temperature. `ece` are the `metrics.ece` of their
    judgements; without them the intervals are made here. Without `smooth` there are bars alone.
    """
    panels = []
    usual = ["Reliability"] if after is None else ["Before temperature", "After temperature"]
    sources = [before] if after is None else [before, after]
    for place, (title, outputs) in enumerate(zip(titles or usual, sources, strict=False)):
        bins = bin_confidence(outputs.rows.confidence, outputs.rows.correct)
        counts, accuracy = bins.count.numpy().astype(np.int64), bins.accuracy.numpy()
        if place < len(ece):
            low, high = number(ece[place].get("low")), number(ece[place].get("high"))
        else:
            interval = interval_of(METRICS["ece"], METRICS["ece"].prepare(outputs))
            low, high = interval.low, interval.high
        ece_ = (bins.error(), low, high)
        arrays = (bins.edges.numpy(), counts, accuracy, bins.confidence.numpy())
        curve = smoothed(outputs) if smooth else None
        panels.append(Reliability(title, *arrays, *uprights(accuracy, counts), ece_, curve))
    return tuple(panels)


def uprights(share: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % intervals of shares of counts [bins]; NaN where the count is 0."""
    pairs = zip(share.tolist(), counts.tolist(), strict=True)
    ends = [wilson(round(s * n), n) if n else (math.nan, math.nan) for s, n in pairs]
    return np.array(ends)[:, 0], np.array(ends)[:, 1]


def smoothed(outputs: Outputs, points: int = 201, resamples: int = 300, seed: int = 0) -> Smooth:
    """The smooth curve of `outputs`, its band from a bootstrap over cells of confidence.

    Cells make it as quick for a million examples as for a thousand.
    """
    import torch

    from levelhead.metrics import smece

    rows, bandwidth = outputs.rows, float(np.clip(smece.bandwidth(outputs), *WIDTHS))
    cell = (rows.confidence * CELLS).long().clamp(max=CELLS - 1) + CELLS * (rows.rank == 0)
    count = torch.bincount(cell, minlength=2 * CELLS)
    filled = count.nonzero().squeeze(1)
    n, sure, right = len(outputs), (filled % CELLS).double().add(0.5) / CELLS, filled >= CELLS
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(n, count[filled].numpy() / n, size=resamples).astype(np.float64)
    at = torch.linspace(0, 1, points, dtype=torch.float64)
    accuracy, density = smece.curve(sure, right, at, bandwidth, count[filled].double())
    drawn, _ = smece.curve(sure, right, at, bandwidth, torch.from_numpy(weights))
    low, high = drawn.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0).numpy()
    outside = (at < sure.min() - 1 / CELLS) | (at > sure.max() + 1 / CELLS)
    # A Gaussian's weights on a density f are worth n f 2√π σ equal ones (Kish 1965).
    few = (outside | (n * density * 2 * math.sqrt(math.pi) * bandwidth < ENOUGH)).numpy()
    return Smooth(at.numpy(), *(np.where(few, np.nan, y) for y in (accuracy.numpy(), low, high)))


def draw(panel: Reliability, axes: Axes) -> None:
    """Bars reach the bin's accuracy; hatching spans the gap to its mean confidence. Above: how
    many examples each bin holds. A thin upright is the 95 % interval of the bar."""
    width = np.diff(panel.edges)
    centre = panel.edges[:-1] + width / 2
    bars(panel, axes)
    if panel.smooth is not None:
        curve = panel.smooth
        axes.fill_between(curve.at, curve.low, curve.high, color=INK, alpha=0.2, linewidth=0)
        axes.plot(curve.at, curve.accuracy, color=INK, label="smooth curve, 95 % band")
        points = np.stack([curve.at, curve.accuracy, curve.low, curve.high])
        points = points[:, np.isfinite(points[1])]
        texts = [f"confidence {x:.3f}: {y:.3f} [{a:.3f}, {b:.3f}] right" for x, y, a, b in points.T]
        tips(axes, points[0], points[1], texts)
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


def bars(panel: Reliability, axes: Axes) -> None:
    """The bars, gaps, uprights and diagonal of a diagram."""
    there = panel.counts > 0
    width = np.diff(panel.edges)[there]
    accuracy, confidence = panel.accuracy[there], panel.confidence[there]
    x, w = panel.edges[:-1][there] + width / 2, width * 0.92
    # Hatching on a bar could not be seen: where the gap is below the accuracy, the bar ends there.
    solid = np.minimum(accuracy, confidence)
    axes.bar(x, solid, w, color=BLUE, alpha=0.85, linewidth=0, label="accuracy of the bin")
    gaps = np.stack([x, w, np.abs(confidence - accuracy), np.minimum(confidence, accuracy)])
    # Out of sight, for the legend: panels side by side have the same one, and so the same height.
    unseen = (-1, 0.1, 1, 0)
    for over, colour, name in (
        (True, VERMILLION, "gap: too confident"),
        (False, GREEN, "gap: not confident enough"),
    ):
        at, wide, tall, low = np.column_stack([gaps[:, (confidence > accuracy) == over], unseen])
        axes.bar(at, tall, wide, low, color=colour, alpha=0.3, linewidth=0)
        look = {"edgecolor": colour, "hatch": "///", "linewidth": 0.8, "label": name}
        axes.bar(at, tall, wide, low, fill=False, **look)  # type: ignore[arg-type]
    axes.vlines(x, panel.low[there], panel.high[there], color=INK, linewidth=1)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1.1, label="perfect calibration")
    # The whole column of a bin answers the pointer, not the bar alone, which may be low.
    columns = axes.bar(x, 1, width, color=INK, alpha=0, linewidth=0, zorder=9)
    for column, b in zip(columns, np.flatnonzero(there), strict=True):
        tip(
            column,
            f"{panel.edges[b]:.2f} to {panel.edges[b + 1]:.2f}: n = {panel.counts[b]:,}, "
            f"{panel.accuracy[b]:.3f} [{panel.low[b]:.3f}, {panel.high[b]:.3f}] right, "
            f"mean confidence {panel.confidence[b]:.3f}",
        )


def _compact(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.1f}M"
