"""From what a reader found to a Listing: labels, and the checks every source passes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from levelhead.data.entries import ORDER, Entries, Listing, Subset
from levelhead.data.measure import measure
from levelhead.errors import LevelheadError
from levelhead.labels import UNLABELLED, in_order, positions, same, spelling, spellings
from levelhead.text import count, some


def finish(
    source: str,
    name: str,
    parts: dict[str, Entries],
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    roles: Sequence[str] = (),
) -> Listing:
    """Number the classes, check that a classifier can be trained, measure the images.

    Without `class_names`, the classes are the labels that occur, sorted. Images without a label
    (empty, −1, −100) are left out, and so is a test or validation split without any. Raises
    LevelheadError for: no images, one class, a label that is none, a class that train lacks, fewer
    images than classes, an id twice, arrays that do not fit together, a name that is no UTF-8.
    """
    notes = list(notes)
    parts = {split: parts[split] for split in ORDER if split in parts and len(parts[split].ids)}
    for split, part in parts.items():
        _check(f"{source}: {split}", part)
    parts = {s: dataclasses.replace(p, labels=spellings(p.labels)) for s, p in parts.items()}
    parts, remarks = _labelled(parts, class_names)
    notes += remarks
    if "train" not in parts:
        raise LevelheadError(f"{source}: no images to train on; add a training split")
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
        notes.append(
            "The data has a validation split and no test split: it is taken as the test set, "
            "and validation is split from train."
        )
    if class_names is None:
        columns = same([part.labels for part in parts.values()])
        parts = {
            split: dataclasses.replace(part, labels=column)
            for (split, part), column in zip(parts.items(), columns, strict=True)
        }
        names = in_order({label for column in columns for label in column})
        notes += _lookalikes(names)
    else:
        names = list(map(spelling, class_names))
        if len(parts["train"].ids) < len(names):
            raise LevelheadError(
                f"{source}: {count(len(parts['train'].ids), 'training image')} for "
                f"{count(len(names), 'class')}; every class needs at least two"
            )
    _utf8(source, names)
    doubles = [word for word, times in Counter(names).items() if times > 1]
    if doubles:
        raise LevelheadError(f"{source}: two classes are called {doubles[0]!r}; rename one")
    labels = {
        split: positions(
            part.labels,
            names,
            lambda i, p=part: f"{source}: {p.ids[i]}",  # type: ignore[misc]
        )
        for split, part in parts.items()
    }
    used = np.unique(np.concatenate(list(labels.values())))
    if len(used) < len(names):  # a list of names longer than the data, as in parts of ImageNet
        absent = [name for k, name in enumerate(names) if k not in set(used.tolist())]
        notes.append(f"No image of class {some(absent)}: left out.")
        names = [names[k] for k in used]
        labels = {split: np.searchsorted(used, y) for split, y in labels.items()}
    if len(names) < 2:
        raise LevelheadError(f"{source}: only one class ({names[0]}); two are needed")
    for split, y in labels.items():
        absent = [names[k] for k in np.setdiff1d(np.arange(len(names)), y)]
        if absent and split == "train":
            raise LevelheadError(
                f"{source}: class {absent[0]!r} has no image in train; add training images of it, "
                "or take it out"
            )
        if absent:
            fate = "no test judges" if split == "test" else "no calibrator is fitted on"
            who = f"Class {absent[0]!r} has" if len(absent) == 1 else f"Classes {some(absent)} have"
            whom = "it" if len(absent) == 1 else "them"
            notes.append(f"{who} no image in {split}: {fate} {whom}.")
    splits = {
        split: Entries(
            tuple(part.ids),
            labels[split].astype(np.int64),
            None if part.groups is None else tuple(part.groups),
            part.images,
            part.read,
            part.paths,
        )
        for split, part in parts.items()
    }
    measured = measure(splits)
    return Listing(
        name,
        source,
        tuple(names),
        splits,
        measured.size,
        measured.channels,
        (*notes, *measured.notes),
        tuple(roles),
        measured.bits,
    )


def _labelled(
    parts: dict[str, Entries], class_names: Sequence[str] | None
) -> tuple[dict[str, Entries], list[str]]:
    """The parts without images that have no label, and a note on how many those were."""
    known = set(map(spelling, class_names or ()))
    kinds = {label for part in parts.values() for label in part.labels} - {""}
    none = UNLABELLED - known
    notes = []
    if class_names is None and kinds == {"-1", "1"}:  # the two classes of a support-vector machine
        none = none - {"-1"}
        notes.append("Labels are −1 and 1: two classes.")
    kept = {}
    for split, part in parts.items():
        gaps = [label in none for label in part.labels]
        if not any(gaps):
            kept[split] = part
            continue
        how = sorted({label or "empty" for label in part.labels if label in none})
        if all(gaps):
            notes.append(f"No image of {split} has a label ({some(how)}): {split} is not used.")
            continue
        kept[split] = take(part, [i for i, gap in enumerate(gaps) if not gap])
        notes.append(
            f"{count(sum(gaps), 'image')} of {split} without a label ({some(how)}) left out."
        )
    whole = {int(kind) for kind in kinds if kind.isdigit()}
    if (
        class_names is None
        and 255 in whole
        and len(whole) == len(kinds)
        and max(whole - {255}, default=255) < 254
    ):
        notes.append(
            "Label 255 is taken for a class; where it means unlabelled, leave such images out."
        )
    return kept, notes


def take(part: Entries, index: Sequence[int]) -> Entries:
    """The entries at `index`, in that order, without decoding anything."""
    read = part.read
    return Entries(
        tuple(part.ids[i] for i in index),
        [part.labels[i] for i in index],
        None if part.groups is None else tuple(part.groups[i] for i in index),
        None if part.images is None else part.images[list(index)],
        None if read is None else Subset(read, tuple(index)),
        None if part.paths is None else tuple(part.paths[i] for i in index),
    )


def _lookalikes(names: list[str]) -> list[str]:
    """A note on classes whose names differ in capitals alone."""
    by_form: dict[str, list[str]] = {}
    for name in names:
        by_form.setdefault(name.casefold(), []).append(name)
    twins = [same_ for same_ in by_form.values() if len(same_) > 1]
    if not twins:
        return []
    return [f"Classes {' and '.join(map(repr, twins[0]))} differ in capitals alone; one or two?"]


def _check(where: str, part: Entries) -> None:
    """Raise LevelheadError if the parts of a split do not fit together."""
    n = len(part.ids)
    for noun, values in (("label", part.labels), ("group", part.groups)):
        if values is not None and len(values) != n:
            raise LevelheadError(f"{where} has {count(len(values), noun)} for {n} images")
    _utf8(where, part.ids)
    for name, value in zip(part.ids, part.labels, strict=True):
        whole = isinstance(value, float) and (value != value or value.is_integer())
        if not isinstance(value, int | str | bytes | None) and not whole:
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


def _utf8(where: str, names: Sequence[str]) -> None:
    """Raise LevelheadError for the first name of bytes that are no UTF-8."""
    for name in names:
        if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise LevelheadError(
                f"{where}: the name {shown} is no UTF-8; rename it (convmv -f latin1 -t utf-8 "
                "--notest does so for a whole folder)"
            )
