"""Training images as they are, and as the network saw them in some epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import shorten
from levelhead.figures.samples import thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Augmented:
    """A row an image: itself, then its draws."""

    names: tuple[str, ...]  # the class of each
    columns: tuple[str, ...]
    images: tuple[tuple[np.ndarray, ...], ...]  # uint8 [H,W,1 or 3]

    @property
    def size(self) -> tuple[float, float]:
        return 0.95 * len(self.columns), 0.4 + 1.1 * len(self.names)

    @property
    def label(self) -> str:
        return (
            f"{len(self.names)} training images ({', '.join(self.names)}), each as it is and as "
            f"{len(self.columns) - 1} epochs saw it"
        )


def data(
    names: Sequence[str], epochs: Sequence[int], images: Sequence[Sequence[np.ndarray]]
) -> tuple[Augmented, ...]:
    """One panel; `epochs` are counted from 1, images [rows][1 + epochs]: as it is comes first."""
    columns = ("as it is", *(f"epoch {epoch}" for epoch in epochs))
    rows = tuple(tuple(map(np.asarray, row)) for row in images)
    return (Augmented(tuple(names), columns, rows),)


def draw(panel: Augmented, axes: Axes) -> None:
    """A grid of images, the class under each row's first."""
    for i, (name, row) in enumerate(zip(panel.names, panel.images, strict=True)):
        for j, image in enumerate(row):
            left, top = j + (0.0 if j == 0 else 0.12), 1.18 * i
            axes.imshow(
                thumbnail(image),
                cmap="gray",
                vmin=0,
                vmax=255,
                extent=(left + 0.03, left + 0.97, top + 0.97, top + 0.03),
                interpolation="none",
            )
        axes.text(0.03, 1.18 * i + 1.0, shorten(name, 16), va="top", fontsize=8)
    for j, column in enumerate(panel.columns):
        left = j + (0.0 if j == 0 else 0.12)
        axes.text(left + 0.03, -0.04, column, va="bottom", fontsize=8)
    axes.set(xlim=(0, len(panel.columns) + 0.12), aspect="equal")
    axes.set_ylim(1.18 * len(panel.names) + 0.02, -0.28)
    axes.axis("off")
