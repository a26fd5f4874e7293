"""What a linear classifier looks for: the weights of each class as an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

COLUMNS = 5
MOST = 20
"""Classes that are drawn."""


@dataclass(frozen=True)
class Templates:
    """One image a class: middle grey where a pixel does not count."""

    names: tuple[str, ...]
    images: np.ndarray  # float64 [K,H,W,1 or 3], 0 to 1
    classes: int  # in all

    @property
    def size(self) -> tuple[float, float]:
        return 1.2 * COLUMNS, 0.3 + 1.4 * -(-len(self.names) // COLUMNS)

    @property
    def label(self) -> str:
        return f"Weights of {len(self.names)} classes as images: {', '.join(self.names)}"


def data(
    weight: Tensor, class_names: Sequence[str], shape: tuple[int, int, int]
) -> tuple[Templates, ...]:
    """One panel of weights [K, C·H·W] on pixels of the shape (C, H, W).

    A class's weights are divided by its largest: colour is where they lie above or below 0. A
    softmax does not see what all classes share, so their mean is taken off.
    """
    images = weight.detach().double().cpu().reshape(len(weight), *shape)
    images = images - images.mean(0)
    most = images.abs().flatten(1).amax(1).clamp_min(1e-12)
    scaled = 0.5 + images / most[:, None, None, None] / 2
    pixels = scaled.permute(0, 2, 3, 1).numpy()[:MOST]
    return (Templates(tuple(class_names)[:MOST], pixels, len(class_names)),)


def draw(panel: Templates, axes: Axes) -> None:
    """A grid of images, the class under each."""
    rows = -(-len(panel.names) // COLUMNS)
    for i, (name, image) in enumerate(zip(panel.names, panel.images, strict=True)):
        row, left = divmod(i, COLUMNS)
        top = 1.22 * row
        axes.imshow(
            image if image.shape[2] == 3 else image[:, :, 0],
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(left + 0.04, left + 0.96, top + 0.96, top + 0.04),
            interpolation="none",
        )
        axes.text(left + 0.04, top + 0.98, shorten(name, 16), va="top", fontsize=8)
    axes.set(xlim=(0, COLUMNS), aspect="equal")
    axes.set_ylim(1.22 * rows, 0)
    axes.axis("off")
