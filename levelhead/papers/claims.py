"""Claims about runs: a metric of some against that of others, a number of their last epochs."""

from __future__ import annotations

from collections.abc import Sequence

from levelhead.metrics import METRICS
from levelhead.papers.rows import Range, Row, claim, missing
from levelhead.runs import Run
from levelhead.statistics.measured import difference, spread
from levelhead.studies.qualities import by_seed


def contrast(
    what: str,
    pair: tuple[Sequence[Run], Sequence[Run]],
    metric: str,
    claimed: Range,
    words: str,
    digits: int,
    scale: float = 1.0,
) -> Row:
    """A test metric of some runs minus that of others, paired by seed and example."""
    if not all(pair) or any(_lacks(runs, metric) for runs in pair):
        return missing(what, words)
    own, other = (by_seed(runs, metric) for runs in pair)
    measured = difference(own, other, METRICS[metric].quantity)
    scaled = (claimed[0] * scale, claimed[1] * scale)
    return claim(what, measured, scaled, words, digits, scale)


def of_seeds(
    what: str,
    values: Sequence[float],
    claimed: Range,
    words: str,
    digits: int,
    scale: float = 1.0,
) -> Row:
    """A number of each seed, for example of its last epoch."""
    if not values:
        return missing(what, words)
    measured = spread(list(values))
    return claim(what, measured, claimed, words, digits, scale)


def _lacks(runs: Sequence[Run], metric: str) -> bool:
    """Whether a run has no value of a metric."""
    return any(run.findings["test"]["metrics"][metric]["value"] is None for run in runs)
