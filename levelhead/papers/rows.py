"""A row of a reproduction: what was published, what was measured here, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from levelhead.statistics.measured import Measured
from levelhead.statistics.multiplicity import holm
from levelhead.text import interval_texts

Agreement = Literal["agrees", "differs", "cannot tell"]
Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
ABOVE: Range = (0.0, math.inf)
BELOW: Range = (-math.inf, 0.0)


@dataclass(frozen=True)
class Row:
    """One quantity; `published` is as printed, or a claim in words ("above 0").

    `rule` is "old" for a row whose interval was worked out before there was one rule for all, and
    whose runs are gone.
    """

    what: str
    published: str
    value: float | None
    low: float | None
    high: float | None
    verdict: Agreement | None  # None: nothing published to hold it against
    seeds: int
    digits: int = 3
    rule: Literal["old"] | None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Its four cells: published, ours, interval, verdict."""
        verdict = self.verdict or "–"
        if self.value is None:
            return self.published, "–", "–", verdict
        value, ends = interval_texts(self.value, self.low, self.high, digits=self.digits)
        return self.published, value, ends or "–", verdict

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; null where an interval has no end."""
        fields = asdict(self)
        if self.rule is None:
            del fields["rule"]
        return fields


def row(
    what: str,
    published: str,
    measured: Measured,
    digits: int,
    verdict: Agreement | None = None,
    scale: float = 1.0,
) -> Row:
    """A measured number, printed times `scale`. One seed speaks for a model: it has no verdict."""
    value, low, high = (
        None if x is None else scale * x for x in (measured.value, measured.low, measured.high)
    )
    seeds = len(measured.per_seed)
    return Row(what, published, value, low, high, verdict if seeds != 1 else None, seeds, digits)


def number(
    what: str,
    measured: Measured,
    published: Range | None,
    words: str,
    digits: int,
    scale: float = 1.0,
) -> Row:
    """A published number, given as the range it may have: its own deviation, or its rounding.

    A claim like any other (`agreement`): that an interval reaches the number is no agreement, for
    the wider it is, the more it reaches.
    """
    verdict = None if published is None else agreement(measured, published, scale)
    return row(what, words, measured, digits, verdict, scale)


def claim(
    what: str, measured: Measured, claimed: Range, words: str, digits: int, scale: float = 1.0
) -> Row:
    """A published claim, as an open range, held against ours (`agreement`).

    ANY: nothing was claimed, so there is no verdict. No number: it could not be measured.
    """
    if measured.value is None:
        return missing(what, words)
    verdict = None if claimed == ANY else agreement(measured, claimed, scale)
    return row(what, words, measured, digits, verdict, scale)


def agreement(measured: Measured, claimed: Range, scale: float = 1.0) -> Agreement:
    """agrees where our whole interval lies inside the range, differs where all of it lies outside.

    Else cannot tell: an interval that only touches the border, as that of two equal networks does
    ([0, 0]), is on neither side.
    """
    if measured.low is None or measured.high is None:
        return "cannot tell"
    low, high = scale * measured.low, scale * measured.high
    if claimed[0] < low and high < claimed[1]:
        return "agrees"
    return "differs" if high < claimed[0] or low > claimed[1] else "cannot tell"


def missing(what: str, published: str) -> Row:
    """What could not be measured."""
    return Row(what, published, None, None, None, "cannot tell", 0)


def standing(rows: Sequence[Row], level: float = 0.95) -> set[int]:
    """Positions of the rows whose answer also stands when all claims about 0 are taken together.

    Of those with a claim about 0 ("above 0", "below 0") and a verdict, by `holm`.
    """
    asked = [
        i
        for i, one in enumerate(rows)
        if one.verdict is not None and one.published.startswith(("above 0", "below 0"))
    ]
    stand = holm([(rows[i].value, rows[i].low, rows[i].high) for i in asked], level)
    return {asked[place] for place in stand if rows[asked[place]].verdict != "cannot tell"}
