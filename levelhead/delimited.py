"""Delimited text (CSV and its kin): encoding, separator and decimal mark found, cells trimmed.

Every table of text that people bring is opened here: labels, predictions, costs, priors.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from levelhead.errors import LevelheadError
from levelhead.text import some

SEPARATORS = (",", ";", "\t")
LOOK = 1 << 16
"""Bytes from which the dialect is told."""
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    encoding: str
    separator: str
    decimal: str


def opened(path: Path) -> BinaryIO:
    """A stream of the bytes, unpacked where the name ends in .gz."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def dialect(path: Path) -> Dialect:
    """Tell the dialect from the first lines. Raises LevelheadError for what is no text."""
    with opened(path) as file:
        head = file.read(LOOK)
    encoding = _encoding(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=len(head) < LOOK)
    except UnicodeDecodeError as error:
        raise LevelheadError(
            f"{path}: not a CSV table in UTF-8 (byte {head[error.start]:#x} at {error.start}); "
            "save it as UTF-8"
        ) from None
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    first = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    separator = max(SEPARATORS, key=first.count)  # of as many, the first
    cells = [cell.strip() for line in lines[1:] for cell in line.split(separator)]
    comma = separator != "," and any(map(_COMMA.fullmatch, cells))
    return Dialect(encoding, separator, "," if comma else ".")


def _encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[0:400:2].count(0), head[1:400:2].count(0)
    if max(even, odd) > len(head[:400]) / 5:  # Latin text in UTF-16 without its mark
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, trimmed cells) of every line that is not empty; numbers get a decimal point.

    Raises LevelheadError naming the file for what is no table or cannot be read.
    """
    try:
        how = dialect(path)
        with opened(path) as file, io.TextIOWrapper(file, how.encoding, newline="") as text:
            reader = csv.reader(text, delimiter=how.separator, skipinitialspace=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if how.decimal == ",":
                    cells = [c.replace(",", ".") if _COMMA.fullmatch(c) else c for c in cells]
                if any(cells):
                    yield reader.line_num, cells
    except (csv.Error, UnicodeError, EOFError) as error:
        raise LevelheadError(f"{path}: not a CSV table in UTF-8 ({error})") from None
    except OSError as error:
        raise LevelheadError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from None


def is_number(text: str) -> bool:
    """Whether a cell is a number (nan and inf are, too)."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def missing_column(name: str, columns: Sequence[str], fix: str) -> str:
    """The sentence for a table without a column, whatever file it came from."""
    return f"no column {name!r} among {some(columns, 8) or 'none'}; {fix}"
