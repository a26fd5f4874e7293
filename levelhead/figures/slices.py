"""The loss around the weights of runs: along lines, and over a plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import GRID, INK, MUTED, percent, shorten
from levelhead.figures.risk_coverage import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = 12
"""Lines of equal loss."""


@dataclass(frozen=True)
class Lines:
    """One quantity of several runs along directions; thin lines are the single directions."""

    title: str
    names: tuple[str, ...]
    x: np.ndarray  # float64 [points], in lengths of the filters
    y: tuple[np.ndarray, ...]  # float64 [directions, points] each
    percent: bool

    @property
    def size(self) -> tuple[float, float]:
        return 4.6, 3.1 + 0.2 * len(self.names)

    @property
    def label(self) -> str:
        middle = len(self.x) // 2
        ends = [
            f"{name} {y.mean(0)[middle]:.3g} in the middle, {y.mean(0)[[0, -1]].mean():.3g} at "
            "the ends"
            for name, y in zip(self.names, self.y, strict=True)
        ]
        return f"{self.title} along random directions: " + "; ".join(ends)


@dataclass(frozen=True)
class Plane:
    """The loss of one run over the plane of two directions."""

    name: str
    side: np.ndarray  # float64 [places]
    nll: np.ndarray  # float64 [places, places]
    levels: np.ndarray  # float64, the same for every run

    @property
    def size(self) -> tuple[float, float]:
        return 3.9, 3.7

    @property
    def label(self) -> str:
        return f"NLL of {self.name} over a plane: {self.nll.min():.3g} to {self.nll.max():.3g} nats"


def data(runs: Mapping[str, Mapping[str, Any]]) -> tuple[Lines, Lines]:
    """NLL and accuracy along the lines, of what `studies.landscape` measured of each run."""
    names = tuple(runs)
    x = next(iter(runs.values()))["line"]

    def of(quantity: str, title: str, share: bool) -> Lines:
        return Lines(title, names, x, tuple(run[quantity] for run in runs.values()), share)

    return of("nll", "NLL", False), of("accuracy", "Accuracy", True)


def planes(runs: Mapping[str, Mapping[str, Any]]) -> tuple[Plane, ...]:
    """A panel a run, with the same lines of equal loss; none where no plane was measured."""
    there = {name: run for name, run in runs.items() if run["plane"] is not None}
    if not there:
        return ()
    every = np.concatenate([run["plane"].ravel() for run in there.values()])
    every = every[np.isfinite(every)]
    low = max(float(every.min()), 1e-3)
    levels = np.geomspace(low, max(float(np.quantile(every, 0.98)), low * 1.5), LEVELS)
    return tuple(Plane(name, run["side"], run["plane"], levels) for name, run in there.items())


def draw(panel: Lines, axes: Axes) -> None:
    """A bold line a run, its single directions thin."""
    from matplotlib.ticker import FuncFormatter

    for i, (name, y) in enumerate(zip(panel.names, panel.y, strict=True)):
        colour, style = LOOKS[i % len(LOOKS)]
        for single in y:
            axes.plot(panel.x, single, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(panel.x, y.mean(0), color=colour, linestyle=style, label=shorten(name, 44))
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_ylim(bottom=0)
    axes.set(title=panel.title, xlabel="step, in lengths of each filter")
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.46, -0.19), ncols=1, handlelength=2.2)


def draw_plane(panel: Plane, axes: Axes) -> None:
    """Lines of equal loss, each with its number; a dot where the trained weights are."""
    from matplotlib.ticker import MaxNLocator

    with np.errstate(invalid="ignore"):
        lines = axes.contour(
            panel.side, panel.side, panel.nll, levels=panel.levels, colors=MUTED, linewidths=0.9
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.clabel(lines, fmt=lambda value: f"{value:.2g}", fontsize=7, colors=INK)
    axes.plot([0], [0], "o", color=INK, markersize=3.5)
    axes.set(
        title=shorten(panel.name, 40), aspect="equal", xlabel="first direction",
        ylabel="second direction",
    )  # fmt: skip
    axes.grid(color=GRID, linewidth=0.4)
