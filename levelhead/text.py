"""Numbers and tables as a person reads them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(75)
    '1 min 15 s'
    >>> duration(4.2)
    '4 s'
    >>> duration(7300)
    '2 h 1 min'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def columns(header: list[str], rows: list[list[str]]) -> str:
    """A plain table: the first column left, numbers right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def interval_text(value: float | None, low: float | None, high: float | None, **how: Any) -> str:
    """A number with its interval, as `interval_texts` puts them; `–` where there is none.

    >>> interval_text(0.412, 0.399, 0.425, digits=3)
    '0.412 [0.399, 0.425]'
    >>> interval_text(0.004, -0.002, 0.01, digits=1, scale=100, sign=True, unit=" points")
    '+0.4 points [−0.2, +1.0]'
    """
    return " ".join(interval_texts(value, low, high, **how)).rstrip()


def interval_texts(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    digits: int | None = None,
    least: int = 0,
    scale: float = 1.0,
    sign: bool = False,
    unit: str = "",
) -> tuple[str, str]:
    """A number, and its interval ("" where there is none), times `scale`.

    digits None: those that the interval leaves standing, so that one unit of the last digit is a
    thirtieth to a third of its width, and at least `least`. With a `sign` it is a change: an end
    that is not 0 is not printed as 0 where the interval excludes 0, and nothing is "-0".

    >>> interval_texts(0.93391, 0.92886, 0.93861, scale=100, unit=" %", least=1)
    ('93.4 %', '[92.9, 93.9]')
    """
    numbers = [math.nan if x is None else x * scale for x in (value, low, high)]
    middle, start, end = numbers
    plus = "+" if sign else ""
    if not math.isfinite(middle):
        return "–", ""
    if not math.isfinite(start + end):
        texts = [_text(x, f"{plus}.4g" if digits is None else f"{plus}.{digits}f") for x in numbers]
        known = math.isfinite(start) or math.isfinite(end)
        return texts[0] + unit, f"[{texts[1]}, {texts[2]}]" if known else ""
    if digits is None:
        width = max(end - start, 1e-6)
        digits = min(max(math.ceil(-math.log10(width / 3)), least), 6)
    elif sign and not start <= 0 <= end and min(map(abs, numbers)) < 0.5 * 10**-digits:
        digits += 1
    large = max(map(abs, numbers)) >= 1e6
    texts = [_text(x, f"{plus}.4g" if large else f"{plus}.{digits}f") for x in numbers]
    return texts[0] + unit, f"[{texts[1]}, {texts[2]}]"


def _text(number: float, style: str) -> str:
    if not math.isfinite(number):
        return "∞"
    text = f"{number:{style}}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def printable(text: str) -> str:
    """The same with a space for tabs and line ends, U+FFFD for every other control character."""
    text = re.sub(r"[\t\n\v\f\r\x85]", " ", text)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def isolated(name: str) -> str:
    r"""A name as it may stand in a sentence: written from right to left, it keeps to itself.

    Unicode's first-strong isolate (UAX 9) around names with letters of such scripts; without, what
    follows the name in the sentence would be shown before it.

    >>> isolated("owl"), isolated("חתול") == "\u2068חתול\u2069"
    ('owl', True)
    """
    if any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in name):
        return f"\u2068{name}\u2069"
    return name


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def count(n: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 classes`."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"
