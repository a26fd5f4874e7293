"""A measure of several settings against the temperature of the logits, a line a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import MUTED, tip
from levelhead.figures.risk_coverage import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Temperatures:
    """values [S,R,T]: of each setting, seed and temperature."""

    title: str
    axis: str
    up: bool  # higher is better
    temperatures: np.ndarray  # float64 [T]
    settings: tuple[str, ...]
    values: tuple[np.ndarray, ...]  # float64 [R,T] each

    @property
    def size(self) -> tuple[float, float]:
        return 4.4, 3.0 + 0.2 * len(self.settings)

    @property
    def label(self) -> str:
        parts = []
        for name, values in zip(self.settings, self.values, strict=True):
            mean = values.mean(0)
            pairs = zip(self.temperatures, mean, strict=True)
            parts.append(f"{name}: " + ", ".join(f"T {t:g} {v:.4g}" for t, v in pairs))
        return f"{self.title} against temperature; " + "; ".join(parts)


def data(
    temperatures: Sequence[float],
    measures: Mapping[tuple[str, str, bool], Mapping[str, Sequence[Sequence[float]]]],
) -> tuple[Temperatures, ...]:
    """A panel a measure, (title, axis, higher is better): values [R,T] of each setting's seeds."""
    at = np.array(temperatures, np.float64)
    return tuple(
        Temperatures(
            title, axis, up, at, tuple(settings), tuple(np.array(v) for v in settings.values())
        )
        for (title, axis, up), settings in measures.items()
    )


def draw(panel: Temperatures, axes: Axes) -> None:
    """The mean of the seeds as a line, each seed as a point; T = 1 is ruled."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for i, (name, values) in enumerate(zip(panel.settings, panel.values, strict=True)):
        colour, style = LOOKS[i % len(LOOKS)]
        mean = values.mean(0)
        axes.plot(panel.temperatures, mean, color=colour, linestyle=style, label=name)
        for row in values:
            axes.plot(panel.temperatures, row, "o", color=colour, markersize=3, alpha=0.6)
        for at, value in zip(panel.temperatures, mean, strict=True):
            (spot,) = axes.plot(at, value, "o", color=colour, alpha=0, markersize=12)
            tip(spot, f"{name}, T = {at:g}: {value:.4g}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.5, 0.7, 1.0, 1.5, 2.0]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("temperature")
    axes.set_ylabel(f"{panel.axis} ({'higher' if panel.up else 'lower'} is better)")
    axes.set_title(panel.title)
    axes.grid(axis="y")
    axes.figure.legend(loc="outside lower left", handlelength=2.6)
