"""Accuracy of teachers and students by smoothness index (Müller et al. 2019, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.figures.canvas import BLUE, GREEN, INK, MUTED, VERMILLION, percent, shorten, tips

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "teachers": INK, "plain": MUTED, "hard": BLUE, "smoothed": VERMILLION, "softened": GREEN,
}  # fmt: skip
# Of the first, second, ... curve of a kind: protocols and remedies. The first mark is filled.
MARKS = (("o", "-"), ("s", (0, (4, 1.5))), ("D", (0, (1, 1))), ("^", (0, (4, 1, 1, 1))))


@dataclass(frozen=True)
class Curves:
    """Accuracy on test by smoothness index; every array is [points of the curve]."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    gamma: tuple[np.ndarray, ...]
    accuracy: tuple[np.ndarray, ...]
    low: tuple[np.ndarray, ...]
    high: tuple[np.ndarray, ...]
    line: tuple[np.ndarray, ...]  # points with the same number are joined
    texts: tuple[tuple[str, ...], ...]  # the temperature or smoothing of each point

    @property
    def size(self) -> tuple[float, float]:
        return 6.4, 4.6 + 0.2 * len(self.names)

    @property
    def label(self) -> str:
        points = [
            f"{name}: " + ", ".join(f"{percent(y)} at {x:.2f}" for x, y in zip(*xy, strict=True))
            for name, *xy in zip(self.names, self.gamma, self.accuracy, strict=True)
        ]
        return "Accuracy on test by smoothness index; " + "; ".join(points)


def data(curves: Mapping[str, Mapping[str, Any]]) -> tuple[Curves]:
    """Curves by name, as `understanding.distillation_curves` draws them."""
    columns = []
    for curve in curves.values():
        points, both = curve["points"], curve["kind"] == "softened"
        keys = ("gamma", "value", "low", "high")
        numbers = [np.array([p[key] for p in points], dtype=np.float64) for key in keys]
        line = np.array([p["epsilon"] if both else 0.0 for p in points])
        shown = [
            ("" if curve["kind"] == "hard" else f"ε {p['epsilon']:g} ")
            + (f"T {p['temperature']:g}" if both or curve["kind"] == "hard" else "")
            for p in points
        ]
        columns.append((curve["kind"], *numbers, line, tuple(text.strip() for text in shown)))
    return (Curves(tuple(curves), *zip(*columns, strict=True)),)


def draw(panel: Curves, axes: Axes) -> None:
    """A line a curve with its intervals; dotted without a teacher, whose accuracy is apart."""
    _scale(panel, axes)
    for i, (name, kind) in enumerate(zip(panel.names, panel.kinds, strict=True)):
        x, y, low, high = (c[i] for c in (panel.gamma, panel.accuracy, panel.low, panel.high))
        line, texts = panel.line[i], panel.texts[i]
        colour, place = COLOURS[kind], panel.kinds[:i].count(kind)
        mark, style = MARKS[place % len(MARKS)]
        axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.5)
        for number in np.unique(line):
            same = line == number
            axes.plot(
                x[same], y[same], mark, color=colour, markersize=4.5, linewidth=1.4,
                linestyle=":" if kind in ("teachers", "plain") else style,
                markerfacecolor="white" if place else colour,
                label=shorten(name, 80) if number == line[0] else None,
            )  # fmt: skip
        tip_texts = [
            f"{name}: {text}, γ {a:.3f}: {percent(b)} [{percent(c)}, {percent(d)}]"
            for text, a, b, c, d in zip(texts, x, y, low, high, strict=True)
        ]
        tips(axes, x, y, tip_texts)
    _annotate(panel, axes)
    axes.set(xlabel="smoothness index γ of the targets", ylabel="accuracy on test")
    axes.set_title("What students learn, by how smooth their targets are")
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), handlelength=2.6, borderaxespad=0)


def _scale(panel: Curves, axes: Axes) -> None:
    """Limits and ticks; where nothing is between teachers and students, the axis is cut short."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ends = sorted(zip(np.concatenate(panel.low), np.concatenate(panel.high), strict=True))
    tops = np.maximum.accumulate([high for _, high in ends])
    room = 0.03 * (tops[-1] - ends[0][0]) or 0.01
    bottom, top = ends[0][0] - 1.5 * room, tops[-1] + 1.5 * room
    gaps = [
        (low - high, high + room, low - room)
        for high, (low, _) in zip(tops, ends[1:], strict=False)
    ]
    size, start, end = max(gaps, default=(0.0, top, top))
    cut = size > 0.3 * (top - bottom)
    if not cut:
        start = end = top
    step = np.diff(
        MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(
            *max((bottom, start), (end, top), key=np.ptp)
        )
    )[0]
    ticks = step * np.arange(np.ceil(bottom / step), top / step)
    if cut:
        edges, left = np.array([bottom, start, end, top]), 0.06 * (top - bottom - size)
        drawn = np.array([bottom, start, start + left, start + left + top - end])
        axes.set_yscale(
            "function",
            functions=(lambda y: np.interp(y, edges, drawn), lambda y: np.interp(y, drawn, edges)),
        )
        axes.axhspan(start, end, color=MUTED, alpha=0.12, linewidth=0)
        axes.text(0.5, (start + end) / 2, "not to scale", fontsize=7.5, color=INK,
            transform=axes.get_yaxis_transform(), ha="center", va="center")  # fmt: skip
    kept = [tick for tick in ticks if not start < tick < end]
    for low, high in ((bottom, start), (end, top)) if cut else ():
        middle = round((low + high) / 2, 2)  # a side without a tick could not be read
        if low < middle < high and not any(low <= tick <= high for tick in kept):
            kept.append(middle)
    axes.set(ylim=(bottom, top), yticks=kept)
    axes.set(xlim=(-0.03, max(1.0, *(float(g.max()) for g in panel.gamma)) + 0.03))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))


def _annotate(panel: Curves, axes: Axes) -> None:
    """T or ε above, below or beside each point, unless something is there; students first."""
    on_paper = axes.transData + axes.transAxes.inverted()
    inches = np.array([5.3, 3.75]) * 72  # of the axes, about
    columns = zip(panel.gamma, panel.low, panel.accuracy, panel.high, strict=True)
    spots = []
    for kind, texts, (x, *heights) in zip(panel.kinds, panel.texts, columns, strict=True):
        ends = [on_paper.transform(np.stack([x, y], 1)) * inches for y in heights]
        spots += [(kind, *of) for of in zip(texts, *ends, x, heights[1], strict=True)]
    taken = [
        (a[0] - 3, min(a[1], b[1] - 3), a[0] + 3, max(c[1], b[1] + 3))
        for _, _, a, b, c, *_ in spots
    ]
    done = set()
    for kind, text, low, at, high, x, y in sorted(spots, key=lambda s: -list(COLOURS).index(s[0])):
        wide, up, down = 4.3 * len(text), high[1] - at[1] + 7, low[1] - at[1] - 7
        for dx, dy in ((0, up), (0, down), (wide / 2 + 6, 0), (-wide / 2 - 6, 0)):
            box = at[0] + dx - wide / 2, at[1] + dy - 4, at[0] + dx + wide / 2, at[1] + dy + 4
            apart = (
                box[0] > b[2] or box[2] < b[0] or box[1] > b[3] or box[3] < b[1] for b in taken
            )
            if (x, y) not in done and all(apart):
                done.add((x, y))
                taken.append(box)
                axes.annotate(
                    text, (x, y), (dx, dy), textcoords="offset points", ha="center", va="center",
                    fontsize=7, color=COLOURS[kind],
                )  # fmt: skip
