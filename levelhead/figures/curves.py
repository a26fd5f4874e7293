"""How training went: loss, accuracy and learning rate by epoch, or folds by penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import BLUE, MUTED, VERMILLION, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, float]]
"""Rows of history.csv: column -> number (NaN where a cell is empty)."""


@dataclass(frozen=True)
class Line:
    """A series of numbers over the rows of a history."""

    name: str
    y: np.ndarray  # float64 [rows]
    colour: str
    style: str = "-"


@dataclass(frozen=True)
class Curve:
    """Series that share their axes."""

    title: str
    xlabel: str
    x: np.ndarray  # float64 [rows]
    lines: tuple[Line, ...]
    percent: bool = False
    chosen: float | None = None  # the penalty that was taken
    note: str | None = None  # a sentence to stand under the drawing

    @property
    def size(self) -> tuple[float, float]:
        return 4.3, 2.9 + 0.2 * ((len(self.lines) + 1) // 2)

    @property
    def label(self) -> str:
        def end(line: Line) -> str:
            known = line.y[np.isfinite(line.y)]
            return f"{line.name} {known[0]:.4g} to {known[-1]:.4g}"

        return f"{self.title} by {self.xlabel}: " + "; ".join(map(end, self.lines))


def data(
    history: History,
    *,
    classes: int,
    smoothing: float = 0.0,
    convention: str = "uniform",
    augmented: bool = False,
) -> tuple[Curve, ...]:
    """The curves that `history` holds numbers for; columns as in a run's history.csv.

    smoothing: ε of the loss where nothing else makes soft targets, else 0.
    """

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name, math.nan) for row in history], dtype=np.float64)

    def curve(title: str, x: str, *lines: Line, percent: bool = False, **more: object) -> None:
        there = tuple(line for line in lines if np.isfinite(line.y).any())
        if there:
            curves.append(Curve(title, x, column(x), there, percent, **more))  # type: ignore[arg-type]

    curves: list[Curve] = []
    if history and "penalty" in history[0]:
        nll = column("fold_nll")
        chosen = float(column("penalty")[np.nanargmin(nll)]) if np.isfinite(nll).any() else None
        for title, y, percent in (
            ("NLL on held-out folds of the training split", "fold_nll", False),
            ("Accuracy on the same folds", "fold_accuracy", True),
        ):
            line = Line("held-out folds", column(y), BLUE)
            curve(title, "penalty", line, percent=percent, chosen=chosen)
        return tuple(curves)
    note = why_above(
        history, classes=classes, smoothing=smoothing, convention=convention, augmented=augmented
    )
    optimised, plain = column("train_loss"), column("train_nll")
    lines = [
        Line("training", plain, BLUE),
        Line("validation", column("validation_nll"), VERMILLION),
    ]
    if not np.allclose(optimised, plain, rtol=1e-3, equal_nan=True):
        lines.append(Line("training, as optimised", optimised, MUTED, "--"))
    if smoothing > 0:
        least = np.full(len(history), floor(smoothing, classes, convention))
        lines.append(Line("its floor: the targets' entropy", least, MUTED, ":"))
    curve("Plain NLL", "epoch", *lines, note=note)
    sure = Line("its mean confidence", column("validation_confidence"), VERMILLION, ":")
    curve(
        "Accuracy and confidence" if np.isfinite(sure.y).any() else "Accuracy",
        "epoch",
        Line("training", column("train_accuracy"), BLUE),
        Line("validation", column("validation_accuracy"), VERMILLION),
        sure,
        percent=True,
    )
    curve("Learning rate", "epoch", Line("learning rate", column("lr"), BLUE))
    return tuple(curves)


def why_above(
    history: History, *, classes: int, smoothing: float, convention: str, augmented: bool
) -> str | None:
    """Why the optimised training loss ends above the validation NLL; None where it does not,
    or where neither smoothing nor augmentation explains it."""
    if not history or not (smoothing > 0 or augmented):
        return None
    loss = history[-1].get("train_loss", math.nan)
    plain = history[-1].get("validation_nll", math.nan)
    if not loss > plain:
        return None
    text = (
        f"The optimised training loss ends at {loss:.3g}, above the validation loss of "
        f"{plain:.3g}, and that is as it should be: "
    )
    reasons = []
    if smoothing > 0:
        reasons.append(
            f"it is measured against targets smoothed by {smoothing:g}, whose own entropy of "
            f"{floor(smoothing, classes, convention):.3g} nats no network can go below, "
            "while the validation loss is the plain NLL"
        )
    if augmented:
        reasons.append(
            "training images are cropped, flipped or masked at random, so they are harder than "
            "the whole images of validation"
        )
    return text + "; and ".join(reasons) + ". Compare the solid lines."


def floor(smoothing: float, classes: int, convention: str = "uniform") -> float:
    """Entropy in nats of a smoothed target: the least that the smoothed loss can be.

    >>> round(floor(0.1, 10), 4)
    0.5003
    """
    wrong = smoothing / (classes if convention == "uniform" else classes - 1)
    right = 1 - wrong * (classes - 1)
    return -sum(n * p * math.log(p) for n, p in ((1, right), (classes - 1, wrong)) if p > 0)


def draw(panel: Curve, axes: Axes) -> None:
    """One line a series; the chosen penalty is a dotted upright."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    few = len(panel.x) <= 12
    for line in panel.lines:
        known = np.isfinite(line.y)
        axes.plot(
            panel.x[known],
            line.y[known],
            line.style,
            color=line.colour,
            label=line.name,
            marker="o" if few and line.style == "-" else None,
            markersize=3.5,
        )
    if panel.xlabel == "penalty":
        positive = panel.x[panel.x > 0]
        if len(positive) == len(panel.x):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=7))
        elif len(positive):
            axes.set_xscale("symlog", linthresh=float(positive.min()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if panel.chosen is not None:
        axes.axvline(panel.chosen, color=MUTED, linestyle=":", linewidth=1.2, label="chosen")
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set(title=panel.title, xlabel=panel.xlabel)
    axes.grid(axis="y")
    if len(panel.lines) > 1 or panel.chosen is not None:
        # Under the drawing: beside four lines no corner is free for certain.
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.46, -0.2), ncols=2, handlelength=1.8,
            columnspacing=1.2,
        )  # fmt: skip
