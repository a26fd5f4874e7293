"""Judging Outputs: every metric with its interval, the confusion matrix, the report by class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from levelhead.calibrators import Calibrator, Temperature
from levelhead.errors import LevelheadError
from levelhead.metrics import HEADLINE, METRICS, intervals_of, reason
from levelhead.metrics.counts import class_counts
from levelhead.outputs import Outputs
from levelhead.statistics.binning import BINS
from levelhead.statistics.examples import (
    ANALYTIC,
    FEW_ERRORS,
    Interval,
    effective_size,
    mean_interval,
    normal_quantile,
    share_interval,
)
from levelhead.statistics.measured import Measured

SCHEMA = 1
MOST_BINS = 1000
MOST_GROUPS = 50
"""So many groups are judged one by one."""


def judge(
    outputs: Outputs,
    *,
    calibrator: Calibrator | None = None,
    metrics: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    bins: int = BINS,
) -> dict[str, Any]:
    """Every metric (or those named) with its interval, as docs/design.md lays them out.

    With `calibrator` (fitted elsewhere) the outputs are calibrated first, and `temperature` says
    how. Of outputs with groups, groups are what intervals resample; up to 50 of them are also
    judged one by one, under `groups`, by those named or `HEADLINE`. `bins` is that of the
    binned metrics. Fractions, natural logarithms; what is not finite is None beside a `reason`.
    Raises LevelheadError for bins that cannot be.
    """
    if not 1 <= bins <= MOST_BINS:
        raise LevelheadError(f"bins {bins}: must be from 1 to {MOST_BINS:,}, for example 15")
    if calibrator is not None:
        outputs = calibrator.apply(outputs)
    choices: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed, "bins": bins}
    found, methods = _metrics(outputs, metrics or tuple(METRICS), **choices)
    judged: dict[str, Any] = {
        "schema": SCHEMA,
        "n": len(outputs),
        "classes": outputs.classes,
        "class_names": list(outputs.class_names),
        "interval": {"level": level, "method": methods, "resamples": resamples},
        "metrics": found,
        "temperature": calibrator.summary() if isinstance(calibrator, Temperature) else None,
    }
    if outputs.units is not None:
        judged["interval"]["groups"] = int(outputs.units.max()) + 1
    if outputs.groups is not None and len(set(outputs.groups)) <= MOST_GROUPS:
        names = np.array(outputs.groups)
        judged["groups"] = {}
        for group in np.unique(names).tolist():
            part = outputs.take(np.flatnonzero(names == group))
            part = dataclasses.replace(part, groups=None)  # within a group examples are drawn
            cells = _metrics(part, metrics or HEADLINE, **choices)[0]
            judged["groups"][group] = {"n": len(part), "metrics": cells}
    return judged


def _metrics(
    outputs: Outputs, names: Sequence[str], *, bins: int, **choices: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values with intervals, nulls beside a reason; and how each interval was found."""
    entries: dict[str, Any] = {}
    methods: dict[str, str] = {}
    ready: dict[str, Any] = {}
    for name in names:
        metric = METRICS[name]
        entries[name] = {"value": None, "low": None, "high": None}
        if (why := reason(metric, outputs)) is not None:
            entries[name]["reason"] = why
            continue
        more: dict[str, Any] = {"bins": bins} if metric.binned else {}
        ready[name] = metric.prepare(outputs, **more)
        if len(outputs) > ANALYTIC:  # no bootstrap to share: one at a time, for the memory
            methods |= _fill(entries, ready, outputs, choices)
            ready = {}
    methods |= _fill(entries, ready, outputs, choices)
    return entries, methods


def _fill(
    found: dict[str, Any], ready: dict[str, Any], outputs: Outputs, choices: dict[str, Any]
) -> dict[str, str]:
    """Put values and intervals of what is prepared into `found`; returns how each was made."""
    pairs = [(METRICS[name], prepared) for name, prepared in ready.items()]
    ends = intervals_of(pairs, **choices, outputs=outputs)
    for (name, prepared), end in zip(ready.items(), ends, strict=True):
        value = number(METRICS[name].value(prepared)[name])
        alone = len(outputs) == 1 and end.low == end.high  # one example, resampled, is no interval
        low, high = (None, None) if alone else (number(end.low), number(end.high))
        found[name] = {"value": value, "low": low, "high": high}
        if value is None:
            found[name] |= {"low": None, "high": None, "reason": "the scores are too large for it"}
    return {name: end.method for name, end in zip(ready, ends, strict=True)}


def measured(judgement: Mapping[str, Any]) -> dict[str, Measured]:
    """The metrics of what `judge` gave, as objects."""
    return {
        name: Measured(entry["value"], entry["low"], entry["high"], reason=entry.get("reason"))
        for name, entry in judgement["metrics"].items()
    }


def classification_report(outputs: Outputs) -> dict[str, Any]:
    """Precision, recall, F1 and support of each class, and their macro and weighted means.

    `{"classes": [{"name", "precision", "recall", "f1", "support", "predicted"}], "macro": {…},
    "weighted": {…}}`. Precision of a class never predicted, recall of one without examples are
    undefined: None, and left out of the means (scikit-learn's zero_division=nan).
    """
    hits, support, predicted = (counts.double() for counts in class_counts(outputs))
    parts = {
        "precision": hits / predicted,
        "recall": hits / support,
        "f1": 2 * hits / (support + predicted),
    }
    classes = [
        {"name": name}
        | {part: number(values[k]) for part, values in parts.items()}
        | {"support": int(support[k]), "predicted": int(predicted[k])}
        for k, name in enumerate(outputs.class_names)
    ]
    means = {}
    for kind, weight in (("macro", torch.ones_like(support)), ("weighted", support)):
        means[kind] = {
            part: number((values.nan_to_num(0) * weight).sum() / weight[~values.isnan()].sum())
            for part, values in parts.items()
        }
    return {"classes": classes, **means}


def confidence_gap(
    outputs: Outputs, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, Interval]:
    """Mean confidence minus accuracy (above 0: overconfident), with its interval.

    The bootstrap's interval, widened to the one that a calibrated model of these confidences
    would have: where (nearly) every answer is right, resampling cannot see how many errors to
    expect. With fewer than 10 errors also to Wilson's of the accuracy, for a model that allows no
    error at all.
    """
    rows = outputs.rows
    differences = rows.confidence - rows.correct
    gap = float(differences.mean())
    units = outputs.units
    interval = mean_interval(differences, level, resamples, seed, units)
    errors = rows.confidence * (1 - rows.confidence)
    size = effective_size(differences, units)
    half = normal_quantile(level) * math.sqrt(float(errors.mean()) / size)
    ends = [interval.low, interval.high, gap - half, gap + half]
    right = int(rows.correct.sum())
    if min(right, len(outputs) - right) < FEW_ERRORS:
        shares = share_interval(rows.correct, level, units)
        ends += [float(rows.confidence.mean()) - end for end in shares]
    return gap, Interval(max(min(ends), -1.0), min(max(ends), 1.0), interval.method)


def number(value: Any) -> float | None:
    """A float, or None where it is not finite: JSON has no NaN."""
    return float(value) if math.isfinite(float(value)) else None
