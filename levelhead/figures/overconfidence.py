"""Mean confidence minus accuracy by epoch: how sure training makes a network, by setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import MUTED, number, percent, shorten, tips
from levelhead.figures.risk_coverage import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sureness:
    """A curve a setting; arrays are [epochs of the setting], `low` and `high` NaN for one seed."""

    names: tuple[str, ...]
    epochs: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]
    low: tuple[np.ndarray, ...]
    high: tuple[np.ndarray, ...]

    @property
    def size(self) -> tuple[float, float]:
        return 4.6, 3.1 + 0.2 * len(self.names)

    @property
    def label(self) -> str:
        ends = [f"{n} {v[-1]:+.3f}" for n, v in zip(self.names, self.values, strict=True)]
        return "Confidence minus accuracy on validation at the end: " + "; ".join(ends)


def data(found: Mapping[str, Any]) -> tuple[Sureness, ...]:
    """What `understanding.tradeoff` found of the settings that were trained epoch by epoch."""
    courses = {
        setting["name"]: setting["confidence"]
        for setting in found["settings"]
        if setting["confidence"]
    }
    if not courses:
        return ()
    epochs, values, low, high = (
        tuple(np.array([number(row[key]) for row in course]) for course in courses.values())
        for key in ("epoch", "value", "low", "high")
    )
    return (Sureness(tuple(courses), epochs, values, low, high),)


def draw(panel: Sureness, axes: Axes) -> None:
    """A line a setting with its interval; above 0 is over-confident."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.axhline(0, color=MUTED, linewidth=1.1, zorder=1)
    for i, name in enumerate(panel.names):
        colour, style = LOOKS[i % len(LOOKS)]
        x, y, low, high = (c[i] for c in (panel.epochs, panel.values, panel.low, panel.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=colour, linestyle=style, marker="o" if len(x) <= 12 else None,
                  markersize=3.5, label=shorten(name, 40))  # fmt: skip
        tips(
            axes,
            x,
            y,
            [f"{name}, epoch {e:g}: {100 * v:+.1f} points" for e, v in zip(x, y, strict=True)],
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set(xlabel="epoch", ylabel="confidence minus accuracy")
    axes.set_title("Above 0: over-confident (validation)")
    axes.grid(axis="y")
    axes.figure.legend(loc="outside lower left", handlelength=2.6)
