"""Layouts: the kinds of sources that `scan` can list.

Each source is a file here and a line in `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from levelhead.data.entries import Listing
from levelhead.data.layouts import digits, folder, idx, npz, parquet, table
from levelhead.data.memory import MEMORY, is_name
from levelhead.errors import LevelheadError, nearest
from levelhead.files import reading, refuse_address


@dataclass(frozen=True)
class Layout:
    """One kind of source: whether it is there (cheap), how to list it, and words about it.

    `read` takes the path, and the columns of groups and of labels ("" where none was named).
    """

    here: Callable[[Path], bool]
    read: Callable[[Path, str, str], Listing]
    words: str


LAYOUTS: dict[str, Layout] = {
    "digits": Layout(digits.here, digits.read, digits.WORDS),
    "labels.csv": Layout(table.here, table.read, table.WORDS),
    "npz": Layout(npz.here, npz.read, npz.WORDS),
    "idx": Layout(idx.here, idx.read, idx.WORDS),
    "parquet": Layout(parquet.here, parquet.read, parquet.WORDS),
    "table": Layout(table.beside_images, table.read, ""),
    "folder": Layout(folder.here, folder.read, folder.WORDS),
}
"""The kinds of sources, in the order in which they are tried."""


def scan(
    data: str,
    *,
    group_column: str = "group",
    label_column: str = "",
    outside_paths: bool = False,
) -> Listing:
    """List the images of a source without decoding them.

    `data` is the word `digits`, or the path of a file or folder in one of the layouts of
    `LAYOUTS`; the columns name those of groups and labels in a table or parquet file.
    `outside_paths` lets a table name images outside of its folder. Raises LevelheadError if nothing
    is there, nothing matches, or no classifier can come of it.
    """
    if data.startswith(MEMORY):
        raise LevelheadError(
            f"{data}: was handed over from memory; hand the same arrays over again, as data="
        )
    path = Path(data) if is_name(data) else _path(data)
    with reading(path, "check what lies there"):
        kinds = [kind for kind, layout in LAYOUTS.items() if layout.here(path)]
        if not kinds:
            if not path.exists():
                fix = nearest(data, ["digits"])
                fix = fix if fix.startswith("did") else "check the path, or give digits"
                raise LevelheadError(f"{data}: no such file or folder; {fix}")
            known = "; ".join(layout.words for layout in LAYOUTS.values() if layout.words)
            raise LevelheadError(f"{data}: no data in a known layout; give one of: {known}")
        listing = LAYOUTS[kinds[0]].read(path, group_column, label_column)
        root = path if path.is_dir() else path.parent
        if not outside_paths and (stray := table.outside(listing, root)) is not None:
            raise LevelheadError(
                f"{path}: names {stray}, outside of {root}; move it there, or allow it with "
                "--outside-paths"
            )
        notes = _unused(path, kinds, listing)
    return dataclasses.replace(listing, notes=(*notes, *listing.notes)) if notes else listing


def _path(data: str) -> Path:
    """A path as given. Raises LevelheadError for a user that is none and names of odd bytes."""
    try:
        path = Path(data).expanduser().absolute()
        str(path).encode()
    except RuntimeError:
        raise LevelheadError(f"{data}: no such user; write the path out") from None
    except UnicodeEncodeError:
        raise LevelheadError(f"{data!a}: the name is no UTF-8; rename it") from None
    refuse_address(data)
    return path


def _unused(path: Path, kinds: list[str], listing: Listing) -> list[str]:
    """Notes on other data that lie at the same place."""
    if kinds[0] == "folder":
        note = table.unread(path)
        return [note] if note else []
    others = [kind for kind in kinds[1:] if kind != "table"]
    if kinds[0] in ("labels.csv", "table") and table.outside(listing, path) is None:
        others = [kind for kind in others if kind != "folder"]
    if not others:
        return []
    return [f"Read as {kinds[0]}; what looks like {' and '.join(others)} there is not used."]
