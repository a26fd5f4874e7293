"""Which calibrator: cross-validated on validation, chosen by a rule that is said aloud."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from levelhead.calibrators import CALIBRATORS, spoken
from levelhead.calibrators.calibrator import check_classes
from levelhead.errors import LevelheadError, nearest
from levelhead.outputs import Outputs
from levelhead.outputs.outputs import log_probabilities, probabilities
from levelhead.outputs.validate import first
from levelhead.statistics.binning import bin_confidence
from levelhead.statistics.examples import (
    FEW_ERRORS,
    example_variance,
    examples_needed,
    mean_interval,
    with_unseen_errors,
)
from levelhead.statistics.folds import random_folds
from levelhead.text import interval_text

Range = tuple[float, float, float]
"""A value with the ends of its interval."""

MOST = 100
"""Structured matrix scaling is tried by default up to so many classes: it has K² + K parameters."""

Verdict = Literal["advised", "cannot tell", "no better"]


@dataclass(frozen=True, eq=False)
class Ranked:
    """A calibrator judged on examples it was not fitted on. Without `losses`, `reason` says why."""

    name: str  # in CALIBRATORS, or "none"
    parameters: int | None  # None: the examples decide how many
    least: int  # examples that the calibrator asks for
    reason: str = ""
    nll: Range | None = None  # nats
    over_temperature: Range | None = None  # paired difference of the NLL: below 0 is better
    over_none: Range | None = None
    ece: float | None = None  # 15 bins, plug-in
    brier: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0  # of all fits
    losses: Tensor | None = field(default=None, repr=False)  # NLL, float64 [N]
    # The NLL where the answer is wrong, times the odds of that, both by the uncalibrated model [N].
    if_wrong: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Choice:
    """The calibrator to use, and whether the examples show that it helps."""

    method: str  # "none" unless advised
    verdict: Verdict
    best: str  # the method with the lowest held-out NLL
    gain: Range | None  # its NLL minus that of none, corrected for the choice
    compared: int  # methods among which its gain was the largest, for the correction
    errors: int  # wrong answers among the n examples
    n: int
    needed: int | None = None  # examples that would show the gain seen, where it is not shown


def default_methods(classes: int) -> tuple[str, ...]:
    """What is tried where nothing is asked: by number of classes."""
    if classes == 2:
        return ("temperature", "platt", "quadratic", "beta", "venn_abers")
    return ("temperature", "svs", "vector", *(("sms",) if classes <= MOST else ()))


def rank(
    outputs: Outputs,
    methods: Iterable[str] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
) -> list[Ranked]:
    """Calibrators cross-validated on outputs of any split, the best held-out NLL first.

    Each is fitted on all folds but one (random, groups whole, drawn with `seed`) and judged on
    that one. `methods` are names in CALIBRATORS, by default `default_methods` as far as there are
    enough examples (`Calibrator.least`); "none" and "temperature" are always there. Intervals are
    over examples (or groups), with the fits as they are, and reach up to what unseen errors would
    add. Raises LevelheadError for unknown names, kind "confidence", and folds below 2 or above N.
    """
    check_classes(outputs, "rank")
    n, k = len(outputs), outputs.classes
    candidates = default_methods(k) if methods is None else [*methods]
    if len(candidates) == len(CALIBRATORS):  # all that are for so many classes
        candidates = [name for name in candidates if CALIBRATORS[name].only in (None, k)]
    names = list(dict.fromkeys(("none", "temperature", *candidates)))
    if unknown := [name for name in names[1:] if name not in CALIBRATORS]:
        raise LevelheadError(f"calibrator {unknown[0]!r}: {nearest(unknown[0], list(CALIBRATORS))}")
    if not 2 <= folds <= n:
        raise LevelheadError(f"folds {folds}: must be from 2 to {n:,}, the number of examples")
    fold, rows = random_folds(n, folds, seed, outputs.units), {}
    for name in names:
        entry = CALIBRATORS.get(name)
        row = Ranked(name, entry.parameters(k) if entry else 0, entry.least(k) if entry else 0)
        few = methods is None and n < row.least
        reason = f"needs {row.least:,} examples; there are {n:,}"
        rows[name] = replace(row, reason=reason) if few else _judged(row, outputs, fold)
    bases = rows["none"], rows["temperature"]
    rows_with_intervals = [_intervals(row, *bases, outputs, level) for row in rows.values()]
    return sorted(rows_with_intervals, key=_nll)


def _judged(row: Ranked, outputs: Outputs, fold: Tensor) -> Ranked:
    """The row with held-out NLLs and figures, or with the reason why there are none."""
    begin, entry = time.perf_counter(), CALIBRATORS.get(row.name)
    columns = torch.empty(5, len(fold), dtype=torch.float64)
    bare = outputs.bare()
    try:
        for f in fold.unique():
            part, rest = (fold == f).nonzero()[:, 0], (fold != f).nonzero()[:, 0]
            before = after = bare.take(part)
            if entry is not None:
                after = entry.fit_outputs(bare.take(rest)).apply(before)
            rows = after.rows
            columns[:, part] = torch.stack(
                [rows.nll, rows.brier, rows.confidence, rows.correct, _if_wrong(before, after)]
            )
    except LevelheadError as error:
        return replace(row, reason=str(error))
    if (i := first(~columns[0].isfinite())) is not None:
        return replace(row, reason=f"row {i}: infinite NLL, the label's probability is exactly 0")
    return replace(
        row,
        losses=columns[0],
        ece=bin_confidence(columns[2], columns[3]).error(),
        brier=float(columns[1].mean()),
        accuracy=float(columns[3].mean()),
        seconds=time.perf_counter() - begin,
        if_wrong=columns[4],
    )


def _if_wrong(before: Outputs, after: Outputs) -> Tensor:
    """Σ over the classes that are not the answer of p (−log p'), [N]: p before, p' after."""
    if after is before:
        rows = before.rows
        own: Tensor = rows.entropy - torch.special.entr(rows.confidence)
        return own.clamp(min=0)
    totals, start = [], 0
    for (scores, _), (other, _) in zip(before.pieces(), after.pieces(), strict=True):
        answer = before.rows.prediction[start : start + len(scores), None].long()
        start += len(scores)
        p = probabilities(before.kind, scores).scatter_(1, answer, 0.0)
        costs = -p * log_probabilities(after.kind, other)
        totals.append(costs.where(p > 0, torch.zeros_like(p)).sum(1))
    return torch.cat(totals)


def _intervals(
    row: Ranked, none: Ranked, temperature: Ranked, outputs: Outputs, level: float
) -> Ranked:
    def over(base: Ranked) -> Range | None:
        return None if base is row else change(row, base, outputs, level)

    nll = None
    if row.losses is not None and row.if_wrong is not None:
        nll = _reaching(row.losses, row.if_wrong, outputs, level)
    return replace(row, nll=nll, over_none=over(none), over_temperature=over(temperature))


def change(row: Ranked, base: Ranked, outputs: Outputs, level: float) -> Range | None:
    """NLL of one minus that of another, paired, with its interval; None where either has none.

    Where few answers are wrong, every sharper calibrator looks better on all of them. So the upper
    end reaches up to what the errors that chance kept away would cost it more than the other.
    """
    if row.losses is None or base.losses is None or row.if_wrong is None or base.if_wrong is None:
        return None
    return _reaching(row.losses - base.losses, row.if_wrong - base.if_wrong, outputs, level)


def costs_of_errors(before: Outputs, after: Outputs) -> float:
    """How much more a wrong answer costs after than before, by the odds of the model before."""
    odds = float(before.rows.log_rest.exp().sum())
    more = float((_if_wrong(before, after) - _if_wrong(before, before)).sum())
    return more / odds if odds > 0 else 0.0


def _reaching(losses: Tensor, if_wrong: Tensor, outputs: Outputs, level: float) -> Range:
    value, rows = float(losses.mean()), outputs.rows
    interval = mean_interval(losses, level, units=outputs.units)
    odds = float(rows.log_rest.exp().sum())
    cost = float(if_wrong.sum()) / odds if odds > 0 else 0.0
    reach = with_unseen_errors(interval, value, rows.correct, cost, level, outputs.units)
    return value, reach.low, reach.high


def _nll(row: Ranked) -> float:
    return row.nll[0] if row.nll else math.inf


def choose(ranked: Sequence[Ranked], outputs: Outputs, level: float = 0.95) -> Choice:
    """Which calibrator of those that `rank` ranked on these outputs.

    1. The candidate: temperature scaling, or the method with the lowest held-out NLL if that beats
       temperature by more than one standard error of their paired difference. The structured
       calibrators are pulled towards temperature scaling, so a wrong choice costs little
       (docs/findings.md, the table of regrets).
    2. It is advised where a gain over no calibrator is shown: where the interval of the paired
       change lies below 0, reaching up to what unseen errors would add (`change`). Temperature is
       asked at `level`; another at the level corrected for how many others there are (Bonferroni),
       or it stands on temperature's gain, to which it adds. So for a calibrated model one is
       advised in at most 5 % of sets, both sides of 95 % together.
    3. Else all is left as it is: "cannot tell" where it looked better, "no better" where not.

    Raises LevelheadError where nothing could be ranked.
    """
    n = len(outputs)
    rows = [row for row in sorted(ranked, key=_nll) if row.losses is not None and n >= row.least]
    if not rows:
        raise LevelheadError(f"no calibrator could be fitted: {ranked[0].reason}")
    errors = int(n - outputs.rows.correct.sum())
    by_name = {row.name: row for row in rows}
    none, temperature = by_name.pop("none", None), by_name.get("temperature")
    tried = len(by_name)
    if none is None:  # a probability of exactly 0, which only some calibrators repair
        return Choice(rows[0].name, "advised", rows[0].name, None, tried, errors, n)
    if not by_name:
        return Choice("none", "no better", "none", None, tried, errors, n)
    best = next(iter(by_name.values()))
    if temperature is not None and best is not temperature:
        assert best.losses is not None
        assert temperature.losses is not None
        more = temperature.losses - best.losses
        if float(more.mean()) <= math.sqrt(example_variance(more, outputs.units)):
            best = temperature
    others = tried - (temperature is not None)
    corrected = level if best is temperature else 1 - (1 - level) / max(others, 1)
    compared = 1 if best is temperature else others
    gain = change(best, none, outputs, corrected)
    assert gain is not None
    stands = None if temperature is None else change(temperature, none, outputs, level)
    if gain[2] < 0 or (stands is not None and stands[2] < 0):
        return Choice(best.name, "advised", best.name, gain, compared, errors, n)
    if gain[0] >= 0:
        return Choice("none", "no better", best.name, gain, tried, errors, n)
    assert best.losses is not None
    assert none.losses is not None
    losses = best.losses - none.losses
    spread = math.sqrt(example_variance(losses, outputs.units) * n)
    needed = examples_needed(gain[0], spread, level)
    return Choice("none", "cannot tell", best.name, gain, compared, errors, n, needed)


def choice_words(choice: Choice, ranked: Sequence[Ranked], level: float = 0.95) -> str:
    """Which calibrator and why, for people."""
    name = spoken(choice.best)
    lead = f"By cross-validation on {choice.n:,} examples, {choice.errors:,} of them wrong"
    few = [spoken(row.name) for row in ranked if row.least > choice.n and not row.losses]
    end = f" Too few examples for {', '.join(few)}." if few else ""
    if choice.gain is None and choice.method != "none":
        return f"{lead}: {name}, which mends probabilities of exactly 0.{end}"
    if choice.verdict == "no better":
        return f"{lead}: no calibrator does better than none; leave the model as it is.{end}"
    assert choice.gain is not None
    among = f", corrected for the best of {choice.compared}" if choice.compared > 1 else ""
    numbers = interval_text(*choice.gain, digits=4, sign=True)
    nll = f"NLL {numbers} against none ({level * 100:g} % interval{among})"
    if choice.method != "none":
        return f"{lead}: {name}, {nll}.{end}"
    why = ""
    if choice.errors < FEW_ERRORS:
        many = (
            f"about {math.ceil(FEW_ERRORS * choice.n / choice.errors):,} examples would hold "
            f"{FEW_ERRORS}"
            if choice.errors
            else "none was seen"
        )
        why = (
            f" {choice.errors:,} wrong answer{'s' * (choice.errors != 1)} cannot show what sharper "
            f"or softer probabilities cost ({many})."
        )
    elif choice.needed and choice.needed > choice.n:
        why = f" About {choice.needed:,} examples would show a gain of this size."
    return (
        f"{lead}: cannot tell whether a calibrator helps (best: {name}, {nll}); leave the model as "
        f"it is.{why}{end}"
    )


def refuse_overlap(validation: Outputs, test: Outputs) -> None:
    """Raise LevelheadError where the same examples fit and judge.

    By id, where both have ids: one shared id is enough. Else by content, labels and scores rounded
    to float32, where kind and classes agree. Rows that say little may coincide (saturated
    probabilities, few digits): counted are rows with at least 4 different scores (K < 4: all
    different), and refused are more than 5 shared ones, 0.1 % of the test rows, and 10 times what
    the duplicates within the two sets let expect.
    """
    if validation.ids is not None and test.ids is not None:
        ids = set(validation.ids)
        shared = [name for name in test.ids if name in ids]
        count, which, enough = len(shared), f"the id {shared[0]!r}" if shared else "", 0.0
    elif validation.kind == test.kind and validation.class_names == test.class_names:
        (index_a, a), (index_b, b) = (_telling(outputs) for outputs in (validation, test))
        common = torch.isin(b, a).nonzero()[:, 0]
        repeats = sum((len(x) - len(x.unique())) / max(len(x), 1) for x in (a, b))
        count, which = len(common), ""
        enough = max(5.0, len(test) / 1000, 10 * repeats * len(b))
        if count:
            row = int(index_a[(a == b[common[0]]).nonzero()[0, 0]])
            which = f"row {int(index_b[common[0]])}, row {row} of validation"
    else:
        return
    if count > enough:
        raise LevelheadError(
            f"{count:,} of the {len(test):,} test examples are in validation too, the first is "
            f"{which}; judge on examples that the calibrator was not fitted on"
        )


def _telling(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Positions [M] of the rows that tell examples apart, and their hashes, int64 [M]."""
    draw, k = torch.Generator().manual_seed(0), outputs.scores.shape[1]
    factors = torch.randint(-(2**62), 2**62, (k + 1,), generator=draw) * 2 + 1
    index, hashes, start = [], [], 0
    for scores, labels in outputs.pieces():
        plain = scores.float() + 0.0  # one zero, not two
        ordered = plain.sort(1).values
        different = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
        rows = (different >= min(4, k)).nonzero()[:, 0]
        words = torch.cat([plain.view(torch.int32).long(), labels[:, None]], 1)[rows]
        index.append(rows + start)
        hashes.append((words * factors).sum(1))
        start += len(labels)
    return torch.cat(index), torch.cat(hashes)
