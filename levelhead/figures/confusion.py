"""Confusion matrix: which class is taken for which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import BLUE, GRID, INK, VERMILLION, percent, shorten, tip
from levelhead.metrics.counts import class_counts, confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs

NUMBERED = 20
"""Up to this many classes a cell carries its count."""
TOLD = 300
"""So many of the commonest mistakes show their numbers under the pointer."""
SHOWN = 2_000
"""Of more classes those that occur most often are shown: a matrix of all would fill the memory."""


@dataclass(frozen=True)
class Confusion:
    """How often each true class was given each prediction."""

    counts: np.ndarray  # int64 [K,K], rows are true classes, columns predictions
    class_names: tuple[str, ...]
    left_out: int = 0  # rarer classes, which are not shown

    @property
    def shares(self) -> np.ndarray:
        """Counts divided by their row's total [K,K]; a class without examples gives zeros."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1))

    @property
    def size(self) -> tuple[float, float]:
        k = len(self.class_names)
        side = min(max(1.7 + (0.44 if k <= NUMBERED else 0.17) * k, 3.2), 8.0)
        return side, side

    @property
    def label(self) -> str:
        right = int(np.trace(self.counts))
        shown = f" of the {len(self.class_names):,} commonest classes" if self.left_out else ""
        return f"Confusion matrix{shown}: {right} of {int(self.counts.sum())} on the diagonal"

    def pairs(self, limit: int = 20) -> list[tuple[str, str, int, float]]:
        """The commonest mistakes: (true, predicted, count, share of the true class)."""
        names, shares = self.class_names, self.shares
        return [
            (names[t], names[p], int(self.counts[t, p]), float(shares[t, p]))
            for t, p in self.mistakes(limit)
        ]

    def mistakes(self, limit: int) -> list[tuple[int, int]]:
        """The cells (true, predicted) of the commonest mistakes."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        cells = [divmod(int(cell), len(self.class_names)) for cell in order]
        return [(t, p) for t, p in cells if wrong[t, p]]


def data(outputs: Outputs, ordered: bool = False) -> tuple[Confusion]:
    """Count `outputs` by true class and prediction.

    `ordered` puts classes that are taken for each other side by side.
    """
    names = outputs.class_names
    if len(names) > SHOWN:
        counts, names = _commonest(outputs)
    else:
        counts = confusion(outputs).numpy()
    if ordered and len(names) > 2:
        order = neighbours(counts)
        counts, names = counts[np.ix_(order, order)], tuple(names[k] for k in order)
    return (Confusion(counts, names, len(outputs.class_names) - len(names)),)


def _commonest(outputs: Outputs) -> tuple[np.ndarray, tuple[str, ...]]:
    """Counts [SHOWN,SHOWN] and names of the classes with the most labels and predictions."""
    _, support, predicted = class_counts(outputs)
    classes = np.sort(np.argsort(-(support + predicted).numpy(), kind="stable")[:SHOWN])
    place = np.full(outputs.classes, -1)
    place[classes] = np.arange(SHOWN)
    row, column = place[outputs.labels.numpy()], place[outputs.predictions().numpy()]
    both = (row >= 0) & (column >= 0)
    cells = np.bincount(row[both] * SHOWN + column[both], minlength=SHOWN * SHOWN)
    return cells.reshape(SHOWN, SHOWN), tuple(outputs.class_names[k] for k in classes)


def neighbours(counts: np.ndarray) -> np.ndarray:
    """An order of the classes, int64 [K], in which those often confused [K,K] are close.

    The leaves of average-linkage clustering, up to 100 classes in the best order that its tree
    allows (Bar-Joseph et al. 2001).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    near = (shares + shares.T)[np.triu_indices(len(counts), 1)]
    # Roots, so that the few commonest mistakes do not leave all other pairs equally far.
    far = 1 - np.sqrt(near / max(near.max(), 1e-300))
    tree = linkage(far, "average", optimal_ordering=len(counts) <= 100)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def draw(panel: Confusion, axes: Axes) -> None:
    """Right answers blue, mistakes vermillion; depth is the square root of the row's share."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    k, shares, counts = len(panel.class_names), panel.shares, panel.counts
    right = np.eye(k, dtype=bool)
    if k <= NUMBERED:
        for t, p in np.argwhere(counts > 0):
            colour, depth = (BLUE if t == p else VERMILLION), float(np.sqrt(shares[t, p]))
            corner = (p - 0.5, t - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, alpha=depth, linewidth=0))
            ink, text = ("white" if depth > 0.6 else INK), str(counts[t, p])
            size = 8.5 if len(text) < 5 else 7
            axes.text(p, t, text, ha="center", va="center", color=ink, fontsize=size)
        for edge in np.arange(k + 1) - 0.5:
            axes.plot([edge, edge], [-0.5, k - 0.5], color=GRID, linewidth=0.6, clip_on=False)
            axes.plot([-0.5, k - 0.5], [edge, edge], color=GRID, linewidth=0.6, clip_on=False)
    else:
        # Neighbouring cells share a pixel in a large matrix: the darkest speaks for them.
        step = math.ceil(k / 250)
        tiles = math.ceil(k / step)
        padded = np.zeros((tiles * step, tiles * step))
        layer = np.zeros((tiles, tiles, 4))
        for mask, colour in ((right, BLUE), (~right, VERMILLION)):
            padded[:k, :k] = np.where(mask, np.sqrt(shares), 0)
            depth = padded.reshape(tiles, step, tiles, step).max(axis=(1, 3))
            deeper = depth > layer[..., 3]
            layer[deeper] = np.concatenate(
                [np.tile(to_rgb(colour), (int(deeper.sum()), 1)), depth[deeper, None]], axis=1
            )
        axes.imshow(
            np.round(layer * 255).astype(np.uint8),
            extent=(-0.5, tiles * step - 0.5, tiles * step - 0.5, -0.5),
            interpolation="none",
        )
    places = np.argwhere(counts > 0).tolist() if k <= NUMBERED else panel.mistakes(TOLD)
    # A cell smaller than 3 points cannot be pointed at.
    for t, p in places if k <= 150 else ():
        cell = Rectangle((p - 0.5, t - 0.5), 1, 1, color=INK, alpha=0, linewidth=0, zorder=9)
        axes.add_patch(cell)
        true, predicted = panel.class_names[t], panel.class_names[p]
        what = f"{true}, right" if t == p else f"{true} taken for {predicted}"
        tip(cell, f"{what}: {counts[t, p]:,}, {percent(shares[t, p])} of the class")
    ticks = np.arange(0, k, math.ceil(k / (40 if k <= 40 else 25)))
    names = [shorten(panel.class_names[tick]) for tick in ticks]
    flat = k <= NUMBERED and max(map(len, names)) <= 3
    axes.set_xticks(
        ticks,
        names,
        rotation=0 if flat else 45 if k <= NUMBERED else 90,
        ha="center" if flat or k > NUMBERED else "right",
        rotation_mode="default" if flat or k > NUMBERED else "anchor",
        fontsize=8.5 if k <= NUMBERED else 7,
    )
    axes.set_yticks(ticks, names, fontsize=8.5 if k <= NUMBERED else 7)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel="predicted", ylabel="true")
    axes.set_aspect("equal")
    axes.tick_params(length=0 if k <= NUMBERED else 2)
    axes.spines[:].set_visible(k > NUMBERED)
