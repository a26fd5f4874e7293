"""Figures: numbers first, then drawing.

A figure is one file with `data(...)`, which gives a tuple of panels (frozen dataclasses of
arrays), and `draw(panel, axes)`, which only draws. `canvas.to_svg(panel, figure.draw, key)` and
`canvas.to_png(panel, figure.draw)` make pictures. A new figure is a file and a line here.

>>> from levelhead.figures import FIGURES
>>> len(FIGURES), "risk_coverage" in FIGURES
(16, True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from levelhead.figures import (
    classwise,
    comparison,
    confidence,
    confusion,
    coverage,
    cumulative,
    curves,
    distillation,
    heatmap,
    information,
    overconfidence,
    penultimate,
    reliability,
    risk_coverage,
    samples,
    tradeoff,
)


@dataclass(frozen=True)
class Figure:
    """The two functions of a figure."""

    data: Callable[..., tuple[Any, ...]]
    draw: Callable[..., None]  # (panel, axes)


FIGURES: dict[str, Figure] = {
    figure.__name__.rpartition(".")[2]: Figure(figure.data, figure.draw)
    for figure in (
        *(reliability, classwise, heatmap, confidence, cumulative, risk_coverage, coverage),
        *(confusion, curves, samples, comparison, penultimate, information, distillation),
        *(tradeoff, overconfidence),
    )
}
