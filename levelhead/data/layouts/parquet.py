"""Parquet shards in the Hugging Face layout: image{bytes,path} and label columns."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from levelhead.data.cache import CHUNK, cores
from levelhead.data.entries import ORDER, Entries, Listing, Subset, split_of
from levelhead.data.layouts.table import SPLIT_COLUMNS, split_in_column
from levelhead.data.listing import finish
from levelhead.delimited import missing_column
from levelhead.errors import LevelheadError
from levelhead.files import refuse_pipes
from levelhead.labels import spelling
from levelhead.text import some

WORDS = (
    "parquet: train-*.parquet and test-*.parquet (and validation-*) with columns "
    "image{bytes,path} and label, in DATA or DATA/data"
)


class Shards:
    """Reader of images that are rows of parquet files.

    A row group is read whole, once for all its images; the last few stay in memory.
    """

    def __init__(self, files: list[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self._files, self._column = files, column
        self._groups: list[tuple[Path, int]] = []
        sizes = []
        for path in files:
            about = pq.read_metadata(path)
            for group in range(about.num_row_groups):
                self._groups.append((path, group))
                sizes.append(about.row_group(group).num_rows)
        self._ends = np.cumsum(sizes)
        # All groups that the cores work on at one time, or one would be read again and again.
        self._keep = 2 + CHUNK * cores() // max(int(np.median(sizes or [1])), 1)
        self._recent: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _group(self, number: int) -> Any:
        import pyarrow.parquet as pq

        with self._lock:
            if number not in self._recent:
                path, group = self._groups[number]
                try:
                    table = pq.ParquetFile(path).read_row_group(group, columns=[self._column])
                except Exception as error:  # pyarrow's errors have no common root but this
                    raise OSError(f"{path.name} is damaged ({error})") from None
                column = table.column(0).combine_chunks()
                is_struct = hasattr(column, "field")
                self._recent[number] = column.field("bytes") if is_struct else column
                while len(self._recent) > self._keep:
                    self._recent.popitem(last=False)
            return self._recent[number]

    def __call__(self, index: int) -> bytes:
        number = int(np.searchsorted(self._ends, index, side="right"))
        rows = self._group(number)
        data = rows[index - int(self._ends[number])].as_py()  # counted from the group's end
        if data is None:
            raise OSError("the row holds no bytes")
        return bytes(data)

    def open(self, index: int) -> BinaryIO:
        """A stream of the same bytes."""
        return io.BytesIO(self(index))

    def stamp(self) -> Any:
        """What the cache is valid for."""
        statuses = [(path, path.stat()) for path in self._files]
        return [[str(path), s.st_size, s.st_mtime_ns, self._column] for path, s in statuses]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def here(path: Path) -> bool:
    """Whether this is a parquet file, or a folder with some in it or in its data/."""
    return bool(_files(path))


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file are what, and the class names if the metadata tells them."""

    image: str
    label: str  # "" where a file has no labels
    names: tuple[str, ...] | None
    others: tuple[str, ...]  # columns that could be labels, too
    split: str
    paths: bool  # whether the images carry theirs


def _columns(path: Path, schema: Any, label_column: str) -> _Columns:
    """Raises LevelheadError for a file without images."""
    import pyarrow as pa

    def has_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    names = _class_names(schema)
    images = [field.name for field in schema if has_bytes(field.type)]
    image = "image" if "image" in images else (images or [""])[0]
    if not image:
        raise LevelheadError(
            f"{path}: no column image{{bytes,path}} (columns: {some(schema.names, 8)}); "
            f"wanted {WORDS}"
        )
    if label_column and label_column not in schema.names:
        why = missing_column(label_column, schema.names, "name the labels' one")
        raise LevelheadError(f"{path}: {why}")
    known = [
        name
        for name in ("label", *names, "labels", "class", "target", "category")
        if name in schema.names
    ]
    label = label_column or (known or [""])[0]
    others = tuple(name for name in dict.fromkeys(known) if name != label)
    split = next((name for name in schema.names if name.lower() in SPLIT_COLUMNS), "")
    kind = schema.field(image).type
    fields = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    paths = any(field.name == "path" and pa.types.is_string(field.type) for field in fields)
    return _Columns(image, label, names.get(label), others, split, paths)


def read(path: Path, group_column: str = "group", label_column: str = "") -> Listing:
    """List the rows, reading labels (groups and splits) only; ids are `FILE#ROW`, rows from 0.

    The split is what a column `split` says, else the split word in a file's name. Raises
    LevelheadError for a damaged file, missing columns, labels that are no classes.
    """
    files = _files(path)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file.name.removesuffix(".parquet")) or "", []).append(file)
    other = by_split.pop("", [])
    notes = []
    if not by_split:  # files without a split in their names: all one set
        by_split = {"train": other}
    elif other:
        notes.append(f"Not used, as they name no split: {some([f.name for f in other])}.")
    names: tuple[str, ...] | None = None
    parts: dict[str, list[Entries]] = {}
    roles: list[str] = []
    for split, shards in sorted(by_split.items(), key=lambda item: ORDER.index(item[0])):
        rows: list[_Shard] = []
        reader, columns = None, None
        for file in shards:
            columns, shard = _shard(file, split, group_column, label_column)
            if not columns.label and split == "train":
                raise LevelheadError(f"{file}: no column label; wanted {WORDS}")
            reader = Shards(shards, columns.image) if reader is None else reader
            if names is not None and columns.names is not None and columns.names != names:
                raise LevelheadError(f"{file}: names other classes than the files before it")
            names = columns.names if columns.names is not None else names
            rows.append(shard)
        assert reader is not None
        assert columns is not None
        for own, part in _by_split(rows, reader).items():
            parts.setdefault(own, []).append(part)
        roles.append(_role(shards, split, columns))
    splits = {split: several[0] for split, several in parts.items()}
    if clash := next((split for split, several in parts.items() if len(several) > 1), None):
        raise LevelheadError(
            f"{path}: files and the column split both give {clash}; keep one of the two"
        )
    name = path.stem if path.is_file() else path.name
    listing = finish(str(path), name, splits, names, notes, list(dict.fromkeys(roles)))
    return dataclasses.replace(listing, superclasses=_superclasses(files, listing, label_column))


