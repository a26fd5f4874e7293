"""What smoothing buys and costs: one measure by epsilon, remedies beside the curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import MUTED, number, shorten, tip
from levelhead.figures.risk_coverage import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "raw": "without temperature",
    "temperature": "after temperature",
    "pnorm": "p-norm score",
    "msp": "top probability",
    "energy": "energy",
    "max_logit": "largest logit",
}
ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Tradeoff:
    """One measure of every setting: a curve over epsilon for each series, and single remedies."""

    title: str
    up: bool  # higher is better
    share: bool  # shown in percent
    epsilon: np.ndarray  # float64 [E], rising
    remedies: tuple[str, ...]  # [R]
    series: tuple[str, ...]  # [S]
    values: np.ndarray  # float64 [S, E + R, 3]: value, low, high; NaN where there is none
    hard: tuple[str, float] | None  # what smoothing is held against, and its number

    @property
    def size(self) -> tuple[float, float]:
        longest = max((len(shorten(name, 24)) for name in self.remedies), default=0)
        height = 3.0 + 0.2 * (len(self.series) + (self.hard is not None)) + 0.05 * longest
        return 4.0 + 0.4 * len(self.remedies), height

    @property
    def label(self) -> str:
        names = [*(f"ε {e:g}" for e in self.epsilon), *self.remedies]
        rows = zip(self.series, self.values[:, :, 0], strict=True)
        texts = [
            f"{series}: " + ", ".join(f"{n} {v:.4g}" for n, v in zip(names, row, strict=True))
            for series, row in rows
        ]
        return f"{self.title}; " + "; ".join(texts)


def data(found: Mapping[str, Any]) -> tuple[Tradeoff, ...]:
    """A panel a measure of what `understanding.tradeoff` found."""
    panels = []
    for name, measure in found["measures"].items():
        here = [s for s in found["settings"] if name in s["measures"]]
        here.sort(key=lambda s: s["remedy"])
        curve = [s for s in here if not s["remedy"]]
        entries = [s["measures"][name] for s in here]
        keys = list(dict.fromkeys(key for cells in entries for key in cells))
        table = [[[number(c.get(k, {}).get(e)) for e in ENDS] for c in entries] for k in keys]
        names = NAMES if "temperature" in keys else NAMES | {"raw": "with or without temperature"}
        hard = None
        for cells in (s["measures"][name] for s in curve if s["name"] == found["hard"]):
            key = "temperature" if "temperature" in cells else next(iter(cells))
            more = {"temperature": " plus temperature", "raw": ""}
            text = "hard targets" + more.get(key, f", {NAMES.get(key, key)}")
            hard = (text, float(cells[key]["value"]))
        panels.append(
            Tradeoff(
                measure["title"][0].upper() + measure["title"][1:],
                measure["up"],
                measure["scale"] != 1,
                np.array([s["smoothing"] for s in curve], dtype=np.float64),
                tuple(s["name"] for s in here if s["remedy"]),
                tuple(names.get(key, key) for key in keys),
                np.array(table, dtype=np.float64),
                hard,
            )
        )
    return tuple(panels)


def draw(panel: Tradeoff, axes: Axes) -> None:
    """A line a series with its intervals, side by side; diamonds for remedies, right of a rule."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    count, names = len(panel.epsilon), [f"ε = {e:g}" for e in panel.epsilon]
    first, last = (panel.epsilon[0], panel.epsilon[-1]) if count else (0.0, 0.0)
    span = (last - first) or 1.0
    x = np.append(panel.epsilon, last + span * (0.1 + 0.14 * np.arange(1, len(panel.remedies) + 1)))
    if panel.hard is not None:
        name, height = panel.hard
        axes.axhline(
            height, linestyle=(0, (4, 3)), color=MUTED, linewidth=1.1, zorder=1, label=name
        )
    for i, (series, table) in enumerate(zip(panel.series, panel.values, strict=True)):
        colour, style = LOOKS[i % len(LOOKS)]
        at = x + span * 0.014 * (i - (len(panel.series) - 1) / 2)
        value, low, high = table.T
        axes.vlines(at, low, high, color=colour, linewidth=1.5, alpha=0.6)
        axes.plot(
            at[:count], value[:count], color=colour, linestyle=style, marker="o", markersize=4.5,
            label=series,
        )  # fmt: skip
        axes.plot(at[count:], value[count:], "D", color=colour, markersize=5)
        for j in np.flatnonzero(np.isfinite(value)).tolist():
            text = f"{[*names, *panel.remedies][j]}, {series}: {value[j]:.4g}"
            (spot,) = axes.plot(at[j], value[j], "o", color=colour, alpha=0, markersize=12)
            tip(spot, f"{text} [{low[j]:.4g}, {high[j]:.4g}]")
    ticks: list[float] = []
    for e in panel.epsilon.tolist():  # labels of near neighbours would run into each other
        if not ticks or e - ticks[-1] > 0.1 * span:
            ticks.append(e)
    texts = [f"{e:g}" for e in ticks] + [shorten(name, 24) for name in panel.remedies]
    axes.set_xticks([*ticks, *x[count:]], texts)
    for tick in axes.get_xticklabels()[len(ticks) :]:
        tick.set(rotation=35, ha="right", rotation_mode="anchor")
    if panel.remedies and count:
        axes.axvline(last + 0.14 * span, color=MUTED, linewidth=0.8)
    axes.set_xlim(first - 0.08 * span, (x[-1] if len(x) else last) + 0.08 * span)
    axes.set_xlabel("label smoothing ε" + (", and remedies" if panel.remedies else ""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if panel.share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}\u00a0%"))
    axes.set_ylabel(f"{'higher' if panel.up else 'lower'} is better")
    axes.set_title(shorten(panel.title, 40))
    axes.grid(axis="y")
    axes.figure.legend(loc="outside lower left", handlelength=2.6)
