"""Decode what a listing names into arrays of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from levelhead.data.cache import decode_split
from levelhead.data.entries import Dataset, Entries, Examples, Listing
from levelhead.data.layouts import folder
from levelhead.errors import LevelheadError
from levelhead.text import count


def load(
    listing: Listing,
    *,
    image_size: int | None,
    channels: int,
    resize: str = "crop",
    skip_broken: bool = False,
    cached: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Decode a listing on all cores, or take it from the cache of an earlier run.

    Images become uint8 [N,image_size,image_size,channels]; `image_size` None keeps their own
    size, which must then be one. `resize` is `crop` (centre square) or `squash`; `progress` is
    called with (images done, all). Raises LevelheadError naming the first image that cannot
    be read, unless `skip_broken` leaves such images out and lists them in `skipped`.
    """
    total = sum(len(entries) for entries in listing.splits.values())
    splits: dict[str, Examples] = {}
    notes = list(listing.notes)
    skipped: list[tuple[str, str]] = []
    done = 0
    for name, entries in listing.splits.items():

        def tell(part: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + part, total)

        decoded = decode_split(
            entries,
            image_size=image_size,
            channels=channels,
            resize=resize,
            bits=listing.bits,
            progress=tell,
            cached=cached,
        )
        examples = Examples(
            decoded.images, entries.labels, entries.ids, decoded.digests, entries.groups
        )
        if decoded.broken:
            skipped += [(entries.ids[i], why) for i, why in decoded.broken.items()]
            whole = np.setdiff1d(np.arange(len(entries)), list(decoded.broken))
            examples = examples.take(whole)
        splits[name] = examples
        if decoded.note and decoded.note not in notes:
            notes.append(decoded.note)
        done += len(entries)
    if skipped and not skip_broken:
        first, why = skipped[0]
        more = f" ({count(len(skipped) - 1, 'image')} more)" if skipped[1:] else ""
        raise LevelheadError(
            f"{first}: {why}{more}; fix or remove it, or leave such images out with --skip-broken"
        )
    sizes = {examples.images.shape[1:] for examples in splits.values()}
    if len(sizes) > 1:
        raise LevelheadError(
            f"{listing.source}: the splits' images differ in size; give --image-size"
        )
    refuse_lost_classes(listing, splits)
    identity = repr((listing.class_names, sorted((s, e.hash()) for s, e in splits.items())))
    splits = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    return Dataset(
        listing,
        listing.class_names,
        splits,
        hashlib.sha256(identity.encode()).hexdigest(),
        tuple(notes),
        tuple(skipped),
        superclasses=listing.superclasses,
    )


def refuse_lost_classes(listing: Listing, splits: Mapping[str, Examples]) -> None:
    """Raise LevelheadError for a class of train or test of which no image could be read."""
    for name, examples in splits.items():
        counts = np.bincount(examples.labels, minlength=len(listing.class_names))
        had = np.bincount(listing.splits[name].labels, minlength=len(listing.class_names))
        if name != "validation" and (lost := np.flatnonzero((counts == 0) & (had > 0))).size:
            gone = listing.class_names[int(lost[0])]
            raise LevelheadError(f"{listing.source}: no image of {gone!r} in {name} can be read")


def load_images(
    paths: Sequence[Path],
    *,
    image_size: int,
    channels: int,
    resize: str = "crop",
    bits: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Examples, tuple[tuple[str, str], ...]]:
    """Decode loose files to predict on: (those that can be read, (id, why) of the others).

    `bits` are those of the data that the network was trained on (`Listing.bits`). Ids are the paths
    as given; labels are -1. Nothing is cached.
    """
    ids = tuple(map(str, paths))
    entries = Entries(ids, np.full(len(ids), -1), read=folder.Files(tuple(paths)))
    decoded = decode_split(
        entries,
        image_size=image_size,
        channels=channels,
        resize=resize,
        bits=bits,
        progress=progress,
        cached=False,
    )
    whole = np.setdiff1d(np.arange(len(ids)), list(decoded.broken))
    examples = Examples(decoded.images, entries.labels, ids, decoded.digests).take(whole)
    return examples, tuple((ids[i], why) for i, why in decoded.broken.items())
