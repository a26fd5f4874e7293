"""Features of three classes in the plane of their templates (Müller et al. 2019, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from levelhead.figures.canvas import BLUE, GREEN, INK, VERMILLION, shorten, tip
from levelhead.representation.geometry import Projection, limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = ((BLUE, "o"), (VERMILLION, "^"), (GREEN, "s"))
"""Colour and marker of the three classes: told apart without colour, too."""


@dataclass(frozen=True)
class Plane:
    """One column: a network and a split."""

    title: str
    projection: Projection
    x: tuple[float, float]  # ends of the axes
    y: tuple[float, float]

    @property
    def size(self) -> tuple[float, float]:
        shape = (self.y[1] - self.y[0]) / (self.x[1] - self.x[0])
        return 3.1, 1.7 + 2.5 * min(shape, 1.6)

    @property
    def label(self) -> str:
        pairs = zip(self.projection.names, self.projection.points, strict=True)
        counts = ", ".join(f"{name} n = {len(xy):,}" for name, xy in pairs)
        return f"{self.title}: features in the plane of three class templates, {counts}"


def data(columns: Mapping[str, Projection], shared: bool = True) -> tuple[Plane, ...]:
    """A panel for each projection, by title: the paper's four are training and validation, without
    and with smoothing. All have the same axes, or each its own where not `shared`."""
    both = limits(list(columns.values())) if shared else None
    return tuple(Plane(name, p, *(both or limits([p]))) for name, p in columns.items())


def draw(panel: Plane, axes: Axes) -> None:
    """A marker an example; crosses are the templates."""
    from matplotlib.ticker import MaxNLocator

    projection = panel.projection
    for i, (name, xy) in enumerate(zip(projection.names, projection.points, strict=True)):
        colour, marker = LOOKS[i]
        text = f"{shorten(name, 22)}, n = {len(xy):,}"
        look = {"s": 15, "color": colour, "alpha": 0.55, "linewidths": 0, "label": text}
        spots = axes.scatter(*xy.T, marker=marker, **look)  # type: ignore[arg-type]
        tip(spots, text)
    for i, (name, (x, y)) in enumerate(
        zip(projection.names, projection.templates.tolist(), strict=True)
    ):
        # A wide white rim keeps the cross in sight on its own cluster.
        for colour, width, size in (("white", 3.2, 9), (LOOKS[i][0], 1.5, 8)):
            look = {"markersize": size, "markeredgewidth": width, "color": colour, "zorder": 5}
            (cross,) = axes.plot(x, y, "x", **look)  # type: ignore[arg-type]
        tip(cross, f"template of {shorten(name, 22)}")
    axes.plot([], [], "x", color=INK, markersize=7, markeredgewidth=1.5, label="templates")
    axes.set(xlim=panel.x, ylim=panel.y, aspect="equal")
    axes.set(xlabel="first axis of the plane", ylabel="second axis")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.set_title(shorten(panel.title, 34))
    axes.grid()
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=1, handlelength=1, borderaxespad=0
    )
