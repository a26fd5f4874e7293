"""A row of a reproduction: what was published, what was measured here, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from levelhead.statistics.measured import Measured
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
    """A measured number, printed times `scale`."""
    value, low, high = (
        None if x is None else scale * x for x in (measured.value, measured.low, measured.high)
    )
    return Row(what, published, value, low, high, verdict, len(measured.per_seed), digits)


def number(
    what: str,
    measured: Measured,
    published: Range | None,
    words: str,
    digits: int,
    scale: float = 1.0,
) -> Row:
    """A published number, given as the range it may have: agrees where our interval reaches it."""
    verdict: Agreement | None = None
    if published is not None:
        low, high = (None if x is None else scale * x for x in (measured.low, measured.high))
        if low is None or high is None:
            verdict = "cannot tell"
        else:
            verdict = "differs" if high < published[0] or low > published[1] else "agrees"
    return row(what, words, measured, digits, verdict, scale)


def claim(
    what: str, measured: Measured, claimed: Range, words: str, digits: int, scale: float = 1.0
) -> Row:
    """A published claim, as an open range, held against ours.

    agrees where our whole interval lies inside it, differs where all of it lies outside, else
    cannot tell: an interval that only touches the border, as that of two equal networks does
    ([0, 0]), is on neither side. ANY: nothing was claimed, so there is no verdict. No number: it
    could not be measured.
    """
    if measured.value is None:
        return missing(what, words)
    verdict: Agreement | None = "cannot tell"
    if claimed == ANY:
        verdict = None
    elif measured.low is not None and measured.high is not None:
        low, high = scale * measured.low, scale * measured.high
        if claimed[0] < low and high < claimed[1]:
            verdict = "agrees"
        elif high < claimed[0] or low > claimed[1]:
            verdict = "differs"
    return row(what, words, measured, digits, verdict, scale)


def missing(what: str, published: str) -> Row:
    """What could not be measured."""
    return Row(what, published, None, None, None, "cannot tell", 0)
