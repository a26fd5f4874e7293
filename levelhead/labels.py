"""Labels as people write them: names or positions, numbers or text, missing or there.

Every reader (tables, npz, parquet, arrays in memory, predictions of anyone) goes through here.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.delimited import rows
from levelhead.errors import LevelheadError, nearest
from levelhead.text import printable

UNLABELLED = frozenset({"", "-1", "-100"})
"""How data say that an example has no label (−100 is PyTorch's `ignore_index`)."""


def spellings(values: Iterable[Any]) -> list[str]:
    """The spelling of each value; one that occurs often is worked out once."""
    values = list(values)
    known = {value: spelling(value) for value in set(values)}
    return [known[value] for value in values]


def spelling(value: Any) -> str:
    """A label as text: trimmed, composed (NFC), bytes decoded, whole floats as whole numbers.

    What is missing (None, NaN, an empty cell) is "". Control characters, which drive a terminal or
    turn the direction of a line, become U+FFFD.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return printable(unicodedata.normalize("NFC", str(value)).strip())


def spelled_rows(path: Path) -> list[list[str]]:
    """Rows of a table of text, of one width, each cell by its spelling; empty ones are left out.

    Raises LevelheadError for a table that is empty, and naming the line of another width.
    """
    table = list(rows(path))
    if not table:
        raise LevelheadError(f"{path}: is empty; give a CSV table")
    width = len(table[0][1])
    for line, cells in table:
        if len(cells) != width:
            raise LevelheadError(f"{path}: line {line} has {len(cells)} cells, not {width}")
    return [[spelling(cell) for cell in cells] for _, cells in table]


def number(text: str) -> str:
    """A whole number in one spelling ("1.0", "01" and "+1" are "1"); any other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    plain = value.is_integer() and "_" not in text and "x" not in text.lower()
    return str(int(value)) if plain else text


def same(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns of spellings in which one label has one spelling.

    "1.0" and "1" are one label where all are numbers, "Cat" and "cat" where no column has both.
    The last column's spelling is kept.
    """
    used = [set(column) - {""} for column in columns]
    names = set().union(*used)
    twice = len({number(name) for name in names}) < len(names)
    if all(map(_is_number, names)) and (twice or any("." in name for name in names)):
        return [[number(text) for text in column] for column in columns]
    apart = all(len({name.casefold() for name in one}) == len(one) for one in used)
    if apart and len({name.casefold() for name in names}) < len(names):
        chosen = {name.casefold(): name for one in used for name in sorted(one)}
        return [[chosen.get(text.casefold(), text) for text in column] for column in columns]
    return [list(column) for column in columns]


def positions(
    values: Iterable[str], classes: Sequence[str], where: Callable[[int], str], what: str = "label"
) -> np.ndarray:
    """Labels as positions among classes, int64 [N]: written as names, else as 0 … K−1.

    A name may be written as another number of the same value, or in other capitals where that is
    no other class. Names win: with all labels among them, numbers are names. Raises LevelheadError
    for the first that is neither, naming `where` it stands.
    """
    text = list(values)
    kinds = set(text)
    readings = (*_readings(classes), {str(k): k for k in range(len(classes))})
    changes = (spelling, number, str.casefold, number)
    for change, reading in zip(changes, readings, strict=True):
        if {change(kind) for kind in kinds} <= reading.keys():
            place = {kind: reading[change(kind)] for kind in kinds}
            return np.array([place[value] for value in text], np.int64)
    named = kinds & readings[0].keys()
    reading = readings[0] if named else readings[-1]
    i = next(i for i, value in enumerate(text) if number(value) not in reading)
    if not text[i]:
        raise LevelheadError(f"{where(i)}: no {what}; fill it in, or leave the row out")
    fix = nearest(text[i], list(classes))
    if not fix.startswith("did you mean"):
        shown = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
        fix = f"give one of the names {shown} or positions 0 to {len(classes) - 1} throughout"
    raise LevelheadError(f"{where(i)}: the {what} {text[i]!r} is no class; {fix}{_hint(text[i])}")


def _readings(classes: Sequence[str]) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """The places of the names: as written, as numbers, without capitals; the last two if unique."""
    forms: list[dict[str, int]] = []
    for change in (spelling, number, str.casefold):
        place = {change(name): k for k, name in enumerate(classes)}
        forms.append(place if len(place) == len(classes) else {})
    return forms[0], forms[1], forms[2]


def _hint(text: str) -> str:
    return " (−1 often means: not labelled; leave such rows out)" if number(text) == "-1" else ""


def _is_number(text: str) -> bool:
    return number(text).lstrip("-").isdigit()


def in_order(words: Iterable[str]) -> list[str]:
    """Class names sorted; by value if all are whole numbers."""
    try:
        return sorted(words, key=lambda word: (int(word), word))
    except ValueError:
        return sorted(words)
