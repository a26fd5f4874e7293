"""Selective prediction: what is wrong among the most certain answers, and what it costs to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from levelhead.decisions.plain import plain
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.statistics.examples import clopper_pearson
from levelhead.statistics.folds import halves as positions

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The mean loss (risk) of the answers kept when the most certain are kept first.

    Point i is that of the i + 1 most certain, averaged over every order of equally certain
    examples; `threshold` is the certainty of the last of them. Shares, not percent.
    """

    coverage: Floats  # [N], share kept: 1/N … 1
    risk: Floats  # [N], expected mean loss of those kept
    threshold: Floats  # [N], falls
    aurc: float  # mean of risk over all N coverages
    eaurc: float  # aurc − that of the best order of the same losses, 0 or more
    n: int

    def thinned(self, points: int = 500) -> RiskCoverage:
        """At most so many of the points, evenly spaced, the last among them; same areas."""
        every = np.linspace(len(self.risk) / max(points, 1), len(self.risk), max(points, 1))
        keep = np.unique(np.maximum(np.round(every).astype(np.int64), 1)) - 1
        columns = (self.coverage[keep], self.risk[keep], self.threshold[keep])
        return RiskCoverage(*columns, self.aurc, self.eaurc, self.n)

    def as_json(self, points: int = 100) -> dict[str, Any]:
        """Plain numbers; the curve thinned to `points`."""
        fields: dict[str, Any] = plain(self.thinned(points))
        return fields


def risk_coverage(certainty: Any, errors: Any) -> RiskCoverage:
    """The risk–coverage curve of certainty [N] (higher = surer) and errors [N] (0/1, or any loss).

    AURC = 1/N Σ_i risk(i/N) (Geifman, Uziel, El-Yaniv 2019); E-AURC against the exact optimum, not
    its integral r + (1−r) log(1−r). Of equally certain examples every order is equally likely, so
    each counts with its tie's mean loss. Raises LevelheadError for lengths that differ and NaN.
    """
    sure, loss = checked(certainty, errors)
    n = len(sure)
    order = np.argsort(-sure)
    sure, best, loss = sure[order], np.sort(loss), loss[order]
    new = np.flatnonzero(sure[1:] != sure[:-1]) + 1
    if len(new) < n - 1:
        starts = np.concatenate(([0], new))
        sizes = np.diff(starts, append=n)
        loss = np.repeat(np.add.reduceat(loss, starts) / sizes, sizes)
    kept = np.arange(1.0, n + 1)
    risk = np.cumsum(loss) / kept
    aurc, least = float(risk.mean()), float((np.cumsum(best) / kept).mean())
    return RiskCoverage(kept / n, risk, sure, aurc, max(0.0, aurc - least), n)


def risk_band(
    curve: RiskCoverage,
    coverage: Any,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Pointwise interval (low [P], high [P]) of the risk at each coverage [P], for 0/1 errors.

    A percentile bootstrap of the examples in at most 500 consecutive slices (a slice's count is
    multinomial, its errors binomial, so its cost does not grow with N), never narrower than
    Clopper–Pearson's, so that no errors seen do not mean none to come. For losses between 0 and 1
    it is wider than needed. Raises LevelheadError for losses above 1 and coverages outside (0, 1].
    """
    at = np.asarray(coverage, dtype=np.float64).reshape(-1)
    if not ((at > 0) & (at <= 1)).all():
        raise LevelheadError("coverage: must be above 0 and at most 1")
    few, n = curve.thinned(500), curve.n
    ends = np.concatenate(([0.0], few.coverage * n))
    wrong = np.concatenate(([0.0], few.risk * few.coverage * n))
    sizes = np.diff(ends)
    rate = np.diff(wrong) / sizes
    if rate.max() > 1 + 1e-9 or rate.min() < -1e-9:
        raise LevelheadError("losses outside 0 to 1: this band is for 0/1 errors")
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(n, sizes / n, size=resamples)
    errors = draw.binomial(counts, np.clip(rate, 0, 1))
    pad = ((0, 0), (1, 0))
    counts, errors = (np.pad(part.cumsum(1), pad) for part in (counts, errors))
    kept = at * n
    drawn = np.stack([np.interp(kept, c, e) for c, e in zip(counts, errors, strict=True)]) / kept
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    exact = clopper_pearson(np.interp(kept, ends, wrong), kept, level)
    return np.minimum(low, exact[0]), np.maximum(high, exact[1])


def halves(outputs: Outputs, seed: int = 0) -> tuple[Outputs, Outputs]:
    """Two halves (A, B) with the same share of each label, in the order of the rows; groups whole.

    One data set, one use: A fits calibrators and a score's exponent, B sets thresholds and
    conformal quantiles. Raises LevelheadError for fewer than two examples.
    """
    if len(outputs) < 2:
        raise LevelheadError("1 example: halves need at least 2")
    first, second = (outputs.take(part) for part in positions(outputs.labels, seed, outputs.units))
    return first, second


def checked(certainty: Any, errors: Any) -> tuple[Floats, Floats]:
    """Both as float64 [N]. Raises LevelheadError for lengths that differ, none, NaN."""
    sure, loss = (
        np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
        .astype(np.float64)
        .reshape(-1)
        for values in (certainty, errors)
    )
    if len(sure) != len(loss) or not len(sure):
        raise LevelheadError(f"{len(sure)} certainties, {len(loss)} errors; give one an example")
    if np.isnan(sure).any():
        row = int(np.flatnonzero(np.isnan(sure))[0])
        raise LevelheadError(f"row {row}: the certainty is NaN; leave the row out")
    if not np.isfinite(loss).all():
        row = int(np.flatnonzero(~np.isfinite(loss))[0])
        raise LevelheadError(f"row {row}: the error is {loss[row]:g}; must be a finite number")
    return sure, loss
