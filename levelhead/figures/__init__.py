"""Figures: numbers first, then drawing.

A figure is one file with `data(...)`, which gives a tuple of panels (frozen dataclasses of
arrays), and `draw(panel, axes)`, which only draws. `canvas.to_svg(panel, figure.draw, key)` and
`canvas.to_png(panel, figure.draw)` make images. A new figure is a file and a line here.

>>> from levelhead.figures import FIGURES
>>> "risk_coverage" in FIGURES
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.figures import (
    augmented,
    classwise_reliability,
    comparison,
    confidence_histogram,
    confusion,
    coverage,
    cumulative,
    curves,
    fields,
    gains,
    heatmap,
    information_plane,
    overconfidence,
    projection,
    reliability,
    risk_coverage,
    samples,
    slices,
    students,
    temperatures,
    templates,
)


@dataclass(frozen=True)
class Figure:
    """The two functions of a figure."""

    data: Callable[..., tuple[Any, ...]]
    draw: Callable[..., None]  # (panel, axes)


FIGURES: dict[str, Figure] = {
    "reliability": Figure(reliability.data, reliability.draw),
    "classwise": Figure(classwise_reliability.data, classwise_reliability.draw),
    "heatmap": Figure(heatmap.data, heatmap.draw),
    "confidence": Figure(confidence_histogram.data, confidence_histogram.draw),
    "cumulative": Figure(cumulative.data, cumulative.draw),
    "risk_coverage": Figure(risk_coverage.data, risk_coverage.draw),
    "coverage": Figure(coverage.data, coverage.draw),
    "confusion": Figure(confusion.data, confusion.draw),
    "curves": Figure(curves.data, curves.draw),
    "samples": Figure(samples.data, samples.draw),
    "augmented": Figure(augmented.data, augmented.draw),
    "comparison": Figure(comparison.data, comparison.draw),
    "penultimate": Figure(projection.data, projection.draw),
    "information": Figure(information_plane.data, information_plane.draw),
    "distillation": Figure(students.data, students.draw),
    "temperatures": Figure(temperatures.data, temperatures.draw),
    "templates": Figure(templates.data, templates.draw),
    "tradeoff": Figure(gains.data, gains.draw),
    "receptive_field": Figure(fields.data, fields.draw),
    "landscape": Figure(slices.data, slices.draw),
    "landscapeplane": Figure(slices.planes, slices.draw_plane),
    "overconfidence": Figure(overconfidence.data, overconfidence.draw),
}


def write_panels(
    panels: Mapping[str, Sequence[Any]],
    folder: Path,
    suffixes: Sequence[str] = (".png", ".svg"),
    *,
    numbered: bool = False,
) -> list[Path]:
    """Every panel of some figures as files; returns their paths.

    `panels`: by file name, which starts with the figure's name in FIGURES (`tradeoff-cifar10`). Of
    several panels each is numbered from 1; with `numbered` a single one, too.
    """
    from levelhead.figures.canvas import to_png, to_svg
    from levelhead.files import write

    written = []
    for name, several in panels.items():
        draw = FIGURES[name.partition("-")[0]].draw
        for place, panel in enumerate(several, 1):
            stem = f"{name}-{place}" if numbered or len(several) > 1 else name
            for suffix in suffixes:
                png = suffix == ".png"
                write(
                    folder / (stem + suffix),
                    to_png(panel, draw) if png else to_svg(panel, draw, name),
                )
                written.append(folder / (stem + suffix))
    return written
