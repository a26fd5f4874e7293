"""Train, validation and test: stratified, seeded, hashed, and without an image in two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from levelhead.data.entries import Array, Dataset, Examples
from levelhead.errors import LevelheadError
from levelhead.text import count


def split(
    dataset: Dataset, *, validation: float, test: float, seed: int, strict: bool = False
) -> Dataset:
    """Complete a data set's own splits to train, validation and test.

    `test` is the share of all images to hold out where the data has no test split, then
    `validation` the share of the remaining ones where it has no validation split. What is held
    out follows the classes' shares, depends on `seed` and the ids but not on their order, and
    never parts a group or copies of one image. Every class has an image in each split that is
    made here.

    Raises LevelheadError for a class with too few images (or groups) for that, and, if
    `strict`, for an image or group that stands in two splits.
    """
    parts = dict(dataset.splits)
    for name, share in (("test", test), ("validation", validation)):
        if name not in parts:
            rest = parts["train"]
            # What is left must still give the validation split its images.
            keep = 2 if name == "test" and "validation" not in parts else 1
            held = _hold_out(dataset, rest, name, share, keep, seed)
            parts["train"] = rest.take(np.flatnonzero(~held))
            parts[name] = rest.take(np.flatnonzero(held))
    parts = {name: parts[name] for name in ("train", "validation", "test")}
    overlaps = [*_shared_images(parts), *_shared_groups(parts)]
    if overlaps and strict:
        raise LevelheadError(
            f"{dataset.listing.source}: {' '.join(overlaps)} Remove them from one split, "
            "or leave out --strict-splits"
        )
    return dataset.replace(
        parts,
        hashes={name: examples.hash() for name, examples in parts.items()},
        notes=(*dataset.notes, *overlaps, *_contradictions(parts, dataset.class_names)),
    )


def _units(digests: Array, groups: Sequence[str] | None) -> Array:
    """int64 [N]: the number of the unit of each example; groups and copies are whole units."""
    parent = list(range(len(digests)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for key in (digests.tolist(), groups or ()):
        first: dict[Any, int] = {}
        for i, value in enumerate(key):
            a, b = root(first.setdefault(value, i)), root(i)
            parent[max(a, b)] = min(a, b)
    return np.unique([root(i) for i in range(len(digests))], return_inverse=True)[1]


def _hold_out(
    dataset: Dataset, examples: Examples, name: str, share: float, keep: int, seed: int
) -> Array:
    """bool [N], true for what is held out; at least `keep` units of each class are not."""
    order = np.array(sorted(range(len(examples)), key=examples.ids.__getitem__))
    labels, k = examples.labels[order], len(dataset.class_names)
    groups = None if examples.groups is None else [examples.groups[i] for i in order]
    unit = _units(examples.digests[order], groups)
    counts = np.zeros((unit.max() + 1, k), np.int64)
    np.add.at(counts, (unit, labels), 1)
    have = (counts > 0).sum(0)
    if (have <= keep).any():
        few = int(have.argmin())
        what = count(int(have[few]), "different image" if groups is None else "group")
        raise LevelheadError(
            f"{dataset.listing.source}: class {dataset.class_names[few]!r} has {what}; at least "
            f"{keep + 1} are needed to take a {name} set from train: add some, or remove the class"
        )
    quota = _quota(counts.sum(0), share, keep)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(counts))
    size = counts.sum(1)
    taken, left = np.zeros(k, np.int64), have.copy()  # images held out; units that stay
    held = np.zeros(len(counts), bool)

    def take(units: Array) -> None:
        held[units] = True
        taken[:] += counts[units].sum(0)
        left[:] -= (counts[units] > 0).sum(0)

    # Groups and sets of copies first, where one brings its classes nearer to their quotas; then
    # the single images, which fill the quotas exactly.
    for u in shuffled[size[shuffled] > 1]:
        lack = quota - taken
        nearer = ((lack**2 - (lack - counts[u]) ** 2) / quota).sum() > 0
        if nearer and (left[counts[u] > 0] > keep).all():
            take(np.array([u]))
    single = shuffled[size[shuffled] == 1]
    label = counts[single].argmax(1)
    for i in range(k):
        most = min(quota[i] - taken[i], left[i] - keep)
        take(single[label == i][: max(int(most), 0)])
    for i in np.flatnonzero(taken == 0).tolist():  # only where groups are large
        able = [int(j) for j in np.flatnonzero(counts[:, i]) if (left[counts[j] > 0] > keep).all()]
        if not able:
            raise LevelheadError(
                f"{dataset.listing.source}: the groups of class {dataset.class_names[i]!r} cannot "
                f"be parted into train and {name}; split the data yourself, or make smaller groups"
            )
        take(np.array([min(able, key=lambda j: (size[j], j))]))
    held_out = np.zeros(len(examples), bool)
    held_out[order] = held[unit]
    return held_out


def _quota(totals: Array, share: float, keep: int) -> Array:
    """How many images of each class to hold out: in proportion, at least one, leaving `keep`."""
    exact = totals * share
    quota = np.floor(exact).astype(np.int64)
    short = round(float(exact.sum())) - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    return np.clip(quota, 1, totals - keep)


def _shared_images(parts: dict[str, Examples]) -> list[str]:
    """Sentences about images, by content, that stand in two splits."""
    words = []
    for a, b in combinations(parts, 2):
        first = dict(zip(reversed(parts[a].digests.tolist()), reversed(parts[a].ids), strict=True))
        twins = [
            (first[d], name)
            for d, name in zip(parts[b].digests.tolist(), parts[b].ids, strict=True)
            if d in first
        ]
        if twins:
            verb = "stands" if len(twins) == 1 else "stand"
            words.append(
                f"{count(len(twins), 'image')} {verb} in both {a} and {b} "
                f"(first: {twins[0][0]} = {twins[0][1]})."
            )
    return words


def _shared_groups(parts: dict[str, Examples]) -> list[str]:
    """Sentences about groups that stand in two splits."""
    words = []
    for a, b in combinations(parts, 2):
        both = sorted(set(parts[a].groups or ()) & set(parts[b].groups or ()))
        if both:
            verb = "stands" if len(both) == 1 else "stand"
            words.append(
                f"{count(len(both), 'group')} {verb} in both {a} and {b} (first: {both[0]})."
            )
    return words


def contradictions(parts: dict[str, Examples]) -> list[list[tuple[str, str, int]]]:
    """Images under more than one label, each as its (split, id, label)s, in order of id."""
    places: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for name, examples in parts.items():
        for d, i, label in zip(
            examples.digests.tolist(), examples.ids, examples.labels.tolist(), strict=True
        ):
            places[d].append((name, i, label))
    return [same for same in places.values() if len({label for _, _, label in same}) > 1]


def _contradictions(parts: dict[str, Examples], class_names: tuple[str, ...]) -> list[str]:
    contradictory = contradictions(parts)
    if not contradictory:
        return []
    (_, a, _), (_, b, _) = (
        contradictory[0][0],
        next(x for x in contradictory[0] if x[2] != contradictory[0][0][2]),
    )
    verb = "stands" if len(contradictory) == 1 else "stand"
    return [f"{count(len(contradictory), 'image')} {verb} under two labels (first: {a} = {b})."]
