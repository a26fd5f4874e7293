"""Do the prediction sets of every class hold the truth as often as promised?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import BLUE, INK, VERMILLION, percent, shorten, tip
from levelhead.figures.reliability import uprights

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Coverage:
    """How often the sets of each class hold it, the least covered class first."""

    class_names: tuple[str, ...]
    share: np.ndarray  # float64 [classes]
    low: np.ndarray  # float64 [classes], Wilson's 95 % interval
    high: np.ndarray
    counts: np.ndarray  # int64 [classes], examples
    wanted: float
    total: tuple[int, int, int]  # classes with examples, examples, and how many are covered
    title: str = "Coverage by class"

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 1.7 + 0.2 * len(self.class_names)

    @property
    def label(self) -> str:
        _, n, covered = self.total
        least = f"least {self.class_names[0]} {self.share[0]:.3f}" if len(self.share) else "none"
        return f"Coverage {covered / max(n, 1):.3f}, wanted {self.wanted:g}; of classes {least}"


def data(
    class_names: Sequence[str],
    covered: Any,
    counts: Any,
    wanted: float,
    limit: int = 40,
    title: str = "Coverage by class",
) -> tuple[Coverage]:
    """The `limit` least covered classes: `covered` [K] of `counts` [K] examples; `wanted` 1 − α.

    `title` may name the method. Classes without examples are left out.
    """
    hits, of = np.asarray(covered, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    share = hits / np.maximum(of, 1)
    there = np.flatnonzero(of)
    worst = there[np.lexsort((-of[there], share[there]))][:limit]
    names = tuple(class_names[k] for k in worst)
    ends = uprights(share[worst], of[worst]) if len(worst) else (share[worst], share[worst])
    total = (len(there), int(of.sum()), int(hits[there].sum()))
    return (Coverage(names, share[worst], ends[0], ends[1], of[worst], wanted, total, title),)


def draw(panel: Coverage, axes: Axes) -> None:
    """A dot and its interval a class; hollow where the interval lies below what was wanted."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    k = len(panel.class_names)
    numbers = zip(panel.class_names, panel.share, panel.low, panel.high, panel.counts, strict=True)
    for row, (name, share, low, high, n) in enumerate(numbers):
        short = high < panel.wanted
        colour = VERMILLION if short else BLUE
        axes.hlines(row, low, high, color=colour, linewidth=1.8, alpha=0.55)
        face = "none" if short else colour
        axes.plot(share, row, "s" if short else "o", color=colour, markerfacecolor=face)
        (spot,) = axes.plot(share, row, "o", color=INK, alpha=0, markersize=13)
        tip(spot, f"{name}: {share:.3f} [{low:.3f}, {high:.3f}], n = {n:,}")
    axes.axvline(panel.wanted, color=INK, linestyle="--", linewidth=1.1)
    axes.set_yticks(range(k), [shorten(name) for name in panel.class_names])
    axes.set_ylim(k - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.grid(axis="x")
    classes, n, covered = panel.total
    some = f"\nleast covered {k} of {classes:,} classes" if k < classes else ""
    axes.set_xlabel("true class within the set")
    axes.set_title(
        f"{panel.title}, n = {n:,}\n{percent(covered / max(n, 1))} in all, "
        f"{percent(panel.wanted)} wanted{some}",
        linespacing=1.4,
    )
