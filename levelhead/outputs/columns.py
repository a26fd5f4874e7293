"""Tables of predictions: which column is what, and CSV and parquet as Outputs.

Read in pieces; the scores are laid in a file that the system pages in and out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from levelhead.delimited import dialect, is_number, missing_column, rows
from levelhead.errors import LevelheadError, NoLabels
from levelhead.labels import positions, spelling, spellings
from levelhead.outputs.coerce import answers, shares, two_columns, unmasked
from levelhead.outputs.outputs import BESIDE_CONFIDENCE, BESIDE_DECISIONS, RESERVED, Outputs
from levelhead.outputs.validate import PIECE, Kind, check_log_probabilities, check_rows

_PEOPLE = "label:"  # a column `label:cat` counts the annotators who said cat
_ROW_INDEX = re.compile(r"|unnamed: ?\d+|__index_level_\d+__|index|row|\.\.\.1", re.IGNORECASE)
_NO_CLASS = re.compile(
    "age|cost|count|date|entropy|epoch|error|fold|height|length|loss|margin|nll|rank|score|seed|"
    "size|split|step|target|temperature|time|timestamp|truth|weight|width|y|y_true|year"
)
"""What columns of a log are called that hold no scores of a class."""


@dataclass(frozen=True)
class Asked:
    """What the reader was asked for."""

    kind: Kind | None
    group_column: str
    labelled: bool


def read_csv(path: Path, asked: Asked) -> Outputs:
    """Outputs of a CSV, packed or not. Raises LevelheadError for a table that cannot be judged."""
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


def read_parquet(path: Path, asked: Asked) -> Outputs:
    """Outputs of a parquet file. Raises LevelheadError for a table that cannot be judged."""
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
        known = (*reserved(self.columns), *([self.group] if self.group else []), *self.index)
        known += () if self.classes else BESIDE_CONFIDENCE
        return tuple(name for name in known if name in self.columns)


def reserved(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that are no class; `predict` writes two more beside `decision`."""
    return (*RESERVED, *(BESIDE_DECISIONS if "decision" in columns else ()))


def _layout(columns: Sequence[str], asked: Asked) -> _Layout:
    """Raises LevelheadError for a table that cannot be judged."""
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise LevelheadError(f"the column {twice!r} occurs twice; rename one")
    people = tuple(c for c in columns if c.startswith(_PEOPLE))
    marked = asked.kind == "confidence" and "correct" in columns
    if asked.labelled and "label" not in columns and not people and not marked:
        near = next((c for c in columns if c.lower() in ("label", "class", "target", "y_true")), "")
        fix = f"rename {near!r}" if near else "add the true class of each row"
        raise (LevelheadError if near else NoLabels)(missing_column("label", columns, fix))
    if asked.group_column != "group" and asked.group_column not in columns:
        raise LevelheadError(missing_column(asked.group_column, columns, "name the groups' one"))
    if asked.kind is None:
        raise LevelheadError(
            "its numbers may be of any kind; add --logits, --probabilities or --confidence"
        )
    index = tuple(c for c in columns if _ROW_INDEX.fullmatch(c))
    taken = {*reserved(columns), *people, asked.group_column, *index}
    taken |= {*BESIDE_CONFIDENCE} if asked.kind == "confidence" else set()
    classes = tuple(c for c in columns if c not in taken)
    unused: tuple[str, ...] = ()
    if asked.kind == "confidence":
        marked = marked and not {"label", "prediction"} <= set(columns)
        for name in ("confidence",) if marked else ("prediction", "confidence"):
            if name not in columns:
                raise LevelheadError(missing_column(name, columns, "--confidence needs it"))
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


def _table(batches: Any, layout: _Layout, asked: Asked, where: Callable[[int], str]) -> Outputs:
    """Outputs of pyarrow batches with a column a class and `label`."""
    names = {name for name in (layout.id, layout.group, *layout.index) if name is not None}
    names |= {"label"} if layout.label else set()
    if asked.kind == "confidence":
        names |= {"prediction", "confidence", *BESIDE_CONFIDENCE} & set(layout.columns)
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
    scores: Tensor, classes: tuple[str, ...], labels: Sequence[str], asked: Asked
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
    """Outputs of the columns confidence, and prediction and label, or correct alone."""
    tensor = _column_of("confidence", kept, where)[:, None]
    if not len(tensor):
        raise LevelheadError("confidence: no rows; give at least one example")
    if "log_probability" in kept:
        own = _column_of("log_probability", kept, where)
        check_log_probabilities(own, len(tensor), where)
        more["label_log_probability"] = own
    predictions = kept.get("prediction", [])
    if "label" in kept or not kept.get("correct"):
        names, labels, best = answers(kept.get("label", predictions), predictions, None, where)
    else:
        names, more["anonymous"] = ("right", "wrong"), True
        labels = torch.tensor([_wrong(cell, where(i)) for i, cell in enumerate(kept["correct"])])
        best = torch.zeros(len(labels), dtype=torch.int64)
    check_rows("confidence", tensor, labels, len(names), where)
    return Outputs("confidence", tensor, labels, names, predicted=best, **more)


def _column_of(name: str, kept: Mapping[str, list[str]], where: Callable[[int], str]) -> Tensor:
    """A column of numbers that was read as text, float64 [N]."""
    numbers = []
    for i, cell in enumerate(kept.get(name, [])):
        text = cell.replace(",", ".")
        if not is_number(text):
            raise LevelheadError(f"{where(i)}: the {name} {cell!r} is no number")
        numbers.append(float(text))
    return torch.tensor(numbers, dtype=torch.float64)


CORRECT = {"1": 0, "true": 0, "1.0": 0, "0": 1, "false": 1, "0.0": 1}


def _wrong(cell: str, where: str) -> int:
    """1 for a cell of `correct` that says no."""
    if cell.casefold() not in CORRECT:
        raise LevelheadError(f"{where}: correct {cell!r}; write 1 or 0, true or false")
    return CORRECT[cell.casefold()]


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
