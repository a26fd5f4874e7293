"""A table of images and labels: labels.csv, train.csv, metadata.csv and their kin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from levelhead.data.decode import SUFFIXES
from levelhead.data.entries import Entries, Listing, Subset, split_of
from levelhead.data.layouts import folder
from levelhead.data.layouts.folder import Files
from levelhead.data.listing import finish
from levelhead.delimited import is_number, missing_column, rows
from levelhead.errors import LevelheadError
from levelhead.labels import spelling
from levelhead.text import count, some

WORDS = (
    "labels.csv: columns path (from the table's folder), label, and if wanted group and split "
    "(or train.csv, metadata.csv, _classes.csv, train.txt with columns called so or alike)"
)
IMAGE_COLUMNS = (
    *("path", "file_name", "filename", "filepath", "file_path", "image_path", "img_path"),
    *("file", "image", "img", "image_name", "image_id", "name", "id"),
)
"""What the column of images may be called (lower case), the likeliest first."""
LABEL_COLUMNS = (
    *("label", "class", "class_name", "classname", "target", "category", "labels", "label_name"),
    *("breed", "species", "diagnosis", "type", "id"),
)
"""What the column of labels may be called (lower case), the likeliest first."""
SPLIT_COLUMNS = {"split": "", "set": "", "subset": "", "is_test": "test", "is_train": "train",
                 "is_valid": "validation"}  # fmt: skip
"""The columns of splits; of the last three 1 means that split."""
ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz")
NAMED = ("labels", "metadata", "annotations", "_classes", "_annotations")
"""What tables are called that name no split."""


@dataclass(frozen=True)
class _Row:
    """An image and what its line says of it."""

    line: int
    image: str
    label: str
    group: str
    split: str


def here(path: Path) -> bool:
    """Whether this is a table, or a folder with a labels.csv."""
    if path.is_dir():
        return (path / "labels.csv").is_file()
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def beside_images(path: Path) -> bool:
    """Whether a folder, which holds no class folders, has tables of images by other names."""
    return path.is_dir() and not folder.fits(path) and bool(_tables(path))


def _tables(path: Path) -> list[Path]:
    """The tables of a folder, or of its split folders, that tell labels of images."""
    places = [path, *(p for p in folder.folders_in(path) if split_of(p.name))]
    found = [
        file
        for place in places
        for file in sorted(place.iterdir())
        if file.name.lower().endswith(ENDINGS) and file.is_file() and not file.name.startswith(".")
    ]
    named = [file for file in found if _stem(file) in NAMED or split_of(_stem(file))]
    tables = named or [file for file in found if not file.name.lower().endswith(".txt")][:1]
    return [file for file in tables if _tells_labels(file)]


def _stem(file: Path) -> str:
    return re.sub(r"\.(csv|tsv|txt)(\.gz)?$", "", file.name, flags=re.IGNORECASE).lower()


def _tells_labels(file: Path) -> bool:
    """Whether a table has columns of images and of labels."""
    try:
        _columns(file, "group", "")
    except LevelheadError:
        return False
    return True


@dataclass(frozen=True)
class _Columns:
    """Which column of a table is what, by name; "" where it has none."""

    names: tuple[str, ...]
    image: str
    label: str
    group: str
    split: str
    one_hot: tuple[str, ...]
    unused: tuple[str, ...]
    header: bool


def _columns(table: Path, group_column: str, label_column: str) -> _Columns:
    """Raises LevelheadError for a table without a column of images, or of labels."""
    if table.name.lower().endswith(".txt"):
        return _Columns(("path", "label"), "path", "label", "", "", (), (), False)
    lines = list(islice(rows(table), 20))
    names = tuple(spelling(cell) for cell in (lines[0][1] if lines else []))

    def of(wanted: Sequence[str], taken: Sequence[str] = ()) -> str:
        free = [name.lower() for name in names if name not in taken]
        word = next((word for word in wanted if word in free), None)
        return (
            "" if word is None else next(n for n in names if n.lower() == word and n not in taken)
        )

    if group_column != "group" and group_column not in names:
        why = missing_column(group_column, names, "name the groups' one")
        raise LevelheadError(f"{table}: {why}")
    image = of(IMAGE_COLUMNS)
    group = next((n for n in names if n.lower() == group_column.lower()), "")
    split = of(tuple(SPLIT_COLUMNS), (image,))
    taken = [name for name in (image, group, split) if name]
    if label_column and label_column not in names:
        why = missing_column(label_column, names, "name the labels' one")
        raise LevelheadError(f"{table}: {why}")
    label = label_column or of(LABEL_COLUMNS, taken) or of(LABEL_COLUMNS, [image, split])
    rest = [name for name in names if name not in (*taken, label) and name]
    one_hot: tuple[str, ...] = ()
    cells = [dict(zip(names, line, strict=False)) for _, line in lines[1:]]
    if not label and len(rest) == 1:
        label, rest = rest[0], []
    elif (
        not label
        and len(rest) > 1
        and cells
        and all(row.get(name, "") in ("0", "1", "0.0", "1.0") for row in cells for name in rest)
    ):
        one_hot, rest = tuple(rest), []
    if not image or not (label or one_hot):
        what = "of images (path)" if not image else "of labels (label)"
        raise LevelheadError(
            f"{table}: no column {what} among {some(names, 8) or 'nothing'}; rename it: the first "
            "line must name the columns path and label"
        )
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise LevelheadError(f"{table}: the column {twice!r} occurs twice; rename one")
    return _Columns(names, image, label, group, split, one_hot, tuple(rest), True)


def read(path: Path, group_column: str = "group", label_column: str = "") -> Listing:
    """List the images that a table names (or several, one a split); ids are its paths, as written.

    Columns by other names, paths without an ending, of a folder below or with backslashes are
    found. Raises LevelheadError naming the line of an image that is missing or occurs twice, of an
    empty group, of an unknown split.
    """
    if not path.is_dir():
        tables = [path]
    elif (path / "labels.csv").is_file():
        tables = [path / "labels.csv"]
    else:
        tables = _tables(path)
    by_split: dict[str, list[tuple[Path, _Row]]] = {}
    roles, notes, grouped = [], [], False
    for table in tables:
        columns = _columns(table, group_column, label_column)
        own = split_of(_stem(table)) or (
            split_of(table.parent.name) if table.parent != path else None
        )
        own = own if len(tables) > 1 or table.parent != path else "train"
        finder = _Finder(table)
        lines: dict[Path, int] = {}
        for row in _rows(table, columns, own or "train"):
            where = f"{table}: line {row.line}"
            image = finder.find(row.image, where)
            if image in lines:
                raise LevelheadError(
                    f"{where}: {row.image} stands already in line {lines[image]}; keep one"
                )
            lines[image] = row.line
            by_split.setdefault(row.split, []).append((image, row))
        grouped = grouped or bool(columns.group)
        roles.append(_roles(table, path, columns, own or "train"))
        if columns.unused:
            notes.append(f"Columns of {table.name} not used: {some(columns.unused)}.")
    if path.is_dir() and len(tables) == 1 and tables[0].name != "labels.csv":
        others = [f.name for f in sorted(path.iterdir()) if f.name.lower().endswith(ENDINGS[:2])]
        others = [name for name in others if name != tables[0].name]
        if others:
            notes.append(f"Tables not used: {some(others)}.")
    if path.is_dir():
        named = {image for pairs in by_split.values() for image, _ in pairs}
        rest = [f for f in folder.image_files(path, [], []) if f not in named]
        if rest:
            first = rest[0].relative_to(path).as_posix()
            notes.append(
                f"{count(len(rest), 'image')} that no table names not used (such as {first})."
            )
    splits = {}
    for split, pairs in by_split.items():
        prefixes = len(tables) > 1 and len({row.image for _, row in pairs}) < len(pairs)
        ids = tuple(
            spelling(os.path.relpath(image, path) if prefixes else row.image)
            for image, row in pairs
        )
        groups = tuple(row.group for _, row in pairs) if grouped else None
        reader = Files(tuple(image for image, _ in pairs))
        splits[split] = Entries(ids, [row.label for _, row in pairs], groups, read=reader)
    name = path.name if path.is_dir() else path.stem
    return finish(str(path), name, splits, notes=notes, roles=roles)


def outside(listing: Listing, inside: Path) -> Path | None:
    """The first image, as its path is written, that does not lie below a folder."""
    for entries in listing.splits.values():
        read = entries.read.read if isinstance(entries.read, Subset) else entries.read
        for path in read.paths if isinstance(read, Files) else ():
            if not Path(os.path.normpath(path)).is_relative_to(inside):
                return path
    return None


def _rows(table: Path, columns: _Columns, own: str) -> Iterator[_Row]:
    """The lines as rows. Raises LevelheadError for an image or a group that is not given."""
    for line, cells in _lines(table, columns):
        where = f"{table}: line {line}"
        values = dict(zip(columns.names, cells, strict=False))
        if not values.get(columns.image):
            raise LevelheadError(f"{where}: no {columns.image}; fill it in")
        if columns.group and not values.get(columns.group):
            raise LevelheadError(f"{where}: no {columns.group}; fill it in")
        label = values.get(columns.label, "")
        if columns.one_hot:
            ones = [c for c in columns.one_hot if is_number(values[c]) and float(values[c]) == 1]
            if len(ones) > 1:
                raise LevelheadError(
                    f"{where}: {some(ones)} at once; an image has one class: leave the line out"
                )
            label = ones[0] if ones else ""
        split = split_in_column(values.get(columns.split, ""), columns.split, own, where)
        yield _Row(line, values[columns.image], label, values.get(columns.group, ""), split)


def _lines(table: Path, columns: _Columns) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows below the header; of a .txt, path and label."""
    if columns.header:
        lines = rows(table)
        next(lines, None)
        yield from lines
        return
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LevelheadError(f"{table}: cannot be read ({error})") from None
    for line, words in enumerate(text.splitlines(), 1):
        if words.strip():
            pair = re.split(r"[,;\t]\s*|\s+(?=\S+$)", words.strip(), maxsplit=1)
            yield line, pair if len(pair) == 2 else [pair[0], ""]


