"""Parquet shards in the Hugging Face layout: image{bytes,path} and label columns."""

from __future__ import annotations

import io
import json
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from levelhead.data.cache import CHUNK, cores
from levelhead.data.entries import SPLIT_NAMES, Entries, Listing, some
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError

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


def _columns(path: Path, schema: Any) -> tuple[str, str, list[str] | None]:
    """(image column, label column, class names if the metadata tells them)."""
    import pyarrow as pa

    def has_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (metadata.get("info") or {}).get("features") or {}
    names = {
        key: feature["names"]
        for key, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    images = [field.name for field in schema if has_bytes(field.type)]
    image = "image" if "image" in images else (images or [""])[0]
    labels = ["label", *names, "labels", "class"]
    label = next((name for name in labels if name in schema.names), "")
    if not image or not label:
        missing = "label" if image else "image{bytes,path}"
        raise LevelheadError(
            f"{path}: no column {missing} (columns: {some(schema.names, 8)}); wanted {WORDS}"
        )
    return image, label, names.get(label)


def read(path: Path, group_column: str) -> Listing:
    """List the rows, reading labels (and groups) only; ids are `FILE#ROW`, rows from 0.

    Raises LevelheadError for a damaged file, missing columns, labels that are no classes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = _files(path)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        word = re.split(r"[-_.]", file.name.lower())[0]
        by_split.setdefault(SPLIT_NAMES.get(word, ""), []).append(file)
    other = by_split.pop("", [])
    notes = []
    if not by_split:  # files without a split in their names: all one set
        by_split = {"train": other}
    elif other:
        notes.append(f"Not used, as they name no split: {some([f.name for f in other])}.")
    names: list[str] | None = None
    splits = {}
    for split, shards in by_split.items():
        ids: list[str] = []
        labels: list[Any] = []
        groups: list[str] = []
        for file in shards:
            try:
                shard = pq.ParquetFile(file)
                image, label, class_names = _columns(file, shard.schema_arrow)
                columns = shard.read(columns=[label, group_column])
                reader = Shards(shards, image)
            except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
                raise LevelheadError(
                    f"{file}: not a parquet file that can be read ({error}); fetch it again"
                ) from None
            if names is not None and class_names is not None and class_names != names:
                raise LevelheadError(f"{file}: names other classes than the files before it")
            names = class_names if class_names is not None else names
            ids += [f"{file.name}#{row}" for row in range(len(columns))]
            labels += columns[label].to_pylist()
            if group_column in columns.column_names:
                groups += map(str, columns[group_column].to_pylist())
        splits[split] = Entries(tuple(ids), labels, tuple(groups) or None, read=reader)
    return finish(str(path), path.stem if path.is_file() else path.name, splits, names, notes)
