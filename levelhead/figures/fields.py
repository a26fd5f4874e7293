"""What units in the middle of some layers see of the image: their window, and what moves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import INK, VERMILLION, shorten
from levelhead.models.describe import Description, Field, Layer, merged, sides
from levelhead.representation.receptive_field import side_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

MOST = 6
"""Layers that are drawn."""


@dataclass(frozen=True)
class Window:
    """One layer: the window of the unit in the middle, and the gradient that it has there."""

    layer: str
    extent: tuple[float, float]  # px
    step: tuple[float, float]
    box: tuple[float, float, float, float]  # first and last row, first and last column
    strength: np.ndarray | None  # float32 [H,W], adds up to 1
    side: float | None  # of a square that holds as many pixels as 95 % of it
    image_size: int

    @property
    def size(self) -> tuple[float, float]:
        return 3.0, 3.4

    @property
    def label(self) -> str:
        real = "" if self.side is None else f", 95 % of its gradient within {self.side:.0f} px"
        return f"A unit of {self.layer} sees {sides(self.extent)} px{real}"


def drawn(description: Description) -> tuple[Layer, ...]:
    """The layers to draw: the last one at each distance between units, coarse ones last."""
    last: dict[tuple[float, float], Layer] = {}
    for row in merged(description.layers):
        if row.field and row.step and row.start and len(row.shape) == 3 and row.shape[1] > 1:
            last[row.step] = row
    return tuple(last.values())[-MOST:]


def data(description: Description, strengths: Mapping[str, Tensor]) -> tuple[Window, ...]:
    """A panel a layer; `strengths` [H,W] by path are drawn where they are known."""
    panels = []
    for row in drawn(description):
        assert row.field is not None
        assert row.step is not None
        assert row.start is not None
        middle = row.shape[1] // 2, row.shape[2] // 2
        strength = strengths.get(row.path)
        panels.append(
            Window(
                row.path,
                row.field,
                row.step,
                Field(row.field, row.step, row.start).box(*middle),
                None if strength is None else strength.numpy(),
                None if strength is None else side_of(strength),
                description.image_size,
            )
        )
    return tuple(panels)


def draw(panel: Window, axes: Axes) -> None:
    """The image as a square, the window as a frame, the gradient as a shade of blue."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    side = panel.image_size
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), aspect="equal")
    if panel.strength is not None:
        # The root shows what is weak, too. Transparent where nothing is: pages may be dark.
        shades = LinearSegmentedColormap.from_list("seen", [(0, 0.45, 0.7, 0), (0, 0.45, 0.7, 1)])
        axes.imshow(np.sqrt(panel.strength), cmap=shades, interpolation="nearest")
    top, bottom, left, right = panel.box
    frame = Rectangle(
        (left - 0.5, top - 0.5),
        right - left + 1,
        bottom - top + 1,
        fill=False,
        edgecolor=VERMILLION,
        linewidth=1.8,
    )
    axes.add_patch(frame)
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.8)
    axes.set_xticks([0, side - 1], ["1", str(side)])
    axes.set_yticks([0, side - 1], ["1", str(side)])
    wider = top < -0.5 and bottom > side - 0.5 and left < -0.5 and right > side - 0.5
    real = "" if panel.side is None else f"\n95 % of the gradient: {panel.side:.0f} px"
    axes.set_title(
        f"layer {shorten(panel.layer, 24)}\nsees {sides(panel.extent)} px"
        + (" (all)" if wider else "")
        + real,
        fontsize=9,
        linespacing=1.35,
    )
