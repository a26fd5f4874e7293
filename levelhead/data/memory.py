"""Data from memory: arrays or tensors become what a file of the same pixels would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from levelhead.data.entries import Array, Entries, Listing
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError

MEMORY = "memory:"
"""What the source of such data begins with; nothing can be read from there again."""

Layout = Literal["HWC", "CHW"]
Part = tuple[Any, Any]  # images and labels


def from_arrays(
    images: Any,
    labels: Any,
    *,
    layout: Layout = "HWC",
    value_range: tuple[float, float] | None = None,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    validation: Part | None = None,
    test: Part | None = None,
    name: str = "arrays",
) -> Listing:
    """NumPy arrays or tensors as data for `levelhead.train(Recipe("arrays"), data=…)`.

    images: [N,H,W] or, by `layout`, [N,H,W,C] or [N,C,H,W], C 1 or 3; uint8 from 0 to 255, or
    floats whose `value_range` (black, white) is stated, for example (0, 1): they are rounded to
    256 steps, as a file would hold them. labels [N]: class names, or positions among
    `class_names` (default: the labels that occur). `validation` and `test` are (images, labels) of
    splits that exist; else they are held out as the recipe says. ids (default `train/0` …) tell
    the examples apart, groups [N] are never parted. Raises LevelheadError for a shape, a value, a
    length or a label that cannot be.

    >>> import numpy as np
    >>> data = from_arrays(np.zeros((4, 8, 8), np.uint8), ["cat", "dog", "cat", "dog"])
    >>> data.class_names, data.channels, len(data.splits["train"])
    (('cat', 'dog'), 1, 4)
    """
    parts = {"train": (images, labels), "validation": validation, "test": test}
    source = f"{MEMORY}{name}"
    entries = {}
    for split, part in parts.items():
        if part is None:
            continue
        pixels = image_array(f"{source}: {split} images", part[0], layout, value_range)
        own_ids = ids if split == "train" and ids is not None else None
        own_groups = groups if split == "train" and groups is not None else None
        entries[split] = Entries(
            tuple(f"{split}/{i}" for i in range(len(pixels)))
            if own_ids is None
            else tuple(own_ids),
            _labels(f"{source}: {split} labels", part[1]),
            None if own_groups is None else tuple(map(str, own_groups)),
            pixels,
        )
    return finish(source, name, entries, None if class_names is None else list(class_names))


def is_name(data: str) -> bool:
    """Whether a recipe's `data` is a name rather than a path: digits, or data from memory."""
    return data == "digits" or data.startswith(MEMORY)


def image_array(
    where: str, images: Any, layout: Layout, value_range: tuple[float, float] | None
) -> Array:
    """uint8 [N,H,W,C] of what `from_arrays` takes; `where` begins its errors."""
    array = _array(images)
    if layout not in ("HWC", "CHW"):
        raise LevelheadError(f"layout {layout!r}: must be HWC (channels last) or CHW")
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and layout == "CHW":
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        other = "CHW" if layout == "HWC" else "HWC"
        raise LevelheadError(
            f"{where} have the shape {array.shape} as {layout}; wanted [N,H,W] or one or three "
            f"channels (layout={other!r}?)"
        )
    if array.dtype == np.uint8 and value_range in (None, (0, 255)):
        return np.ascontiguousarray(array)
    if value_range is None:
        raise LevelheadError(
            f"{where} are {array.dtype}: say what is black and what is white, for example "
            "value_range=(0, 1)"
        )
    black, white = value_range
    if not (np.isfinite([black, white]).all() and black < white):
        raise LevelheadError(
            f"value_range {value_range}: must be (black, white), for example (0, 1)"
        )
    if not np.isfinite(array).all():
        raise LevelheadError(f"{where} hold NaN or infinity; leave these images out")
    low, high = float(array.min()), float(array.max())
    if low < black or high > white:
        raise LevelheadError(
            f"{where} run from {low:g} to {high:g}, outside of value_range {value_range}; state "
            "their range, or clip them"
        )
    scaled = (array.astype(np.float64) - black) * (255 / (white - black))
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8))


def _labels(where: str, labels: Any) -> list[Any]:
    """Whole numbers or names, as a list."""
    array = _array(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise LevelheadError(f"{where} have the shape {array.shape}; wanted one an image, [N]")
    if array.dtype.kind == "f" and (array == np.rint(array)).all():
        array = array.astype(np.int64)
    return [value.item() if isinstance(value, np.generic) else value for value in array.tolist()]


def _array(values: Any) -> Array:
    """A NumPy array of an array, a tensor on any device, or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)
