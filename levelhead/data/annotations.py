"""Tables that people bring to a training: labels for its images, a prior, an ε for a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.delimited import is_number
from levelhead.errors import LevelheadError, nearest
from levelhead.files import reading
from levelhead.labels import UNLABELLED as NONE
from levelhead.labels import number, positions, spelled_rows, spellings
from levelhead.targets import UNLABELLED, human


def read_labels(
    told: str, ids: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, int], Tensor]:
    """Labels by annotators: the row of each id; int64 [M] labels or float32 [M,K] shares of votes.

    told: PATH or PATH:COLUMN of .npy, .csv or .parquet. A column holds class names, or positions
    among `class_names` (default: the column `label`, or the only one); a column for every class
    (.npy: [M,K]) holds votes. A column `id` says which image a row is of; without one the rows
    are those of `ids`, in that order. An empty cell, −1 or −100 is no label: −1.
    Raises LevelheadError naming the file, the row and the value.
    """
    path, column = Path(told), ""
    if not path.is_file() and ":" in path.name:
        path, column = Path(told.rpartition(":")[0]), told.rpartition(":")[2]
    with reading(path, "check the path"):
        columns = dict(_columns(path, class_names))
    row_ids = spellings(columns.pop("id", ids))
    rest = list(columns)
    length = len(columns[rest[0]]) if rest else 0
    if not rest:
        raise LevelheadError(f"{path}: no column of labels; give one named label")
    if len(row_ids) != length:
        raise LevelheadError(
            f"{path}: {length:,} rows for the {len(row_ids):,} images of the original training "
            "set; give a row for each, in its order, or a column id"
        )
    place = {name: row for row, name in enumerate(row_ids)}
    if len(place) < length:
        twice = next(name for row, name in enumerate(row_ids) if place[name] != row)
        raise LevelheadError(f"{path}: id {twice!r} occurs twice; keep one")
    if not column and set(class_names) <= columns.keys():
        try:
            votes = np.stack([np.asarray(columns[k], np.float64) for k in class_names], 1)
            return place, human(torch.from_numpy(votes))
        except ValueError as error:  # LevelheadError is one
            raise LevelheadError(f"{path}: {error}") from None
    column = column or ("label" if "label" in columns or len(rest) > 1 else rest[0])
    if column not in columns:
        raise LevelheadError(
            f"{path}: no column {column!r} ({nearest(column, rest)}); give PATH:COLUMN"
        )
    words = spellings(columns[column])
    none = NONE - set(class_names)
    labelled = [i for i, word in enumerate(words) if number(word) not in none]
    labels = torch.full((len(words),), UNLABELLED)
    places = positions(
        [words[i] for i in labelled], class_names, lambda i: f"{path}: row {labelled[i]}", column
    )
    labels[labelled] = torch.from_numpy(places)
    return place, labels


def read_prior(path: Path, class_names: Sequence[str]) -> Tensor:
    """A CSV of K numbers -> float64 [K], or of K x K -> [K,K], row and column in class order.

    A header and a first column of class names, in any order, are optional; one of them speaks for
    both sides of a matrix. Raises LevelheadError for another shape, a class unknown or missing.
    """
    cells, k = spelled_rows(path), len(class_names)
    width = len(cells[0])
    across = down = None
    if len(cells) not in (1, k) or not all(map(is_number, cells[0][-k:])):
        across, cells = cells[0][-k:], cells[1:]
    if width == k + 1:
        down, cells = [row[0] for row in cells], [row[1:] for row in cells]
    if width not in (k, k + 1) or len(cells) not in (1, k):
        raise LevelheadError(
            f"{path}: {len(cells)} rows of {width} columns for {k} classes; give one row of {k} "
            f"numbers or {k} of them, with class names above and before them if wanted"
        )
    numbers = [[_number(path, cell) for cell in row] for row in cells]
    table = torch.tensor(numbers, dtype=torch.float64)
    if len(cells) == 1:
        down = None
    elif across is None or down is None:
        across = down = across or down
    if across is not None:
        table = table[:, _order(path, across, class_names)]
    if down is not None:
        table = table[_order(path, down, class_names)]
    return table if len(cells) > 1 else table[0]


def read_epsilons(path: Path, class_names: Sequence[str], rest: float) -> Tensor:
    """A CSV with the header class,epsilon -> float32 [K]; `rest` for classes it does not name.

    Raises LevelheadError for another header, a class unknown or named twice, an ε out of range.
    """
    header, *lines = spelled_rows(path)
    if sorted(header) != ["class", "epsilon"]:
        raise LevelheadError(f"{path}: its first line must be class,epsilon, not {header}")
    epsilons = torch.full((len(class_names),), float(rest))
    names = [row[header.index("class")] for row in lines]
    for name, row in zip(names, lines, strict=True):
        value = _number(path, row[header.index("epsilon")])
        place = _one_class(path, name, names, class_names)
        if not 0 <= value < 1:
            raise LevelheadError(f"{path}: epsilon {value} of {name!r}: must be in [0, 1)")
        epsilons[place] = value
    return epsilons


def read_by_class(
    path: Path,
    class_names: Sequence[str],
    rest: Mapping[str, float],
    most: Mapping[str, float],
    still: Mapping[str, float],
) -> dict[str, Tensor]:
    """A table of class and some of the columns of `rest`: float32 [K] each.

    `rest` are the values of classes and columns that it leaves out, `most` the largest, `still`
    those that do nothing. Raises LevelheadError naming the file and what is wrong.
    """
    header, *lines = spelled_rows(path)
    names = [name for name in header if name != "class"]
    if "class" not in header or len(set(header)) < len(header) or not names:
        raise LevelheadError(f"{path}: its first line must be class and some of {', '.join(rest)}")
    for name in names:
        if name not in rest:
            raise LevelheadError(f"{path}: column {name!r}: {nearest(name, list(rest))}")
    classes = [row[header.index("class")] for row in lines]
    values = {name: torch.full((len(class_names),), float(rest[name])) for name in rest}
    for class_name, row in zip(classes, lines, strict=True):
        place = _one_class(path, class_name, classes, class_names)
        for name in names:
            value = _number(path, row[header.index(name)])
            if not 0 <= value <= most[name] or (still[name] and not value):
                above = "above 0, at most" if still[name] else "0 to"
                raise LevelheadError(
                    f"{path}: {name} {value:g} of {class_name!r}: must be {above} {most[name]:g}"
                )
            values[name][place] = value
    return values


def _one_class(path: Path, name: str, column: Sequence[str], class_names: Sequence[str]) -> int:
    """Where a class stands. Raises LevelheadError where it is unknown, or given twice."""
    if name not in class_names or column.count(name) > 1:
        fix = "keep one" if name in class_names else nearest(name, list(class_names))
        raise LevelheadError(f"{path}: class {name!r} is unknown or occurs twice; {fix}")
    return list(class_names).index(name)


def _columns(path: Path, class_names: Sequence[str]) -> Mapping[str, Any]:
    """The columns of a table by name; those of an .npy, and of numbers alone, are named here."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        header, *lines = spelled_rows(path)
        if all(map(is_number, header)) and not set(class_names) <= set(header):
            lines = [header, *lines]
            header = ["label"] if len(header) == 1 else list(class_names)
        if len(header) != len(set(header)) or any(len(row) != len(header) for row in lines):
            raise LevelheadError(f"{path}: its columns have no names; give a header")
        if not lines:
            raise LevelheadError(f"{path}: a header and no rows; give the labels below it")
        return dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))
    try:
        if suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            plain = [
                field.name
                for field in pq.read_schema(path)
                if not pa.types.is_nested(field.type) and not pa.types.is_binary(field.type)
            ]
            return dict(pq.read_table(path, columns=plain).to_pydict())
        table = np.load(path, allow_pickle=False) if suffix == ".npy" else None
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are ValueErrors
        raise LevelheadError(f"{path}: cannot be read ({error}); check the path") from None
    if isinstance(table, np.ndarray) and table.ndim == 1:
        return {"label": table.tolist()}
    if isinstance(table, np.ndarray) and table.ndim == 2 and table.shape[1] == len(class_names):
        return dict(zip(class_names, table.T, strict=True))
    raise LevelheadError(
        f"{path}: no labels; give .csv, .parquet, or .npy of [N] labels or "
        f"[N,{len(class_names)}] counts"
    )


def _number(path: Path, text: str) -> float:
    if not is_number(text):
        raise LevelheadError(f"{path}: {text!r} is no number, for example 0.1")
    return float(text)


def _order(path: Path, given: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Where each class stands in `given`."""
    for name in given:
        if name not in class_names:
            raise LevelheadError(f"{path}: unknown class {name!r}; {nearest(name, [*class_names])}")
    if len(set(given)) < len(class_names):
        raise LevelheadError(f"{path}: names a class twice; give each of the {len(class_names)}")
    return [list(given).index(name) for name in class_names]
