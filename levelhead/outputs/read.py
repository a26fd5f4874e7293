"""Reading anyone's predictions: npz, safetensors, CSV and parquet become Outputs.

Tables are read in pieces and their scores laid in a file that the system pages in and out, arrays
are mapped where they lie: what is larger than memory can be judged, too.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from levelhead.delimited import dialect, is_number, rows
from levelhead.errors import LevelheadError
from levelhead.files import reading
from levelhead.labels import positions, spelling, spellings
from levelhead.machine import fits_in_memory
from levelhead.outputs.coerce import answers, shares, two_columns, unmasked
from levelhead.outputs.outputs import RESERVED, STRINGS, TENSORS, Outputs
from levelhead.outputs.validate import PIECE, Kind, check_rows

_PEOPLE = "label:"  # a column `label:cat` counts the annotators who said cat
_ROW_INDEX = re.compile(r"|unnamed: ?\d+|__index_level_\d+__|index|row|\.\.\.1", re.IGNORECASE)
_NO_CLASS = re.compile(
    "age|cost|count|date|entropy|epoch|error|fold|height|length|loss|margin|nll|rank|score|seed|"
    "size|split|step|target|temperature|time|timestamp|truth|weight|width|y|y_true|year"
)
"""What columns of a log are called that hold no scores of a class."""


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
    else `path`, names the example, `group_column` its group; a row index is left out. One column of
    scores is the second class's of two. CSV may have `,` `;` or TAB between its cells, decimal
    commas, UTF-8 or UTF-16. Without `labelled` the labels may be missing, and are then 0. What a
    reader should know of it stands in `notes`. Raises LevelheadError naming the file, the line or
    row, and the value.
    """
    path = Path(path)
    name = path.name.lower()
    readers: dict[str, Callable[[Path, _Asked], Outputs]]
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    readers |= {end + packed: _csv for end in (".csv", ".tsv") for packed in ("", ".gz")}
    reader = next((readers[end] for end in readers if name.endswith(end)), None)
    if reader is None:
        raise LevelheadError(
            f"{path}: cannot be read as predictions; give one of {', '.join(readers)}"
        )
    if not path.is_file():
        raise LevelheadError(f"{path}: no such file; check the path")
    try:
        with reading(path, "write it anew"):
            return reader(path, _Asked(kind, group_column, labelled))
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def read_people(path: str | Path, outputs: Outputs) -> Tensor:
    """What people said of the same examples, in the same order, as shares float64 [N, K].

    From .npy or from .csv: counts or shares, a row an example, a column a class. A first line of
    class names, in any order, is heeded. Raises LevelheadError naming the file if it is not that.
    """
    path = Path(path)
    try:
        with reading(path, "give a row an example, a column a class"):
            plain = path.suffix == ".npy"
            table = np.load(path, allow_pickle=False) if plain else _counts(path, outputs)
            distribution = shares(table)
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if distribution.shape != (len(outputs), outputs.classes):
        raise LevelheadError(
            f"{path}: shape {tuple(distribution.shape)} for {len(outputs)} predictions of "
            f"{outputs.classes} classes; give a row a prediction, in the same order"
        )
    return distribution


def _counts(path: Path, outputs: Outputs) -> np.ndarray:
    """The numbers of a CSV, its columns in order of the classes."""
    lines = list(rows(path))
    header = [spelling(cell) for cell in lines[0][1]] if lines else []
    place: list[int] | None = None
    if sorted(header) == sorted(outputs.class_names) and not all(map(is_number, header)):
        place = [header.index(name) for name in outputs.class_names]
        lines = lines[1:]
    table = np.empty((len(lines), len(header)))
    for i, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise LevelheadError(f"line {line}: {len(cells)} cells; others have {len(header)}")
        if bad := next((cell for cell in cells if not is_number(cell)), None):
            raise LevelheadError(
                f"line {line}: {bad!r} is no number; give counts, or the class names above them"
            )
        table[i] = [float(cell) for cell in cells]
    return table if place is None else table[:, place]


