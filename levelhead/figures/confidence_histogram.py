"""How sure the model is where it is right and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from levelhead.figures.canvas import BLUE, INK, VERMILLION, percent, tip
from levelhead.statistics.binning import bin_edges, bin_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs


@dataclass(frozen=True)
class Confidence:
    """Counts of right and wrong predictions by confidence."""

    edges: np.ndarray  # float64 [bins+1]
    right: np.ndarray  # int64 [bins]
    wrong: np.ndarray  # int64 [bins]
    mean: float  # confidence
    title: str = "Confidence"

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 3.4

    @property
    def accuracy(self) -> float:
        right = int(self.right.sum())
        return right / (right + int(self.wrong.sum()))

    @property
    def label(self) -> str:
        n = int(self.right.sum() + self.wrong.sum())
        return f"{self.title}: mean {self.mean:.3f}, accuracy {self.accuracy:.3f}, n = {n:,}"


def data(outputs: Outputs, title: str = "Confidence", bins: int = 20) -> tuple[Confidence]:
    """Count `outputs` by confidence, the right ones and the wrong ones."""
    rows = outputs.rows
    index = bin_index(rows.confidence, bins) + bins * (rows.rank == 0)
    wrong, right = torch.bincount(index, minlength=2 * bins).view(2, bins).numpy()
    edges, mean = bin_edges(bins).numpy(), float(rows.confidence.mean())
    return (Confidence(edges, right, wrong, mean, title),)


def draw(panel: Confidence, axes: Axes) -> None:
    """Bars for right, hatched ones for wrong; uprights for the two means."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    width, both = np.diff(panel.edges), np.stack([panel.right, panel.wrong])
    x, most = panel.edges[:-1] + width / 2, int(both.max())
    log = most > 50 * int(both[both > 0].min())
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    # A count of 1 must show on a logarithmic axis, too.
    floor = 0.6 if log else 0
    axes.set(xlim=(0, 1), ylim=(floor, most ** (1.1 if log else 1) * (1.3 if log else 1.08)))
    for counts, side, name in ((panel.right, -0.23, "right"), (panel.wrong, 0.23, "wrong")):
        there = counts > 0
        at, tall, wide = (x + side * width)[there], counts[there] - floor, 0.46 * width[there]
        if not there.any():
            continue
        if name == "right":
            axes.bar(at, tall, wide, floor, color=BLUE, alpha=0.85, linewidth=0, label=name)
        else:
            look = {"edgecolor": VERMILLION, "hatch": "/////", "linewidth": 0.8}
            axes.bar(at, tall, wide, floor, fill=False, label=name, **look)  # type: ignore[arg-type]
    axes.axvline(panel.accuracy, color=INK, label=f"accuracy {percent(panel.accuracy)}")
    sure = f"mean confidence {percent(panel.mean)}"
    axes.axvline(panel.mean, color=INK, linestyle=(0, (2, 1.5)), label=sure)
    top = axes.get_ylim()[1]
    columns = axes.bar(x, top, width, color=INK, alpha=0, linewidth=0, zorder=9)
    rows = zip(columns, panel.edges[:-1], panel.edges[1:], *both, strict=True)
    for column, start, end, good, bad in rows:
        tip(column, f"confidence {start:.2f} to {end:.2f}: {good:,} right, {bad:,} wrong")
    axes.set(xlabel="confidence", ylabel="examples (log scale)" if log else "examples")
    axes.set_title(f"{panel.title}, n = {int(both.sum()):,}")
    axes.grid(axis="y")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=2, handlelength=1.8, columnspacing=1
    )