SUPERCLASSES = ("coarse_label", "superclass")
"""Columns that say what the label is a kind of."""


def _superclasses(files: list[Path], listing: Listing, label_column: str) -> tuple[str, ...]:
    """What each class is a kind of; () where no column says so, or not the same of all its rows."""
    import pyarrow.parquet as pq

    kinds: dict[str, set[str]] = {}
    for file in files:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
        label = _columns(file, schema, label_column).label
        column = next((c for c in SUPERCLASSES if c in schema.names and c != label), None)
        if column is None or not label:
            return ()
        names = _class_names(schema)
        table = opened.read(columns=[label, column]).group_by([label, column]).aggregate([])
        pairs = zip(table[label].to_pylist(), table[column].to_pylist(), strict=True)
        for fine, above in pairs:
            kinds.setdefault(_named(fine, names.get(label)), set()).add(
                _named(above, names.get(column))
            )
    if any(len(kinds.get(name, ())) != 1 for name in listing.class_names):
        return ()
    return tuple(next(iter(kinds[name])) for name in listing.class_names)


def _named(label: Any, names: Sequence[str] | None) -> str:
    """A label by its name, where the metadata has them."""
    known = names is not None and isinstance(label, int) and 0 <= label < len(names)
    return spelling(names[label] if known and names else label)


def _class_names(schema: Any) -> dict[str, Any]:
    """The class names that the metadata has, by column."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (metadata.get("info") or {}).get("features") or {}
    return {
        key: feature["names"]
        for key, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


@dataclass(frozen=True)
class _Shard:
    """The rows of one file, nothing decoded."""

    ids: list[str]
    labels: list[Any]
    groups: list[str] | None
    splits: list[str]
    paths: list[str]  # "" where the file does not say


def _shard(file: Path, split: str, group_column: str, label_column: str) -> tuple[_Columns, _Shard]:
    """Raises LevelheadError for a damaged file, a missing column, an unknown split."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    refuse_pipes(file)
    try:
        opened = pq.ParquetFile(file)
        columns = _columns(file, opened.schema_arrow, label_column)
        if group_column != "group" and group_column not in opened.schema_arrow.names:
            why = missing_column(group_column, opened.schema_arrow.names, "name the groups' one")
            raise LevelheadError(f"{file}: {why}")
        wanted = [name for name in (columns.label, group_column, columns.split) if name]
        table = opened.read(columns=wanted)
    except LevelheadError:
        raise
    except (pa.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        raise LevelheadError(
            f"{file}: not a parquet file that can be read ({error}); fetch it again"
        ) from None
    n = len(table) if wanted else opened.metadata.num_rows
    labels = table[columns.label].to_pylist() if columns.label else [None] * n
    has_groups = group_column in table.column_names
    groups = list(map(str, table[group_column].to_pylist())) if has_groups else None
    splits = [split] * n
    if columns.split:
        values = table[columns.split].to_pylist()
        splits = [
            split_in_column(spelling(value), columns.split, split, f"{file}: row {row}")
            for row, value in enumerate(values)
        ]
    ids, paths = [f"{file.name}#{row}" for row in range(n)], [""] * n
    if columns.paths:
        structs = opened.read(columns=[f"{columns.image}.path"]).column(0)
        paths = [path or "" for path in pc.struct_field(structs, "path").to_pylist()]
    return columns, _Shard(ids, labels, groups, splits, paths)


def _by_split(shards: list[_Shard], reader: Shards) -> dict[str, Entries]:
    """The entries of each split."""
    ids = [name for shard in shards for name in shard.ids]
    labels = [label for shard in shards for label in shard.labels]
    splits = [split for shard in shards for split in shard.splits]
    paths = [path for shard in shards for path in shard.paths]
    groups = None
    if all(shard.groups is not None for shard in shards):
        groups = [group for shard in shards for group in shard.groups or ()]
    parts = {}
    for split in dict.fromkeys(splits):
        index = [i for i, own in enumerate(splits) if own == split]
        whole = len(index) == len(ids)
        parts[split] = Entries(
            tuple(ids[i] for i in index),
            [labels[i] for i in index],
            None if groups is None else tuple(groups[i] for i in index),
            read=reader if whole else Subset(reader, tuple(index)),
            paths=tuple(paths[i] for i in index) if all(paths[i] for i in index) else None,
        )
    return parts


def _role(shards: list[Path], split: str, columns: _Columns) -> str:
    """What files and columns were taken for."""
    how = (
        f"splits from {columns.split!r}"
        if columns.split
        else f"{some([f.name for f in shards], 2)} is {split}"
    )
    label = f"labels from {columns.label!r}" if columns.label else "without labels"
    more = ""
    if columns.others:
        more = f" (also there: {some(columns.others)}; choose with --label-column)"
    return f"Read as parquet: {how}, images from {columns.image!r}, {label}{more}."
