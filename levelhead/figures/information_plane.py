"""What logits still tell about the example, by step (Müller et al. 2019, figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.figures.canvas import INK, MUTED, shorten, tips
from levelhead.figures.risk_coverage import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.representation.mutual_information import Information


@dataclass(frozen=True)
class Course:
    """Mutual information of several runs by step; every array is [steps of the run]."""

    names: tuple[str, ...]
    steps: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]  # nats
    low: tuple[np.ndarray, ...]  # 95 % intervals
    high: tuple[np.ndarray, ...]
    n: int  # examples; log n is the most there can be

    @property
    def size(self) -> tuple[float, float]:
        return 4.6, 3.3 + 0.2 * len(self.names)

    @property
    def label(self) -> str:
        ends = [
            f"{a} {v[0]:.2f} to {v[-1]:.2f}" for a, v in zip(self.names, self.values, strict=True)
        ]
        return f"Mutual information in nats by step, n = {self.n:,}: " + "; ".join(ends)


def data(runs: Mapping[str, Mapping[int, Information]]) -> tuple[Course]:
    """Of each run, by name, the estimate at some steps. Raises LevelheadError where the numbers of
    examples differ, as then log n does."""
    sizes = {found.n for run in runs.values() for found in run.values()}
    if len(sizes) != 1 or not all(runs.values()):
        raise LevelheadError(f"information: runs of {sorted(sizes)} examples; give as many to each")
    columns = []
    for run in runs.values():
        rows = [(s, f.value, f.interval()) for s, f in sorted(run.items())]
        columns.append(np.array([(s, v, e.low, e.high) for s, v, e in rows], dtype=np.float64).T)
    steps, values, low, high = (tuple(c[i] for c in columns) for i in range(4))
    return (Course(tuple(runs), steps, values, low, high, sizes.pop()),)


def draw(panel: Course, axes: Axes) -> None:
    """A line a run with its 95 % band; log 2 is all that two tight clusters can tell."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    most = math.log(panel.n)
    for i, name in enumerate(panel.names):
        colour, style = LOOKS[i % len(LOOKS)]
        x, y, low, high = (c[i] for c in (panel.steps, panel.values, panel.low, panel.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        marker = "o" if len(x) <= 12 else None
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=3.5,
            label=shorten(name, 40),
        )
        texts = [
            f"{name}, step {s:,.0f}: {v:.3f} nats [{a:.3f}, {b:.3f}]"
            for s, v, a, b in zip(x, y, low, high, strict=True)
        ]
        tips(axes, x, y, texts)
    top = 1.25 * max(math.log(2), *(float(high.max()) for high in panel.high))
    far = top < 0.6 * most  # log n would squeeze the curves: it is told at the edge instead
    top = top if far else 1.1 * most
    first, last = (float(f(np.concatenate(panel.steps))) for f in (np.min, np.max))
    for at, style, text in (
        (0.0, "-", "0: nothing"),
        (math.log(2), ":", "log 2: the class"),
        (
            most,
            "--",
            f"log {panel.n:,} = {most:.1f}: which example{' (above)' if far else ''}",
        ),
    ):
        at = min(at, 0.94 * top)
        if at < 0.94 * top:
            axes.axhline(at, linestyle=style, color=MUTED, linewidth=1.1, zorder=1)
        axes.annotate(
            text, (1, at), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip
    bottom = min(0.0, *(float(low.min()) for low in panel.low))
    axes.set(xlim=(first, last if last > first else first + 1), ylim=(bottom - 0.02 * top, top))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel="step", ylabel="mutual information (nats)")
    axes.set_title(f"What the logits tell about the example, n = {panel.n:,}")
    axes.grid(axis="y")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=1, handlelength=2.4, borderaxespad=0
    )