def split_in_column(cell: str, column: str, own: str, where: str) -> str:
    """The split of a row: what its cell says, `own` where it is empty.

    Raises LevelheadError for an unknown one.
    """
    flag = SPLIT_COLUMNS.get(column.lower(), "")
    if flag:
        yes = cell.lower() in ("1", "1.0", "true", "yes")
        other = "test" if flag == "train" else "train"
        return flag if yes else other
    if not cell:
        return own
    split = split_of(cell)
    if split is None:
        raise LevelheadError(f"{where}: unknown split {cell!r}; write train, validation or test")
    return split


def _roles(table: Path, root: Path, columns: _Columns, own: str) -> str:
    """What the columns were taken for."""
    name = table.name if table.parent == root else os.path.relpath(table, root)
    name = table.name if table == root else name
    if not columns.header:
        return f"Read as table: {name} ({own}): a path and a label a line."
    label = (
        f"labels from {columns.label!r}"
        if columns.label
        else (f"labels from the columns of 0 and 1 ({some(columns.one_hot)})")
    )
    parts = [f"images from {columns.image!r}", label]
    parts += [f"groups from {columns.group!r}"] if columns.group else []
    parts += [f"splits from {columns.split!r}"] if columns.split else []
    return f"Read as table: {name}: {', '.join(parts)}."


