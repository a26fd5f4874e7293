"""A study at a glance: every setting before and after temperature, one panel a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import BLUE, GRID, VERMILLION, number, percent, shorten
from levelhead.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Comparison:
    """One metric of every setting of a study, before and after temperature."""

    metric: str
    settings: tuple[str, ...]
    raw: np.ndarray  # float64 [settings, 3]: value, low, high; NaN where unknown
    calibrated: np.ndarray  # float64 [settings, 3]
    raw_seeds: tuple[np.ndarray, ...]  # per setting, one value a seed
    calibrated_seeds: tuple[np.ndarray, ...]

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 1.1 + 0.62 * len(self.settings)

    @property
    def label(self) -> str:
        rows = zip(self.settings, self.raw[:, 0], self.calibrated[:, 0], strict=True)
        texts = [f"{name} {raw:.4g}, after temperature {after:.4g}" for name, raw, after in rows]
        return f"{title(self.metric)}: " + "; ".join(texts)


def title(name: str) -> str:
    """A metric and which way is better."""
    if name not in METRICS:
        return name
    quantity = METRICS[name].quantity
    way = "higher" if quantity.direction == "up" else "lower"
    return f"{quantity.title[0].upper()}{quantity.title[1:]} ({way} is better)"


def data(study: Mapping[str, Any]) -> tuple[Comparison, ...]:
    """A panel for each metric of a study's findings (`report.study_page`) that has a number."""
    settings = study["settings"]

    def numbers(stage: str, metric: str) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        cells = [setting[stage].get(metric) or {} for setting in settings]
        table = [[number(cell.get(key)) for key in ("value", "low", "high")] for cell in cells]
        seeds = [[number(v) for v in cell.get("per_seed") or []] for cell in cells]
        return np.array(table, dtype=np.float64), tuple(map(np.array, seeds))

    panels = []
    names = tuple(setting["name"] for setting in settings)
    for metric in settings[0]["raw"] if settings else ():
        raw, raw_seeds = numbers("raw", metric)
        calibrated, calibrated_seeds = numbers("calibrated", metric)
        if np.isfinite(raw[:, 0]).any():
            panel = Comparison(metric, names, raw, calibrated, raw_seeds, calibrated_seeds)
            panels.append(panel)
    return tuple(panels)


def draw(panel: Comparison, axes: Axes) -> None:
    """Hollow squares before temperature, dots after, each with its interval; seeds as ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    same = np.allclose(panel.raw, panel.calibrated, equal_nan=True)
    series = [
        (panel.raw, panel.raw_seeds, VERMILLION, "s", "before temperature", 0.0),
        (panel.calibrated, panel.calibrated_seeds, BLUE, "o", "after", 0.3),
    ]
    if same:
        series = [(panel.raw, panel.raw_seeds, BLUE, "o", "before and after temperature", 0.15)]
    for table, seeds, colour, marker, name, shift in series:
        rows = np.arange(len(table)) + shift
        axes.hlines(rows, table[:, 1], table[:, 2], color=colour, linewidth=1.8, alpha=0.55)
        for row, values in zip(rows, seeds, strict=True):
            axes.plot(values, np.full(len(values), row), "|", color=colour, markersize=7)
        fill = "none" if marker == "s" else colour
        axes.plot(
            table[:, 0],
            rows,
            marker,
            color=colour,
            markerfacecolor=fill,
            markersize=6.5,
            label=name,
        )
    count = len(panel.settings)
    for row, name in enumerate(panel.settings):
        # Above its marks, not beside them: names are long and phones narrow.
        across = axes.get_yaxis_transform()
        axes.text(0.01, row - 0.3, shorten(name, 48), transform=across, va="center")
        axes.axhline(row - 0.52, color=GRID, linewidth=0.7)
    axes.set_yticks([])
    axes.set_ylim(count - 0.48, -0.54)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if panel.metric in METRICS and METRICS[panel.metric].unit == "%":
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_title(title(panel.metric), pad=22)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, borderaxespad=0, handletextpad=0.3
    )
