"""One way in for pictures: `scan` lists what is on disk, `load` decodes it.

Each source is a file here and a line in `DATASETS`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levelhead.datasets import digits, folder, idx, npz, parquet, table
from levelhead.datasets.entries import Dataset, Entries, Examples, Listing, count
from levelhead.datasets.pool import decode_split
from levelhead.errors import LevelheadError

__all__ = [
    "DATASETS",
    "Dataset",
    "Entries",
    "Examples",
    "Layout",
    "Listing",
    "load",
    "pictures",
    "scan",
]


@dataclass(frozen=True)
class Layout:
    """One kind of source: whether it is there (cheap), how to list it, and words about it."""

    here: Callable[[Path], bool]
    read: Callable[[Path, str], Listing]
    words: str


DATASETS: dict[str, Layout] = {
    "digits": Layout(digits.here, digits.read, digits.WORDS),
    "labels.csv": Layout(table.here, table.read, table.WORDS),
    "npz": Layout(npz.here, npz.read, npz.WORDS),
    "idx": Layout(idx.here, idx.read, idx.WORDS),
    "parquet": Layout(parquet.here, parquet.read, parquet.WORDS),
    "folder": Layout(folder.here, folder.read, folder.WORDS),
}
"""The kinds of sources, in the order in which they are tried."""


def scan(data: str, *, group_column: str = "group") -> Listing:
    """List the pictures of a source without decoding them.

    `data` is the word `digits`, or the path of a file or folder in one of the layouts of
    `DATASETS`; `group_column` names the column of groups in a labels.csv or parquet file.
    Raises LevelheadError if nothing is there, nothing matches, or no classifier can come of it.
    """
    path = Path(data) if data == "digits" else Path(data).expanduser().absolute()
    try:
        found = [kind for kind, layout in DATASETS.items() if layout.here(path)]
        if not found:
            wanted = "; ".join(layout.words for layout in DATASETS.values())
            there = "no data in a known layout" if path.exists() else "no such file or folder"
            raise LevelheadError(f"{data}: {there}; give one of: {wanted}")
        listing = DATASETS[found[0]].read(path, group_column)
    except OSError as error:
        raise LevelheadError(
            f"{error.filename or path}: cannot be read ({error.strerror or error})"
        ) from None
    if found[1:]:
        note = f"Read as {found[0]}; what looks like {' and '.join(found[1:])} there is not used."
        listing = dataclasses.replace(listing, notes=(note, *listing.notes))
    return listing


def load(
    listing: Listing,
    *,
    image_size: int | None,
    channels: int,
    resize: str = "crop",
    skip_broken: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Decode a listing on all cores, or take it from the cache of an earlier run.

    Pictures become uint8 [N,image_size,image_size,channels]; `image_size` None keeps their own
    size, which must then be one. `resize` is `crop` (centre square) or `squash`; `progress` is
    called with (pictures done, all). Raises LevelheadError naming the first picture that cannot
    be read, unless `skip_broken` leaves such pictures out and lists them in `skipped`.
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

        made = decode_split(
            entries, image_size=image_size, channels=channels, resize=resize, progress=tell
        )
        examples = Examples(made.images, entries.labels, entries.ids, made.digests, entries.groups)
        if made.broken:
            skipped += [(entries.ids[i], why) for i, why in made.broken.items()]
            whole = np.setdiff1d(np.arange(len(entries)), list(made.broken))
            examples = examples.take(whole)
        splits[name] = examples
        if made.note and made.note not in notes:
            notes.append(made.note)
        done += len(entries)
    if skipped and not skip_broken:
        first, why = skipped[0]
        more = f" ({count(len(skipped) - 1, 'picture')} more)" if skipped[1:] else ""
        raise LevelheadError(
            f"{first}: {why}{more}; mend or remove it, or leave such pictures out "
            "with --skip-broken"
        )
    sizes = {examples.images.shape[1:] for examples in splits.values()}
    if len(sizes) > 1:
        raise LevelheadError(
            f"{listing.source}: the splits' pictures differ in size; give --image-size"
        )
    for name, examples in splits.items():
        counts = np.bincount(examples.labels, minlength=len(listing.class_names))
        if name != "validation" and not counts.all():
            lost = listing.class_names[int(counts.argmin())]
            raise LevelheadError(f"{listing.source}: no picture of {lost!r} in {name} can be read")
    told = repr((listing.class_names, sorted((s, e.hash()) for s, e in splits.items())))
    splits = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    return Dataset(
        listing.name,
        listing.source,
        listing.class_names,
        splits,
        hashlib.sha256(told.encode()).hexdigest(),
        tuple(notes),
        tuple(skipped),
    )


def pictures(
    paths: Sequence[Path],
    *,
    image_size: int,
    channels: int,
    resize: str = "crop",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Examples, tuple[tuple[str, str], ...]]:
    """Decode loose files to predict on: (those that can be read, (id, why) of the others).

    Ids are the paths as given; labels are -1. Nothing is cached.
    """
    ids = tuple(map(str, paths))
    entries = Entries(ids, np.full(len(ids), -1), read=folder.Files(tuple(paths)))
    made = decode_split(
        entries,
        image_size=image_size,
        channels=channels,
        resize=resize,
        progress=progress,
        cached=False,
    )
    whole = np.setdiff1d(np.arange(len(ids)), list(made.broken))
    examples = Examples(made.images, entries.labels, ids, made.digests).take(whole)
    return examples, tuple((ids[i], why) for i, why in made.broken.items())
