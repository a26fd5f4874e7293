"""Thresholds: answer only where the risk is as low as wanted, with a guarantee."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from levelhead.decisions.plain import missing, plain, share
from levelhead.decisions.scores import find_score
from levelhead.decisions.selective import checked
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.statistics.examples import clopper_pearson, effective_size, upper_bound

Method = Literal["sgr", "ltt"]

RISKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
"""What findings name thresholds for."""

STARTS = 5  # at most so many chains of tests
STEPS = 500  # cuts tested, evenly spaced in coverage


@dataclass(frozen=True)
class Threshold:
    """Answer where certainty >= `value`, abstain elsewhere; shares, not percent.

    `value` is −inf where all may be answered, None where no threshold is known to keep the risk
    (`reason` says why, `needed` how many examples would do if their errors were like these).
    `bound` is the upper bound on the risk of what is kept, at the test's share of `delta`.
    """

    value: float | None
    risk_wanted: float
    coverage: float
    bound: float | None
    n_kept: int
    errors_kept: int
    method: str
    delta: float
    guarantee: str | None
    n: int
    score: str
    reason: str | None = None
    needed: int | None = None

    @property
    def confidence(self) -> float | None:
        """The top probability at the threshold, where the score is msp."""
        if self.value is None or self.score != "msp":
            return None
        return -math.expm1(-max(self.value, 0.0))

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; `keeps` tells a threshold below all (value null) from none."""
        keeps = "nothing" if self.value is None else "everything" if self.coverage == 1 else "some"
        return {**plain(self), "keeps": keeps, "confidence": self.confidence}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Threshold:
        """Read what `as_json` gave."""
        fields = {name: content[name] for name in cls.__dataclass_fields__}
        if content["keeps"] == "everything":
            fields["value"] = -math.inf
        return cls(**fields)


def threshold_for_risk(
    certainty: Any,
    errors: Any,
    risk: float,
    *,
    confidence: float = 0.95,
    method: Method = "ltt",
    score: str = "msp",
    units: Any = None,
) -> Threshold:
    """The lowest threshold whose true selective risk is <= `risk` with probability `confidence`.

    `certainty` [N] and `errors` [N] (0/1) are of examples that fitted nothing. A precision of 99 %
    is a risk of 0.01. `score` names the certainty, for `apply_threshold`.

    A cut keeps s > u, with u the certainty of a fixed rank (of equals, all are kept). Given u, the
    j kept are independent draws of the examples above u, so their errors are Binomial(j, R(u)),
    whose tail tests R(u) > risk exactly (Clopper and Pearson 1934).

    - "ltt", learn then test (Angelopoulos et al. 2021), fixed-sequence testing: the ranks and the
      m <= 5 starts are fixed by n and risk alone, before any error is seen. From each start, cuts
      are tested from strict to lax, each at δ/m, until the first that fails; so a chain errs only
      if it accepts the first of its cuts whose risk is too high. Which cut that is depends on how
      many certainties lie between the crossings of R with `risk`; between two crossings the mean
      error is `risk` whatever that number, so the errors up to that cut are, given it, at least
      those of Binomial(j, risk): accepted with probability at most δ/m.
    - "sgr", selection with guaranteed risk (Geifman and El-Yaniv 2017): a binary search over ranks
      of ⌈log₂ n⌉ tests at δ/⌈log₂ n⌉ each. Its path depends on the errors; the union bound holds
      where R crosses `risk` once (until a false acceptance the path is then that of the truth).

    `units` int64 [N] says which examples belong together: then errors and examples are divided by
    the design effect 1 + (m̄ − 1) ρ of each cut, m̄ the mean size of the kept part of an example's
    unit, ρ the correlation of errors in a unit (`effective_size`). That is approximate: simulated
    guarantees broke in at most 2 % (10 and 50 in a unit, n = 300 to 3,000), without in 3 to 24 %.

    Default "ltt": it spends δ on at most 5 chains rather than on log₂ n tests, so keeps more, and
    does not lean on the risk rising with coverage. Raises LevelheadError for other errors than
    0 and 1, risk or confidence outside (0, 1).
    """
    sure, wrong = checked(certainty, errors)
    if not np.isin(wrong, (0, 1)).all():
        raise LevelheadError("errors: must be 0 or 1 (1 where the answer is wrong)")
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise LevelheadError(f"{name} {value}: must be between 0 and 1, for example 0.05")
    if method not in ("ltt", "sgr"):
        raise LevelheadError(f"method {method!r}: choose ltt or sgr")
    n, delta = len(sure), round(1 - confidence, 12)
    order = np.argsort(-sure)
    sure, errors_to = sure[order], np.append(0, np.cumsum(wrong[order]))
    design = _design(wrong[order], None if units is None else np.asarray(units)[order])

    def bound(cut: Any, share: float) -> Any:
        return upper_bound(errors_to[cut] / design[cut], cut / design[cut], share)

    search = _fixed_sequence if method == "ltt" else _binary_search
    level, kept = search(sure, bound, risk, delta)
    threshold = Threshold(
        # s > u, written as s >= the next float64.
        value=float(np.nextafter(sure[kept], math.inf)) if kept < n else -math.inf,
        risk_wanted=risk,
        coverage=kept / n,
        bound=float(bound(kept, level)),
        n_kept=kept,
        errors_kept=int(errors_to[kept]),
        method=method,
        delta=delta,
        guarantee=(
            f"With probability at least {confidence * 100:.4g} % over the draw of these {n:,} "
            f"examples, at most {risk * 100:.4g} % of the answers kept are wrong, for examples "
            "drawn as these were."
        ),
        n=n,
        score=score,
    )
    if kept:
        return threshold
    reason, needed = _why(sure, errors_to, risk, level, bound)
    nothing: dict[str, Any] = {"value": None, "bound": None, "guarantee": None}
    return dataclasses.replace(threshold, **nothing, reason=reason, needed=needed)