class _Finder:
    """Finds the files that a table names."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._index: dict[str, list[Path]] | None = None

    def find(self, cell: str, where: str) -> Path:
        """The file: as written, else with `/` for a backslash, composed otherwise, with the ending
        that fits, or the one of this name in a folder below.

        Raises LevelheadError where there is none, or several.
        """
        root = self._table.parent
        path = root / cell
        if path.is_file():
            return path
        if self._index is None:
            self._index = self._made()
        name = spelling(cell.replace("\\", "/")).removeprefix("./")
        files = self._index.get(name, [])
        if len(files) == 1:
            return files[0]
        if files:
            shown = some([f.relative_to(root).as_posix() for f in files])
            raise LevelheadError(f"{where}: {cell} may be {shown}; give its path from {root}")
        hint = "" if self._index else " (no images lie there)"
        raise LevelheadError(
            f"{where}: {cell} is no file in {root}{hint}; correct the path or remove the line"
        )

    def _made(self) -> dict[str, list[Path]]:
        """Image files below the table's folder by every end of their path, with and without
        ending."""
        root = self._table.parent
        index: dict[str, list[Path]] = {}
        for file in folder.image_files(root, [], []):
            parts = [spelling(part) for part in file.relative_to(root).parts]
            for start in range(len(parts)):
                name = "/".join(parts[start:])
                index.setdefault(name, []).append(file)
                if Path(name).suffix.lower() in SUFFIXES:
                    index.setdefault(name[: -len(Path(name).suffix)], []).append(file)
        return index


def unread(path: Path) -> str:
    """A note on tables that lie in a folder that was read by its folders; "" if there are none."""
    tables = [f for f in _tables(path) if f.parent == path] if path.is_dir() else []
    if not tables:
        return ""
    return (
        f"{count(len(tables), 'table')} not used: {some([f.name for f in tables])}; give one as "
        "DATA to take the labels from it."
    )
