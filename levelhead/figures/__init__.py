"""Figures: numbers first, then drawing.

A figure is one file with `data(...)`, which gives a tuple of panels (frozen dataclasses of
arrays), and `draw(panel, axes)`, which only draws. `canvas.to_svg(panel, figure.draw, key)` and
`canvas.to_png(panel, figure.draw)` make pictures. A new figure is a file and a line here.

>>> from levelhead.figures import FIGURES
>>> sorted(FIGURES)
['comparison', 'confusion', 'curves', 'reliability', 'samples']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from levelhead.figures import comparison, confusion, curves, reliability, samples


@dataclass(frozen=True)
class Figure:
    """The two functions of a figure."""

    data: Callable[..., tuple[Any, ...]]
    draw: Callable[..., None]  # (panel, axes)


FIGURES: dict[str, Figure] = {
    "reliability": Figure(reliability.data, reliability.draw),
    "confusion": Figure(confusion.data, confusion.draw),
    "curves": Figure(curves.data, curves.draw),
    "samples": Figure(samples.data, samples.draw),
    "comparison": Figure(comparison.data, comparison.draw),
}