def _npz(path: Path, asked: _Asked) -> Outputs:
    import zipfile

    needed = {*_KINDS, *TENSORS, "labels", "ids", "groups", "classes"}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.zip.infolist()}
            members = {name: member for name, member in members.items() if name in needed}
            fits_in_memory(sum(m.file_size for m in members.values() if m.compress_type), path)
            arrays = {name: _mapped(path, archive, name) for name in members}
    except LevelheadError:
        raise
    except (ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
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
    return _from_arrays(arrays, asked, header.get("classes"), more, ours=True)


_KINDS: tuple[Kind, ...] = ("logits", "probabilities", "confidence")


def _from_arrays(
    arrays: Mapping[str, Any],
    asked: _Asked,
    classes: Any,
    more: dict[str, Any],
    *,
    ours: bool = False,
) -> Outputs:
    """Outputs of arrays by name; `ours` were written by `Outputs.save`: labels are positions."""
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
        labels = torch.zeros(len(scores), dtype=torch.int64)
    more |= {name: arrays.get(name) for name in TENSORS if name != "predicted"}
    if ours and classes is not None:
        texts = {name: tuple(more[name]) for name in ("ids", "groups") if more.get(name)}
        predicted = arrays.get("predicted") if kind == "confidence" else None
        return Outputs(kind, scores, labels, tuple(classes), predicted=predicted, **more | texts)
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
    how = dialect(path)
    line, header = next(rows(path), (1, []))
    if not header:
        raise LevelheadError("not a table, it is empty; give a line of column names and the rows")
    columns = [spelling(name) for name in header]
    layout = _layout(columns, asked)
    text = {name: pa.string() for name in layout.text}
    types = text | {name: pa.float64() for name in layout.numbers}
    encoding = {"utf-16": "utf-16", "utf-8-sig": "utf8"}.get(how.encoding, how.encoding)
    try:
        with csv.open_csv(
            path,
            csv.ReadOptions(
                block_size=1 << 22, column_names=columns, skip_rows=line, encoding=encoding
            ),
            csv.ParseOptions(delimiter=how.separator, quote_char='"'),
            csv.ConvertOptions(
                column_types=types, decimal_point=how.decimal, include_columns=list(types)
            ),
        ) as reader:
            return _table(reader, layout, asked, lambda i: f"line {_line(path, i)}")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no rows"
        if found := re.match(r"In CSV column #(\d+): (.*)", reason):
            name = columns[int(found[1])]
            raise LevelheadError(
                f"the column {name!r} is no numbers ({found[2]}); fix that row, or call a column "
                f"that is no class one of {', '.join(RESERVED)}"
            ) from None
        raise LevelheadError(f"not a table of numbers ({reason}); fix that line") from None


def _line(path: Path, row: int) -> int:
    """The line of data row `row` (from 0): the reader skips empty lines, people count them."""
    lines = rows(path)
    for _ in range(row + 1):
        next(lines, None)
    return next(lines, (row + 2, []))[0]


def _parquet(path: Path, asked: _Asked) -> Outputs:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise LevelheadError(f"not a parquet file ({error}); write it anew") from None
    layout = _layout([spelling(name) for name in file.schema_arrow.names], asked)
    renamed = (batch.rename_columns(layout.columns) for batch in file.iter_batches())
    return _table(renamed, layout, asked, lambda i: f"row {i}")


@dataclass(frozen=True)
class _Layout:
    """Which columns of a table are what."""

    columns: tuple[str, ...]
    classes: tuple[str, ...]  # columns of scores; none of kind "confidence"
    people: tuple[str, ...]  # `label:NAME`
    id: str | None
    group: str | None
    label: bool
    index: tuple[str, ...]  # left out, if they number the rows
    unused: tuple[str, ...]

    @property
    def numbers(self) -> tuple[str, ...]:
        return self.classes + self.people

    @property
    def text(self) -> tuple[str, ...]:
        known = (*RESERVED, *([self.group] if self.group else []), *self.index)
        return tuple(name for name in known if name in self.columns)


def _layout(columns: Sequence[str], asked: _Asked) -> _Layout:
    """Raises LevelheadError for a table that cannot be judged."""
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise LevelheadError(f"the column {twice!r} occurs twice; rename one")
    shown = ", ".join(columns[:6]) + (", …" if len(columns) > 6 else "")
    people = tuple(c for c in columns if c.startswith(_PEOPLE))
    if asked.labelled and "label" not in columns and not people:
        near = next((c for c in columns if c.lower() in ("label", "class", "target", "y_true")), "")
        fix = f"rename {near!r}" if near else "add the true class of each row"
        raise LevelheadError(f"no column 'label' among {shown}; {fix}")
    if asked.group_column != "group" and asked.group_column not in columns:
        raise LevelheadError(
            f"no column {asked.group_column!r} among {shown}; name the groups' one"
        )
    if asked.kind is None:
        raise LevelheadError(
            "its numbers may be of any kind; add --logits, --probabilities or --confidence"
        )
    index = tuple(c for c in columns if _ROW_INDEX.fullmatch(c))
    taken = {*RESERVED, *people, asked.group_column, *index}
    classes = tuple(c for c in columns if c not in taken)
    unused: tuple[str, ...] = ()
    if asked.kind == "confidence":
        for name in ("prediction", "confidence"):
            if name not in columns:
                raise LevelheadError(f"no column {name!r} among {shown}; --confidence needs it")
        classes, unused = (), classes
    return _Layout(
        tuple(columns),
        classes,
        people,
        next((c for c in ("id", "path") if c in columns), None),
        asked.group_column if asked.group_column in columns else None,
        "label" in columns,
        index,
        unused,
    )


def _table(batches: Any, layout: _Layout, asked: _Asked, where: Callable[[int], str]) -> Outputs:
    """Outputs of pyarrow batches with a column a class and `label`."""
    names = {name for name in (layout.id, layout.group, *layout.index) if name is not None}
    names |= {"label"} if layout.label else set()
    names |= {"prediction", "confidence"} if asked.kind == "confidence" else set()
    kept: dict[str, list[str]] = {name: [] for name in names}
    dtype, n = (np.float32 if asked.kind == "logits" else np.float64), 0
    with tempfile.TemporaryFile() as score_file, tempfile.TemporaryFile() as people_file:
        for batch in batches:
            n += batch.num_rows
            for name, values in kept.items():
                values += spellings(batch.column(name).to_pylist())
            score_file.write(_numbers(batch, layout.classes).astype(dtype).data)
            people_file.write(_numbers(batch, layout.people).data)
        scores = _rows_of(score_file, len(layout.classes), dtype)
        people = _rows_of(people_file, len(layout.people), np.float64)
    more: dict[str, Any] = {
        "ids": None if layout.id is None else tuple(kept[layout.id]),
        "groups": None if layout.group is None else tuple(kept[layout.group]),
        "notes": _column_notes(layout, kept),
    }
    if asked.kind == "confidence":
        return _confidence(kept, where, more)
    classes = layout.classes
    if len(classes) == 1:
        scores, classes = two_columns(asked.kind or "", scores), _two_names(classes[0], kept)
        what = "the logit" if asked.kind == "logits" else "the probability"
        more["notes"] += (
            f"One column of scores ({layout.classes[0]}), taken as {what} of {classes[1]!r} "
            f"against {classes[0]!r}.",
        )
    if layout.people:
        voted = [name.removeprefix(_PEOPLE) for name in layout.people]
        if unknown := set(voted) - set(classes):
            raise LevelheadError(f"the column 'label:{min(unknown)}' names no class column")
        counts = torch.zeros(n, len(classes), dtype=torch.float64)
        counts[:, [classes.index(name) for name in voted]] = people
        more["label_distribution"] = shares(counts)
    if layout.label:
        _refuse_foreign_columns(scores, classes, kept["label"], asked)
        labels = torch.from_numpy(positions(kept["label"], classes, where))
    elif layout.people:
        labels = more["label_distribution"].argmax(1)
    else:
        labels = torch.zeros(n, dtype=torch.int64)
    assert asked.kind is not None
    if asked.kind == "logits":
        scores, masked = unmasked(scores, labels, where)
        if masked:
            more["notes"] += (f"Logits of −inf in {masked:,} rows are probability 0.",)
    check_rows(asked.kind, scores, labels, len(classes), where)
    return Outputs(asked.kind, scores, labels, classes, **more)


def _column_notes(layout: _Layout, kept: Mapping[str, list[str]]) -> tuple[str, ...]:
    """What was left out. Raises LevelheadError where an index does not number the rows."""
    notes: tuple[str, ...] = ()
    for name in layout.index:
        values = kept[name]
        whole = all(value.isdigit() for value in values)
        if not whole or len(set(values)) < len(values):
            what = f"the column {name!r}" if name else "a column without a name"
            raise LevelheadError(
                f"{what} numbers no rows and is no class; leave it out, or name it "
                "id, group or by its class"
            )
        notes += (f"Column {name or 'without a name'!r} numbers the rows: left out.",)
    if layout.unused:
        shown = ", ".join(layout.unused[:4]) + (", …" if len(layout.unused) > 4 else "")
        notes += (f"Columns not used: {shown}.",)
    return notes


def _two_names(column: str, kept: Mapping[str, list[str]]) -> tuple[str, str]:
    """The names of two classes of which `column` is the second.

    Raises LevelheadError where the labels do not tell which class that is.
    """
    kinds = sorted(set(kept.get("label", [])) - {""})
    if set(kinds) <= {"0", "1"}:
        return ("0", "1")
    folded = {kind.casefold(): kind for kind in kinds}
    if set(folded) <= {"false", "true"}:
        return (folded.get("false", "false"), folded.get("true", "true"))
    if column in kinds and len(kinds) <= 2:
        return (next((kind for kind in kinds if kind != column), f"not {column}"), column)
    shown = ", ".join(kinds[:4]) + (", …" if len(kinds) > 4 else "")
    raise LevelheadError(
        f"one column of scores, {column!r}, for the labels {shown}; call it by the class whose "
        "score it is, or give a column for every class"
    )


def _refuse_foreign_columns(
    scores: Tensor, classes: tuple[str, ...], labels: Sequence[str], asked: _Asked
) -> None:
    """Raise LevelheadError for a column among the classes that holds no scores of a class.

    Of logits it would be one more class, in silence; probabilities would no longer add up to 1.
    """
    n, k = scores.shape
    if n < 2 or k < 3 or k != len(classes):
        return
    whole, constant = torch.ones(k, dtype=torch.bool), torch.ones(k, dtype=torch.bool)
    adds_up = asked.kind == "probabilities"
    for piece in scores.split(max(1, PIECE // k)):
        finite = piece.isfinite().all(0)
        whole &= finite & (piece == piece.round()).all(0)
        constant &= finite & (piece == scores[0]).all(0)
        adds_up = adds_up and bool(((piece.double().sum(1) - 1).abs() < 1e-2).all())
    if adds_up:
        return
    named = set(labels) & set(classes)
    for column in range(k):
        name = classes[column]
        odd = bool(whole[column] and not whole.all()) or bool(constant[column])
        if name not in named and (odd or bool(named and _NO_CLASS.fullmatch(name.casefold()))):
            why = "whole numbers" if whole[column] else "one number" if constant[column] else ""
            raise LevelheadError(
                f"the column {name!r} would be a class, but no label names it"
                f"{f' and it holds {why} alone' if why else ''}; leave it out, or call it one of "
                f"{', '.join(RESERVED)}"
            )


def _confidence(
    kept: Mapping[str, list[str]], where: Callable[[int], str], more: dict[str, Any]
) -> Outputs:
    """Outputs of the columns prediction, confidence and label."""
    sure = []
    for i, cell in enumerate(kept.get("confidence", [])):
        text = cell.replace(",", ".")
        if not is_number(text):
            raise LevelheadError(f"{where(i)}: the confidence {cell!r} is no number")
        sure.append(float(text))
    tensor = torch.tensor(sure, dtype=torch.float64)[:, None]
    predictions = kept.get("prediction", [])
    if not predictions:
        raise LevelheadError("confidence: no rows; give at least one example")
    names, labels, best = answers(kept.get("label", predictions), predictions, None, where)
    check_rows("confidence", tensor, labels, len(names), where)
    return Outputs("confidence", tensor, labels, names, predicted=best, **more)


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
