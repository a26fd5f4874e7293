"""Reading anyone's predictions: npz, safetensors, CSV and parquet become Outputs.

Tables are read in pieces and their scores laid in a file that the system pages in and out, arrays
are mapped where they lie: what is larger than memory can be judged, too.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.outputs.coerce import positions, shares
from levelhead.outputs.outputs import RESERVED, STRINGS, TENSORS, Outputs
from levelhead.outputs.validate import Kind, check_rows

_PEOPLE = "label:"  # a column `label:cat` counts the annotators who said cat


@dataclass(frozen=True)
class _Asked:
    """What the reader was asked for."""

    kind: Kind | None
    group_column: str
    labelled: bool


def read_predictions(
    path: str | Path,
    kind: Kind | None = None,
    *,
    group_column: str = "group",
    labelled: bool = True,
) -> Outputs:
    """Read predictions made by anyone: .npz, .csv (or .csv.gz), .parquet, .safetensors.

    npz and safetensors hold exactly one of the arrays `logits`, `probabilities` and `confidence`,
    the last with `predicted`, and `labels` (positions, names, or [N, K] counts of what people
    said); optional `features`, `ids`, `groups`, `classes`. CSV and parquet have a column a class
    and `label` (the class's name, or its position among the class columns; names win), and need
    `kind`; of kind "confidence" the columns `prediction` and `confidence` alone. Columns
    `label:NAME` count the annotators who said NAME. The columns of `RESERVED` are no classes; `id`,
    else `path`, names the example, `group_column` its group. Without `labelled` the labels may be
    missing, and are then 0. Raises LevelheadError naming the file, the line or row, and the value.
    """
    path = Path(path)
    name = path.name.lower()
    readers: dict[str, Callable[[Path, _Asked], Outputs]]
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    readers |= {".csv": _csv, ".csv.gz": _csv}
    reader = next((readers[end] for end in readers if name.endswith(end)), None)
    if reader is None:
        raise LevelheadError(
            f"{path}: cannot be read as predictions; give one of {', '.join(readers)}"
        )
    if not path.is_file():
        raise LevelheadError(f"{path}: no such file; check the path")
    try:
        return reader(path, _Asked(kind, group_column, labelled))
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {error}") from None
    except OSError as error:
        raise LevelheadError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_people(path: str | Path, outputs: Outputs) -> Tensor:
    """What people said of the same examples, in the same order, as shares float64 [N, K].

    From .npy or from .csv without a header: counts or shares, a row an example, a column a class.
    Raises LevelheadError naming the file if it is not that.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        else:
            with warnings.catch_warnings(action="ignore"):  # of an empty file; its shape tells
                table = np.loadtxt(path, delimiter=",", ndmin=2)
        distribution = shares(table)
    except OSError as error:
        why = error.strerror or error
        raise LevelheadError(f"{path}: cannot be read ({why}); check the path") from None
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {error}") from None
    except (ValueError, EOFError) as error:
        raise LevelheadError(
            f"{path}: no table of counts ({error}); give numbers alone, without a header"
        ) from None
    if distribution.shape != (len(outputs), outputs.classes):
        raise LevelheadError(
            f"{path}: shape {tuple(distribution.shape)} for {len(outputs)} predictions of "
            f"{outputs.classes} classes; give a row a prediction, in the same order"
        )
    return distribution


def _npz(path: Path, asked: _Asked) -> Outputs:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {n: _mapped(path, archive, n) for n in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise LevelheadError(f"not an npz of plain arrays ({error}); write it anew") from None
    more = {name: arrays.get(name) for name in ("ids", "groups")}
    return _from_arrays(arrays, asked, arrays.get("classes"), more)


def _mapped(path: Path, archive: Any, name: str) -> Any:
    """An array of an npz: mapped from the file where it is stored plainly, else read."""
    member = archive.zip.getinfo(f"{name}.npy") if f"{name}.npy" in archive.zip.namelist() else None
    if member is None or member.compress_type != 0 or member.file_size < 1 << 26:
        return archive[name]
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = reader(file)
        header = file.tell()
    if fortran or dtype.hasobject or not dtype.isnative:
        return archive[name]
    with open(path, "rb") as raw:  # the name and extra field of the local header come first
        raw.seek(member.header_offset + 26)
        lengths = raw.read(4)
    start = (
        member.header_offset
        + 30
        + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    )
    return np.memmap(path, dtype, "c", start + header, shape)


def _safetensors(path: Path, asked: _Asked) -> Outputs:
    from safetensors import SafetensorError, safe_open

    names = {*_KINDS, *TENSORS, "labels"}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("levelhead", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise LevelheadError(f"not a whole safetensors file ({error}); write it anew") from None
    more = {name: header.get(name) for name in STRINGS}
    return _from_arrays(arrays, asked, header.get("classes"), more)


_KINDS: tuple[Kind, ...] = ("logits", "probabilities", "confidence")


def _from_arrays(
    arrays: Mapping[str, Any], asked: _Asked, classes: Any, more: dict[str, Any]
) -> Outputs:
    kinds = [name for name in _KINDS if name in arrays]
    if asked.kind in kinds and asked.kind == "confidence":  # saved beside the scores, asked for
        kinds = ["confidence"]
    kinds = [name for name in kinds if name != "confidence"] or kinds
    if len(kinds) != 1:
        if kinds:
            raise LevelheadError("holds both logits and probabilities; keep exactly one of them")
        raise LevelheadError(
            "holds neither logits nor probabilities; add an array of one of these names"
        )
    kind = kinds[0]
    if asked.kind is not None and asked.kind != kind:
        raise LevelheadError(f"holds {kind}, not {asked.kind}; leave out --{asked.kind}")
    scores, labels = arrays[kind], arrays.get("labels")
    if labels is None:
        if asked.labelled:
            raise LevelheadError("holds no array 'labels'; add the true class of each row")
        labels = np.zeros(len(scores), np.int64)
    more |= {name: arrays.get(name) for name in TENSORS if name != "predicted"}
    if kind != "confidence":
        make = Outputs.from_logits if kind == "logits" else Outputs.from_probabilities
        return make(scores, labels, classes, **more)
    if "predicted" not in arrays:
        raise LevelheadError("holds no array 'predicted'; add the predicted class of each row")
    return Outputs.from_confidence(scores, arrays["predicted"], labels, classes, **more)


def _csv(path: Path, asked: _Asked) -> Outputs:
    import pyarrow as pa
    from pyarrow import csv

    # A first look at the header alone, so that columns of text are not taken for numbers.
    try:
        block = csv.ReadOptions(block_size=1 << 22)
        with csv.open_csv(path, read_options=block) as reader:
            layout = _layout(reader.schema.names, asked)
        text = {name: pa.string() for name in layout.text}
        types = text | {name: pa.float64() for name in layout.numbers}
        convert = csv.ConvertOptions(column_types=types)
        with csv.open_csv(path, convert_options=convert, read_options=block) as reader:
            return _table(reader, layout, asked, lambda i: f"line {_line(path, i)}")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no rows"
        if found := re.match(r"In CSV column #(\d+): (.*)", reason):
            name = reader.schema.names[int(found[1])]
            raise LevelheadError(
                f"the column {name!r} is no numbers ({found[2]}); fix that row, or call a column "
                f"that is no class one of {', '.join(RESERVED)}"
            ) from None
        raise LevelheadError(f"not a table of numbers ({reason}); fix that line") from None


def _line(path: Path, row: int) -> int:
    """The line of data row `row` (from 0): the reader skips empty lines, people count them."""
    import gzip

    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip())
        for _ in range(row + 1):
            next(filled, 0)
        return next(filled, row + 2)


def _parquet(path: Path, asked: _Asked) -> Outputs:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise LevelheadError(f"not a parquet file ({error}); write it anew") from None
    layout = _layout(file.schema_arrow.names, asked)
    return _table(file.iter_batches(), layout, asked, lambda i: f"row {i}")


@dataclass(frozen=True)
class _Layout:
    """Which columns of a table are what."""

    classes: tuple[str, ...]  # columns of scores; none of kind "confidence"
    people: tuple[str, ...]  # `label:NAME`
    id: str | None
    group: str | None
    label: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        return self.classes + self.people

    @property
    def text(self) -> tuple[str, ...]:
        return (*RESERVED, *([self.group] if self.group else []))


def _layout(columns: Sequence[str], asked: _Asked) -> _Layout:
    """Raises LevelheadError for a table that cannot be judged."""
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise LevelheadError(f"the column {twice!r} occurs twice; rename one")
    if any(c.strip() in ("", "__index_level_0__") for c in columns):
        raise LevelheadError("a column without a name (a row index?); leave it out or name it id")
    shown = ", ".join(columns[:6]) + (", …" if len(columns) > 6 else "")
    people = tuple(c for c in columns if c.startswith(_PEOPLE))
    if asked.labelled and "label" not in columns and not people:
        raise LevelheadError(f"no column 'label' among {shown}; add the true class of each row")
    if asked.group_column != "group" and asked.group_column not in columns:
        raise LevelheadError(
            f"no column {asked.group_column!r} among {shown}; name the groups' one"
        )
    if asked.kind is None:
        raise LevelheadError(
            "its numbers may be of any kind; add --logits, --probabilities or --confidence"
        )
    taken = {*RESERVED, *people, asked.group_column}
    classes = tuple(c for c in columns if c not in taken)
    if asked.kind == "confidence":
        for name in ("prediction", "confidence"):
            if name not in columns:
                raise LevelheadError(f"no column {name!r} among {shown}; --confidence needs it")
        classes = ()
    return _Layout(
        classes,
        people,
        next((c for c in ("id", "path") if c in columns), None),
        asked.group_column if asked.group_column in columns else None,
        "label" in columns,
    )


def _table(batches: Any, layout: _Layout, asked: _Asked, where: Callable[[int], str]) -> Outputs:
    """Outputs of pyarrow batches with a column a class and `label`."""
    names = {name for name in (layout.id, layout.group) if name}
    names |= {"label"} if layout.label else set()
    names |= {"prediction", "confidence"} if asked.kind == "confidence" else set()
    kept: dict[str, list[str]] = {name: [] for name in names}
    dtype, n = (np.float32 if asked.kind == "logits" else np.float64), 0
    with tempfile.TemporaryFile() as score_file, tempfile.TemporaryFile() as people_file:
        for batch in batches:
            n += batch.num_rows
            for name, values in kept.items():
                values += ("" if v is None else str(v) for v in batch.column(name).to_pylist())
            score_file.write(_numbers(batch, layout.classes).astype(dtype).data)
            people_file.write(_numbers(batch, layout.people).data)
        scores = _rows_of(score_file, len(layout.classes), dtype)
        people = _rows_of(people_file, len(layout.people), np.float64)
    more: dict[str, Any] = {
        "ids": kept.get(layout.id or ""),
        "groups": kept.get(layout.group or ""),
    }
    if asked.kind == "confidence":
        return _confidence(kept, where, more)
    classes = layout.classes
    if layout.people:
        voted = [name.removeprefix(_PEOPLE) for name in layout.people]
        if unknown := set(voted) - set(classes):
            raise LevelheadError(f"the column 'label:{min(unknown)}' names no class column")
        counts = torch.zeros(n, len(classes), dtype=torch.float64)
        counts[:, [classes.index(name) for name in voted]] = people
        more["label_distribution"] = shares(counts)
    if layout.label:
        labels = positions(kept["label"], classes, where)
    elif layout.people:
        labels = more["label_distribution"].argmax(1)
    else:
        labels = torch.zeros(n, dtype=torch.int64)
    assert asked.kind is not None
    check_rows(asked.kind, scores, labels, len(classes), where)
    make = Outputs.from_logits if asked.kind == "logits" else Outputs.from_probabilities
    return make(scores, labels, classes, **more)


def _confidence(
    kept: Mapping[str, list[str]], where: Callable[[int], str], more: dict[str, Any]
) -> Outputs:
    """Outputs of the columns prediction, confidence and label."""
    sure = []
    for i, text in enumerate(kept.get("confidence", [])):
        try:
            sure.append(float(text))
        except ValueError:
            raise LevelheadError(f"{where(i)}: the confidence {text!r} is no number") from None
    tensor = torch.tensor(sure, dtype=torch.float64)[:, None]
    predictions = kept.get("prediction", [])
    labels = kept.get("label", predictions)
    names = tuple(
        sorted(
            {*predictions, *labels},
            key=lambda t: (not t.isdigit(), len(t) if t.isdigit() else 0, t),
        )
    )
    if len(names) == 1:
        names = (*names, "any other")
    both = [positions(column, names, where) for column in (labels, predictions)]
    check_rows("confidence", tensor, both[0], len(names), where)
    return Outputs.from_confidence(tensor, both[1], both[0], names, **more)


def _numbers(batch: Any, names: Sequence[str]) -> np.ndarray:
    """Columns of a batch as float64 [rows, columns]."""
    import pyarrow as pa

    table = np.empty((batch.num_rows, len(names)), np.float64)
    for k, name in enumerate(names):
        try:
            table[:, k] = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise LevelheadError(
                f"the column {name!r} is no numbers; columns that are no class must be called "
                f"one of {', '.join(RESERVED)}"
            ) from None
    return table


def _rows_of(file: IO[bytes], columns: int, dtype: Any) -> Tensor:
    """All that was written to a temporary file, mapped as [N, columns]; it outlives the file."""
    file.flush()
    rows = file.tell() // max(1, columns * np.dtype(dtype).itemsize)
    if rows == 0:
        return torch.from_numpy(np.zeros((0, columns), dtype))
    return torch.from_numpy(np.memmap(file, dtype, "r+", 0, (rows, columns)))
