"""From what a reader found to a Listing: labels, and the checks every source passes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from levelhead.data.decode import measure
from levelhead.data.entries import Array, Entries, Listing, count, some
from levelhead.errors import LevelheadError


def finish(
    source: str,
    name: str,
    parts: dict[str, Entries],
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Listing:
    """Number the classes, check that a classifier can be trained, measure a sample.

    Without `class_names`, the classes are the labels that occur, sorted. Raises LevelheadError
    for: no images, one class, a label that is none, a class that train or test lacks, fewer
    images than classes, an id twice, arrays that do not fit together.
    """
    notes = list(notes)
    order = ("train", "validation", "test")
    parts = {split: parts[split] for split in order if split in parts and len(parts[split].ids)}
    if "train" not in parts:
        raise LevelheadError(f"{source}: no images to train on; add a training split")
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
        notes.append(
            "The data has a validation split and no test split: it is taken as the test set, "
            "and validation is split from train."
        )
    for split, part in parts.items():
        _check(f"{source}: {split}", part)
    if class_names is None:
        class_names = in_order({str(value) for part in parts.values() for value in part.labels})
        parts = {s: _replace(part, [str(v) for v in part.labels]) for s, part in parts.items()}
    elif len(parts["train"].ids) < len(class_names):
        raise LevelheadError(
            f"{source}: {count(len(parts['train'].ids), 'training image')} for "
            f"{count(len(class_names), 'class')}; every class needs at least two"
        )
    names = list(class_names)
    doubles = [word for word, times in Counter(names).items() if times > 1]
    if doubles:
        raise LevelheadError(f"{source}: two classes are called {doubles[0]!r}; rename one")
    labels = {split: _numbers(f"{source}: {split}", p, names) for split, p in parts.items()}
    used = np.unique(np.concatenate(list(labels.values())))
    if len(used) < len(names):  # a list of names longer than the data, as in parts of ImageNet
        absent = [name for k, name in enumerate(names) if k not in set(used.tolist())]
        notes.append(f"No image of class {some(absent)}: left out.")
        names = [names[k] for k in used]
        labels = {split: np.searchsorted(used, y) for split, y in labels.items()}
    if len(names) < 2:
        raise LevelheadError(f"{source}: only one class ({names[0]}); two are needed")
    for split, y in labels.items():
        for k in np.setdiff1d(np.arange(len(names)), y):
            fix = {
                "train": "add training images of it, or take it out",
                "test": "add some, or remove the test set so that one is split from train",
            }
            if split in fix:
                raise LevelheadError(
                    f"{source}: class {names[k]!r} has no image in {split}; {fix[split]}"
                )
            notes.append(f"Class {names[k]!r} has no image in {split}.")
    splits = {
        split: Entries(
            tuple(part.ids),
            labels[split].astype(np.int64),
            None if part.groups is None else tuple(part.groups),
            part.images,
            part.read,
        )
        for split, part in parts.items()
    }
    size, channels = measure(splits["train"])
    return Listing(name, source, tuple(names), splits, size, channels, tuple(notes))


def in_order(words: set[str]) -> list[str]:
    """Class names sorted; by value if all are whole numbers."""
    try:
        return sorted(words, key=lambda word: (int(word), word))
    except ValueError:
        return sorted(words)


def _replace(part: Entries, labels: Sequence[Any]) -> Entries:
    return dataclasses.replace(part, labels=labels)


def _check(where: str, part: Entries) -> None:
    """Raise LevelheadError if the parts of a split do not fit together."""
    n = len(part.ids)
    for noun, values in (("label", part.labels), ("group", part.groups)):
        if values is not None and len(values) != n:
            raise LevelheadError(f"{where} has {count(len(values), noun)} for {n} images")
    for name, value in zip(part.ids, part.labels, strict=True):
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise LevelheadError(
                f"{where} label {value!r} of {name} is no class; wanted whole numbers or words"
            )
    doubles = [name for name, times in Counter(part.ids).items() if times > 1]
    if doubles:
        raise LevelheadError(f"{where} has {some(doubles)} twice; keep one")
    if part.images is not None:
        shape = part.images.shape
        if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
            first = len(shape) == 4 and shape[1] in (1, 3)
            fix = " (channels go last: x.transpose(0, 2, 3, 1))" if first else ""
            raise LevelheadError(
                f"{where} images have the shape {shape}; wanted [N,H,W], [N,H,W,1] or "
                f"[N,H,W,3]{fix}"
            )


def _numbers(where: str, part: Entries, names: list[str]) -> Array:
    """int64 [N] labels. Raises LevelheadError for one that is no class."""
    index: dict[Any, int] = {word: k for k, word in enumerate(names)}
    index.update({k: k for k in range(len(names))})
    for name, value in zip(part.ids, part.labels, strict=True):
        if value not in index:
            allowed = f"0 to {len(names) - 1}" if isinstance(value, int) else some(names, 8)
            raise LevelheadError(
                f"{where} label {value!r} of {name} is out of range ({allowed}); correct it, or "
                "leave the image out"
            )
    return np.array([index[value] for value in part.labels], np.int64)
