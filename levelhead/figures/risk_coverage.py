"""What is wrong among the answers kept, when the least certain are sent to a person.

The curves are `levelhead.decisions.risk_coverage`'s (El-Yaniv and Wiener 2010).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures import canvas
from levelhead.figures.canvas import BLUE, INK, MUTED, percent, shorten, tips

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.decisions import RiskCoverage

LOOKS = (
    (BLUE, "-"), (canvas.VERMILLION, (0, (5, 1.5))), (canvas.GREEN, (0, (1, 1))),
    (canvas.PURPLE, (0, (5, 1, 1, 1))), (canvas.ORANGE, (0, (3, 1, 1, 1, 1, 1))),
    (INK, (0, (8, 2))),
)  # fmt: skip
"""Colour and dashes of each curve: told apart without colour, too."""


@dataclass(frozen=True)
class Selective:
    """Risk by coverage of several scores, on the same examples."""

    names: tuple[str, ...]
    curves: tuple[tuple[np.ndarray, np.ndarray], ...]  # coverage and risk [points] of each
    areas: tuple[float, ...]  # AURC of each
    band: tuple[np.ndarray, np.ndarray]  # low and high [points] of the first
    ideal: np.ndarray  # [points] at the first's coverages: every mistake behind all that is right
    marks: tuple[tuple[str, float, float], ...]  # text, coverage, risk of the first
    n: int

    @property
    def columns(self) -> int:
        """Of the legend."""
        return 1 if max(map(len, self.names)) > 12 else 2

    @property
    def size(self) -> tuple[float, float]:
        lines = -(-(len(self.names) + 2) // self.columns)
        return 4.3, 3.3 + 0.2 * lines + 0.16 * len(self.marks)

    @property
    def label(self) -> str:
        areas = ", ".join(f"{n} {area:.4f}" for n, area in zip(self.names, self.areas, strict=True))
        return f"Risk by coverage, n = {self.n:,}; area under the curve: {areas}"


def data(
    curves: Mapping[str, RiskCoverage], marked: Mapping[str, float] | None = None
) -> tuple[Selective]:
    """Curves by name of 0/1 errors of the same examples; the first also gets a 95 % band.

    `marked` says at which coverages something was decided: {"99 % precision": 0.84}.
    """
    from levelhead.decisions import risk_band

    thin = {name: curve.thinned(400) for name, curve in curves.items()}
    first = next(iter(thin.values()))
    kept, wrong = first.coverage * first.n, first.risk[-1] * first.n
    ideal = np.maximum(kept - (first.n - wrong), 0) / kept
    marks = (marked or {}).items()
    return (
        Selective(
            tuple(thin),
            tuple((curve.coverage, curve.risk) for curve in thin.values()),
            tuple(curve.aurc for curve in thin.values()),
            risk_band(first, first.coverage),
            ideal,
            tuple((t, c, float(np.interp(c, first.coverage, first.risk))) for t, c in marks),
            first.n,
        ),
    )


def draw(panel: Selective, axes: Axes) -> None:
    """A line a score; dotted lines for a score that knows all and one that knows nothing."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    (x, y), (low, high) = panel.curves[0], panel.band
    axes.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
    numbers = zip(panel.names, panel.curves, panel.areas, strict=True)
    for i, (name, (coverage, risk), area) in enumerate(numbers):
        colour, style = LOOKS[i % len(LOOKS)]
        axes.plot(
            coverage, risk, color=colour, linestyle=style, markersize=3.5,
            marker="o" if len(risk) <= 12 else None, label=f"{shorten(name, 40)}, AURC {area:.4f}",
        )  # fmt: skip
    axes.plot(x, np.full(len(x), y[-1]), "--", color=MUTED, linewidth=1.1, label="random order")
    axes.plot(x, panel.ideal, ":", color=MUTED, linewidth=1.1, label="best order")
    for _, at, height in panel.marks:
        axes.axvline(at, color=INK, linestyle=(0, (1, 2)), linewidth=1)
        axes.plot(at, height, "D", color=INK, markersize=5)
    # Of the few examples at the left end the risk may be anything.
    settled = [curve[1][len(curve[1]) // 4 :].max() for curve in panel.curves]
    top = min(1.15 * max(*settled, float(y[-1])), 2 * float(y[-1])) or 0.01
    axes.set(xlim=(0, 1), ylim=(0, top), ylabel="risk: share of them wrong")
    thresholds = [
        f"◆ {shorten(text, 24)}: {percent(at)} kept, {percent(height)} of them wrong"
        for text, at, height in panel.marks
    ]
    axes.set_xlabel("\n".join(["coverage: share of answers kept", *thresholds]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(percent))
    axes.set_title(f"Risk by coverage, n = {panel.n:,}")
    axes.grid(axis="y")
    # Inches below the axes, under as many lines as there are marks.
    lower = ScaledTranslation(0, -0.5 - 0.16 * len(thresholds), axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.43, 0), bbox_transform=axes.transAxes + lower,
        ncols=panel.columns, handlelength=2, columnspacing=1, borderaxespad=0,
    )  # fmt: skip
    for name, (coverage, risk) in zip(panel.names, panel.curves, strict=True):
        inside = risk <= top
        texts = [
            f"{name}: {percent(c)} kept, {percent(r)} of them wrong"
            for c, r in zip(coverage[inside], risk[inside], strict=True)
        ]
        tips(axes, coverage[inside], risk[inside], texts)
