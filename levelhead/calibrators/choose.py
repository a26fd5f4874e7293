"""Which calibrator: cross-validated on validation, chosen by a rule that is said aloud."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from levelhead.calibrators import CALIBRATORS
from levelhead.calibrators.calibrator import check_classes
from levelhead.calibrators.matrix import folds as deal
from levelhead.errors import LevelheadError, nearest
from levelhead.outputs import Outputs
from levelhead.outputs.validate import first
from levelhead.statistics.binning import bin_confidence
from levelhead.statistics.examples import mean_interval

Range = tuple[float, float, float]
"""A value with the ends of its interval."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A calibrator judged on examples it was not fitted on. Without `losses`, `reason` says why."""

    name: str  # in CALIBRATORS, or "none"
    parameters: int | None  # None: the examples decide how many
    least: int  # examples that the rule of `choose` asks for
    reason: str = ""
    nll: Range | None = None  # nats
    over_temperature: Range | None = None  # paired difference of the NLL: below 0 is better
    over_none: Range | None = None
    ece: float | None = None  # 15 bins, plug-in
    brier: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0  # of all fits
    losses: Tensor | None = field(default=None, repr=False)  # NLL, float64 [N]


def rank(
    outputs: Outputs,
    methods: Iterable[str] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
) -> list[Ranked]:
    """Calibrators cross-validated on outputs of any split, the best held-out NLL first.

    Each is fitted on all folds but one (stratified, drawn with `seed`) and judged on that one.
    `methods` are names in CALIBRATORS, by default all for so many classes, fitted only where there
    are enough examples (`Calibrator.least`); "none" and "temperature" are always there. Intervals
    are over examples, with the fits as they are. Raises LevelheadError for unknown names, kind
    "confidence", and folds below 2 or above N.
    """
    check_classes(outputs, "rank")
    n, k = len(outputs), outputs.classes
    fit = [name for name, entry in CALIBRATORS.items() if entry.only in (None, k)]
    candidates = fit if methods is None else methods
    names = list(dict.fromkeys(("none", "temperature", *candidates)))
    if unknown := [name for name in names[1:] if name not in CALIBRATORS]:
        raise LevelheadError(f"calibrator {unknown[0]!r}: {nearest(unknown[0], list(CALIBRATORS))}")
    if not 2 <= folds <= n:
        raise LevelheadError(f"folds {folds}: must be from 2 to {n:,}, the number of examples")
    bare = Outputs(outputs.kind, outputs.scores, outputs.labels, outputs.class_names)
    fold, rows = deal(outputs.labels, folds, seed), {}
    for name in names:
        entry = CALIBRATORS.get(name)
        row = Ranked(name, entry.parameters(k) if entry else 0, entry.least(k) if entry else 0)
        few = methods is None and n < row.least
        reason = f"needs {row.least:,} examples; there are {n:,}"
        rows[name] = replace(row, reason=reason) if few else _judged(row, bare, fold)
    bases = rows["none"].losses, rows["temperature"].losses
    rows_with_intervals = [_intervals(row, *bases, level) for row in rows.values()]
    return sorted(rows_with_intervals, key=_nll)


def _judged(row: Ranked, outputs: Outputs, fold: Tensor) -> Ranked:
    """The row with held-out NLLs and figures, or with the reason why there are none."""
    begin, entry = time.perf_counter(), CALIBRATORS.get(row.name)
    losses = torch.empty(4, len(fold), dtype=torch.float64)
    try:
        for f in range(int(fold.max()) + 1):
            part, rest = (fold == f).nonzero()[:, 0], (fold != f).nonzero()[:, 0]
            after = outputs.take(part)
            if entry is not None:
                after = entry.fit_outputs(outputs.take(rest)).apply(after)
            judged = after.rows
            losses[:, part] = torch.stack(
                [judged.nll, judged.brier, judged.confidence, judged.correct]
            )
    except LevelheadError as error:
        return replace(row, reason=str(error))
    if (i := first(~losses[0].isfinite())) is not None:
        return replace(row, reason=f"row {i}: infinite NLL, the label's probability is exactly 0")
    return replace(
        row,
        losses=losses[0],
        ece=bin_confidence(losses[2], losses[3]).error(),
        brier=float(losses[1].mean()),
        accuracy=float(losses[3].mean()),
        seconds=time.perf_counter() - begin,
    )


def _intervals(
    row: Ranked, none: Tensor | None, temperature: Tensor | None, level: float
) -> Ranked:
    def over(base: Tensor | None) -> Range | None:
        if row.losses is None or base is None or base is row.losses:
            return None
        return _range(row.losses - base, level)

    nll = None if row.losses is None else _range(row.losses, level)
    return replace(row, nll=nll, over_none=over(none), over_temperature=over(temperature))


def _range(values: Tensor, level: float) -> Range:
    interval = mean_interval(values, level)
    return float(values.mean()), interval.low, interval.high


def _nll(row: Ranked) -> float:
    return row.nll[0] if row.nll else math.inf


def choose(ranked: Sequence[Ranked], n: int, level: float = 0.95) -> tuple[str, str]:
    """The name of the calibrator for n examples that `rank` ranked, and why, for people.

    1. A calibrator is considered from `least` examples on: 10 for each parameter; for isotonic
       regression and histogram binning 1,000, and 100 a class.
    2. Temperature is taken where its held-out NLL is below that without, also where this gain
       cannot be told from 0 (then said): it is one number and changes no prediction. Else none.
    3. Another is taken instead only where the interval of its paired gain excludes 0; of several,
       the one with the least `least` that cannot be told from the best of them.

    Raises LevelheadError where nothing could be ranked.
    """
    rows = [row for row in sorted(ranked, key=_nll) if row.losses is not None and n >= row.least]
    if not rows:
        raise LevelheadError(f"no calibrator could be fitted: {ranked[0].reason}")

    def better(row: Ranked, other: Ranked) -> bool:
        assert row.losses is not None
        assert other.losses is not None
        return _range(row.losses - other.losses, level)[2] < 0

    base = next((row for row in rows if row.name in ("none", "temperature")), rows[0])
    proven = [r for r in rows[: rows.index(base)] if better(r, base)]
    equal = [row for row in proven if not better(proven[0], row)]
    picked = min(equal, key=lambda row: (row.least, _nll(row)), default=base)
    assert picked.nll is not None
    mean, low, high = picked.nll
    reason = (
        f"By cross-validation on {n:,} examples: {picked.name.replace('_', ' ')}, NLL {mean:.4g} "
        f"(interval {low:.4g} to {high:.4g})"
    )
    none = next((row for row in rows if row.name == "none"), None)
    if none is not None and picked is not none:
        reason += f" against {_nll(none):.4g} without"
        if picked.name == "temperature" and not better(picked, none):
            reason += ", a gain that cannot be told from 0, but it changes no prediction"
    reason += "."
    if proven:
        reason += f" It is better than {base.name} ({_nll(base):.4g}) beyond doubt."
    elif len(rows) > 2:
        reason += " Nothing more complex is better beyond doubt."
    few = [row.name.replace("_", " ") for row in ranked if row.least > n]
    return picked.name, reason + (f" Too few examples for {', '.join(few)}." if few else "")


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