def _design(wrong: Any, units: Any) -> Any:
    """The design effect of the j most certain, for j from 0 to N: 1 without units."""
    n = len(wrong)
    if units is None:
        return np.ones(n + 1)
    group = torch.from_numpy(units)
    sizes = np.bincount(units)
    mean = float((sizes.astype(float) ** 2).sum()) / n
    overall = n / effective_size(torch.from_numpy(wrong), group)
    correlation = min((overall - 1) / (mean - 1), 1.0) if mean > 1 else 0.0
    # Of a kept part of m of a unit, its members 1 … m add 1, 3, … 2m − 1 to Σ m².
    by_unit = np.argsort(units, kind="stable")
    starts = np.append(0, np.cumsum(sizes))[units[by_unit]]
    place = np.empty(n)
    place[by_unit] = np.arange(n) - starts
    kept = np.cumsum(2 * place + 1) / np.arange(1, n + 1)
    return np.append(1.0, 1 + (kept - 1) * correlation)


def _whole_ties(sure: Any, ranks: Any) -> Any:
    """Ranks raised to the end of their ties in the falling `sure`: what a threshold can keep."""
    return len(sure) - np.searchsorted(sure[::-1], sure[np.asarray(ranks, np.int64) - 1])


def _fixed_sequence(
    sure: Any, bound: Callable[[Any, float], Any], risk: float, delta: float
) -> tuple[float, int]:
    """Level of each test, and the largest count that may be kept (0: none)."""
    n = len(sure)
    # A chain from a strict start may end at an early error, one from a lax start needs a risk that
    # is low there: several, as many as could each succeed and lie a factor 2 apart.
    m = max(m for m in range(1, STARTS + 1) if m == 1 or _fewest(risk, delta / m) << (m - 1) <= n)
    level, first = delta / m, _fewest(risk, delta / m)
    if first > n:
        return level, 0
    starts = np.unique(_whole_ties(sure, np.geomspace(first, n, m + 1)[:-1].round()))
    every = np.linspace(first, n, min(STEPS, n - first + 1)).round()
    cuts = np.union1d(starts, _whole_ties(sure, every))
    safe = bound(cuts, level) <= risk
    fails = np.append(np.flatnonzero(~safe), len(cuts))
    begin = np.searchsorted(cuts, starts)
    ends = fails[np.searchsorted(fails, begin)]  # the first failure at or after each start
    last = int(ends[ends > begin].max(initial=0))
    return level, int(cuts[last - 1]) if last else 0


