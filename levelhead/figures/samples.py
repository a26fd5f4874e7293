"""The images behind the numbers: the surest mistakes, the largest losses, the least sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levelhead.figures.canvas import percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from levelhead.outputs import Outputs

COLUMNS = 6
SHOWN_CLASSES = 3
"""So many of the easiest and of the hardest classes."""


@dataclass(frozen=True)
class Sample:
    """One test image (None where it was not given) and what was said of it."""

    id: str
    true: str
    predicted: str
    confidence: float  # probability of the prediction
    probability: float  # probability of the true class
    image: np.ndarray | None  # uint8 [H,W], [H,W,1] or [H,W,3]


@dataclass(frozen=True)
class Gallery:
    """Images of one kind."""

    title: str
    note: str
    samples: tuple[Sample, ...]

    @property
    def size(self) -> tuple[float, float]:
        return 1.25 * COLUMNS, 0.5 + 1.65 * -(-len(self.samples) // COLUMNS)

    @property
    def label(self) -> str:
        return f"{self.title}: {len(self.samples)} images"


def data(
    outputs: Outputs, images: Mapping[str, np.ndarray] | None = None, count: int = 12
) -> tuple[Gallery, ...]:
    """Galleries of at most `count` examples of `outputs`, with those of `images` (by id): surest
    mistakes, largest losses, least sure, easiest and hardest classes.

    An example without an id is named by its row. A gallery that would be empty is left out.
    """
    labels, rows, names = outputs.labels.numpy(), np.arange(len(outputs)), outputs.class_names
    per_example = outputs.rows
    right, predictions = per_example.correct.numpy() > 0, per_example.prediction.numpy()
    sure, loss = per_example.confidence.numpy(), per_example.nll.numpy()

    def show(title: str, note: str, chosen: np.ndarray) -> None:
        samples = []
        for i in chosen.tolist():
            name = outputs.ids[i] if outputs.ids is not None else str(i)
            true, predicted = int(labels[i]), int(predictions[i])
            samples.append(
                Sample(
                    name,
                    names[true],
                    names[predicted],
                    float(sure[i]),
                    float(np.exp(-loss[i])),
                    None if images is None else images.get(name),
                )
            )
        if samples:
            galleries.append(Gallery(title, note, tuple(samples)))

    def gallery(title: str, note: str, among: np.ndarray, key: np.ndarray) -> np.ndarray:
        # Of equal confidences (many round to 1) the larger loss first.
        chosen = among[np.lexsort((-loss[among], key[among]))][:count]
        show(title, note, chosen)
        return chosen

    def of_classes(title: str, note: str, classes: np.ndarray) -> None:
        """A few of each class, from those that it is surest of to those that it is least."""
        each = max(1, count // max(1, len(classes)))
        chosen = []
        for k in classes.tolist():
            own = rows[labels == k]
            own = own[np.argsort(loss[own], kind="stable")]
            chosen.append(own[((2 * np.arange(each) + 1) * len(own)) // (2 * each)])
        show(title, note, np.concatenate(chosen))

    galleries: list[Gallery] = []
    wrong = rows[~right]
    shown = gallery("Surest mistakes", "wrong, with the highest confidence", wrong, -sure)
    rest = np.setdiff1d(wrong, shown)
    note = "the true class was given the least probability (not shown above)"
    gallery("Largest losses", note, rest, -loss)
    gallery("Right, but least sure", "right, with the lowest confidence", rows[right], sure)
    counts = np.bincount(labels, minlength=len(names))
    there = np.flatnonzero(counts)
    if len(there) >= 2 * SHOWN_CLASSES:
        share = np.bincount(labels, right, minlength=len(names))[there] / counts[there]
        order = there[np.argsort(-share, kind="stable")]
        note = "most of their images are found; from the smallest loss to the largest"
        of_classes("Easiest classes", note, order[:SHOWN_CLASSES])
        note = "fewest of their images are found; from the smallest loss to the largest"
        of_classes("Hardest classes", note, order[::-1][:SHOWN_CLASSES])
    return tuple(galleries)


def wanted(outputs: Outputs, count: int = 12) -> tuple[str, ...]:
    """Ids of the examples that `data` would show: those whose images to pass."""
    return tuple(sample.id for gallery in data(outputs, None, count) for sample in gallery.samples)


def thumbnail(image: np.ndarray, side: int = 112) -> np.ndarray:
    """An image whose longer side is at most `side` pixels; uint8 [h,w] or [h,w,3]."""
    import cv2

    if image.ndim == 3:
        image = image[:, :, 0] if image.shape[2] == 1 else image[:, :, :3]
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    width, height = (max(1, round(n * scale)) for n in image.shape[1::-1])
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small)


def draw(panel: Gallery, axes: Axes) -> None:
    """A grid of images; under each the true class and, if wrong, what it was taken for."""
    axes.set(title=f"{panel.title}: {panel.note}", xlim=(0, COLUMNS), aspect="equal")
    axes.set_ylim(1.32 * -(-len(panel.samples) // COLUMNS), 0)
    axes.axis("off")
    for i, sample in enumerate(panel.samples):
        row, column = divmod(i, COLUMNS)
        left, top = column + 0.04, 1.32 * row + 0.02
        if sample.image is not None:
            tile = thumbnail(sample.image)
            half = [0.46 * n / max(tile.shape[:2]) for n in tile.shape[:2]]
            x, y = left + 0.46, top + 0.46
            axes.imshow(
                tile,
                cmap="gray",
                vmin=0,
                vmax=255,
                extent=(x - half[1], x + half[1], y + half[0], y - half[0]),
                interpolation="none",
            )
        lines = [shorten(sample.true, 14), percent(sample.confidence)]
        if sample.predicted != sample.true:
            lines[1] = f"→ {shorten(sample.predicted, 11)} {percent(sample.confidence)}"
        axes.text(left, top + 0.96, "\n".join(lines), va="top", fontsize=7.5, linespacing=1.25)
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(1.32 * -(-len(panel.samples) // COLUMNS), 0)
