"""Numbers and tables as a person reads them."""

from __future__ import annotations

import math


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


def interval_text(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    digits: int,
    scale: float = 1.0,
    sign: bool = False,
    unit: str = "",
) -> str:
    """A number with its interval; `–` where there is none.

    An end that is not 0 is not printed as 0 where the interval of a change excludes 0: all get a
    digit more.

    >>> interval_text(0.412, 0.399, 0.425, digits=3)
    '0.412 [0.399, 0.425]'
    >>> interval_text(0.004, -0.002, 0.01, digits=1, scale=100, sign=True, unit=" points")
    '+0.4 points [-0.2, +1.0]'
    """
    if value is None:
        return "–"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{value * scale:{'+' if sign else ''}.{digits}f}{unit}"
    numbers = [value * scale, low * scale, high * scale]
    if sign and not low <= 0 <= high and min(map(abs, numbers)) < 0.5 * 10**-digits:
        digits += 1
    middle, start, end = (f"{number:{'+' if sign else ''}.{digits}f}" for number in numbers)
    return f"{middle}{unit} [{start}, {end}]"