def _binary_search(
    sure: Any, bound: Callable[[Any, float], Any], risk: float, delta: float
) -> tuple[float, int]:
    """The same by selection with guaranteed risk."""
    low, high, kept = 0, len(sure), 0
    steps = max(1, math.ceil(math.log2(high)))
    for _ in range(steps):
        middle = (low + high + 1) // 2
        cut = int(_whole_ties(sure, middle))
        if bound(cut, delta / steps) <= risk:
            low = kept = max(kept, cut)
        else:
            high = max(low, middle - 1)
    return delta / steps, kept


def _fewest(risk: float, level: float) -> int:
    """How many examples without an error show a risk: (1 − risk)^n <= level."""
    return math.ceil(math.log(level) / math.log1p(-risk))


def _why(
    sure: Any, errors_to: Any, risk: float, level: float, bound: Callable[[Any, float], Any]
) -> tuple[str, int | None]:
    """Why no cut qualifies, and how many examples would do, None where no number would."""
    n, fewest, limit = len(errors_to) - 1, _fewest(risk, level), f"{risk * 100:.4g} %"
    if n < fewest:
        return (
            f"{n:,} are too few examples: even without an error, {fewest:,} are needed to show a "
            f"risk of at most {limit}; add {fewest - n:,}"
        ), fewest
    cuts = np.unique(_whole_ties(sure, np.arange(fewest, n + 1)))
    bounds = bound(cuts, level)
    kept, wrong = int(cuts[bounds.argmin()]), int(errors_to[cuts[bounds.argmin()]])
    many = np.geomspace(1, 1e9, 1000)
    enough = many[upper_bound(wrong / kept * many, many, level) <= risk]
    if bounds.min() <= risk:  # a later cut would do, but the tests begin with the strictest
        return (
            f"errors among the most certain end the tests before a cut that would do ({wrong:,} of "
            f"{kept:,} wrong); more examples may show it"
        ), n + fewest
    needed, fix = None, "allow a higher risk, improve the model, or set it on more examples"
    if len(enough):
        needed = math.ceil(enough[0] * n / kept)
        fix = f"about {needed:,} examples in all would show it if that share stayed"
    return (
        f"no cut is safe: it takes {fewest:,} kept at least to show it, and at best {wrong:,} of "
        f"{kept:,} are wrong then, a risk of up to {bounds.min() * 100:.3g} % where {limit} is "
        f"wanted; {fix}"
    ), needed


def apply_threshold(threshold: Threshold, outputs: Outputs, level: float = 0.95) -> dict[str, Any]:
    """What a threshold does on other examples: coverage (Wilson) and risk (Clopper–Pearson).

    `{"n", "n_kept", "errors_kept", "coverage", "risk"}`, the last two as value, low, high; null
    with a reason where there is no threshold, or nothing kept. Raises LevelheadError where
    `outputs` lack the threshold's score.
    """
    sure = find_score(threshold.score).of(outputs)
    keep = sure >= (math.nan if threshold.value is None else threshold.value)  # NaN: none
    n, kept, units = len(outputs), int(keep.sum()), outputs.units
    errors = (outputs.rows.rank > 0)[keep].double()
    wrong = int(errors.sum())
    coverage: dict[str, Any] = share(keep, level, units)
    risk = risk_of(errors, None if units is None else units[keep], level)
    if threshold.value is None:
        coverage = risk = missing("there is no threshold")
    return {"n": n, "n_kept": kept, "errors_kept": wrong, "coverage": coverage, "risk": risk}


def risk_of(errors: torch.Tensor, units: torch.Tensor | None, level: float) -> dict[str, Any]:
    """The share of errors [N] among answers that were kept (Clopper–Pearson; groups by their
    effective size): value, low, high; null with a reason where nothing is kept."""
    kept = len(errors)
    if not kept:
        return missing("nothing is kept")
    design = 1.0
    if units is not None:
        design = kept / effective_size(errors, units.unique(return_inverse=True)[1])
    ends = clopper_pearson(float(errors.sum()) / design, kept / design, level)
    low, high = (float(end) for end in ends)
    return {"value": float(errors.mean()), "low": low, "high": high}
