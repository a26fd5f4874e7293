"""Findings: what Outputs say about a classifier, as numbers with intervals and as sentences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from levelhead.calibrators import Calibrator, Temperature
from levelhead.errors import LevelheadError
from levelhead.intervals import Interval, interval, mean_interval, normal_quantile, wilson
from levelhead.metrics import METRICS
from levelhead.outputs import Outputs

SCHEMA = 1
FOLDS = 5


def judge(
    outputs: Outputs,
    *,
    calibrator: Calibrator | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Every metric with its interval, in the JSON schema of DESIGN.md.

    With `calibrator` (fitted elsewhere) the outputs are calibrated first, and `temperature` says
    how. Fractions, natural logarithms; what is not finite is None beside a `reason`.
    """
    if calibrator is not None:
        outputs = calibrator.apply(outputs)
    metrics: dict[str, Any] = {}
    methods: dict[str, str] = {}
    for name, metric in METRICS.items():
        reason = metric.undefined(outputs)
        if reason is not None:
            metrics[name] = {"value": None, "low": None, "high": None, "reason": reason}
            continue
        prepared = metric.prepare(outputs)
        found = interval(metric, prepared, level, resamples, seed)
        value = metric.value(prepared)[name]
        metrics[name] = {"value": value, "low": found.low, "high": found.high}
        methods[name] = found.method
    return {
        "schema": SCHEMA,
        "n": len(outputs),
        "classes": outputs.classes,
        "class_names": list(outputs.class_names),
        "interval": {"level": level, "method": methods, "resamples": resamples},
        "metrics": metrics,
        "temperature": None if calibrator is None else calibrator.summary(),
    }


def confusion(outputs: Outputs) -> Tensor:
    """Counts, int64 [K, K]: row the true class, column the prediction."""
    k = outputs.classes
    cells = outputs.labels * k + outputs.predictions()
    return torch.bincount(cells, minlength=k * k).view(k, k)


def classification_report(outputs: Outputs) -> dict[str, Any]:
    """Precision, recall, F1 and support of each class, and their macro and weighted means.

    `{"classes": [{"name", "precision", "recall", "f1", "support", "predicted"}], "macro": {…},
    "weighted": {…}}`. Precision of a class never predicted, recall of one without examples are
    undefined: None, and left out of the means (scikit-learn's zero_division=nan).
    """
    counts = confusion(outputs).double()
    hits, support, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    parts = {
        "precision": hits / predicted,
        "recall": hits / support,
        "f1": 2 * hits / (support + predicted),
    }
    classes = [
        {"name": name}
        | {part: _number(values[k]) for part, values in parts.items()}
        | {"support": int(support[k]), "predicted": int(predicted[k])}
        for k, name in enumerate(outputs.class_names)
    ]
    means = {}
    for kind, weight in (("macro", torch.ones_like(support)), ("weighted", support)):
        means[kind] = {
            part: _number((values.nan_to_num(0) * weight).sum() / weight[~values.isnan()].sum())
            for part, values in parts.items()
        }
    return {"classes": classes, **means}


def confidence_gap(
    outputs: Outputs, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, Interval]:
    """Mean confidence minus accuracy (above 0: overconfident), with its interval.

    The bootstrap's interval, widened to the one that a calibrated model of these confidences
    would have: where (nearly) every answer is right, resampling cannot see how many errors to
    expect.
    """
    rows = outputs.rows
    differences = rows.confidence - rows.correct
    gap = float(differences.mean())
    found = mean_interval(differences, level, resamples, seed)
    errors = rows.confidence * (1 - rows.confidence)
    half = normal_quantile(level) * math.sqrt(float(errors.mean()) / len(outputs))
    return gap, Interval(min(found.low, gap - half), max(found.high, gap + half), found.method)


def audit(
    outputs: Outputs, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Judge one set of predictions, and say what a temperature would do: advice, not applied.

    A judgement with `report`, `words`, and `advice`: before and after (NLL, Brier score, ECE)
    with temperatures cross-fitted, each fifth of the examples by one fitted on the rest.
    `temperature` is the fit on all examples: `metrics` are those of the outputs as given.
    """
    choices: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    before = judge(outputs, **choices)
    report = classification_report(outputs)
    advice: dict[str, Any] = {
        "text": "advice, not applied",
        "method": "temperature",
        "folds": FOLDS,
    }
    calibrator, after = None, None
    try:
        if len(outputs) < 2 * FOLDS:
            raise LevelheadError(f"{len(outputs)} examples are too few to fit and judge in folds")
        where = "these examples: advice, not applied"
        calibrator = Temperature.fit_outputs(outputs, fitted_on=where, level=level)
        after = _cross_fitted(outputs, seed)
    except LevelheadError as error:
        advice |= {"before": None, "after": None, "reason": str(error)}
    else:
        judged = judge(after, **choices)
        for name, found in (("before", before), ("after", judged)):
            advice[name] = {m: found["metrics"][m] for m in ("nll", "brier", "ece")}
    before["temperature"] = None if calibrator is None else calibrator.summary()
    said = words(outputs, after=after, calibrator=calibrator, advice=True, **choices)
    if "reason" in advice:
        said.append(f"No temperature: {advice['reason']}.")
    return before | {"advice": advice, "report": report, "words": said}


def _cross_fitted(outputs: Outputs, seed: int) -> Outputs:
    """Outputs in which each fifth is divided by the temperature fitted on the other four."""
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(seed))
    scores = torch.empty_like(outputs.scores, dtype=torch.float64)
    for fold in order.chunk(FOLDS):
        rest = torch.ones(len(outputs), dtype=torch.bool)
        rest[fold] = False
        fitted = Temperature.fit_outputs(_part(outputs, rest.nonzero().squeeze(1)))
        scores[fold] = fitted.apply(_part(outputs, fold)).scores
    return dataclasses.replace(outputs, scores=scores)


def _part(outputs: Outputs, index: Tensor) -> Outputs:
    """Scores and labels at `index` alone: what a calibrator needs."""
    scores, labels = outputs.scores[index], outputs.labels[index]
    return Outputs(outputs.kind, scores, labels, outputs.class_names)


def words(
    outputs: Outputs,
    *,
    after: Outputs | None = None,
    calibrator: Calibrator | None = None,
    advice: bool = False,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[str]:
    """Sentences a practitioner can act on; `after` are the same outputs, calibrated."""
    n, k = len(outputs), outputs.classes
    what = f"{outputs.split} examples" if outputs.split else "examples"
    right = int(outputs.rows.correct.sum())
    low, high = wilson(right, n, level)
    found = [
        f"Accuracy {_percent(right / n)} ({level * 100:g} % interval {_range(low, high)}): "
        f"{right:,} of {n:,} {what} of {k} classes right."
    ]
    if outputs.look_like_probabilities():
        found.insert(
            0,
            "Careful: these logits lie between 0 and 1 and add up to 1 in every row; if they are "
            "probabilities, the figures below on confidence are wrong: say so and judge again.",
        )
    found.append(_weakest(outputs, level))
    choices: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    found.append(_confidence("As it is", outputs, **choices))
    if calibrator is not None and after is not None:
        found.append(calibrator.sentence())
        lead = "With temperatures fitted on the other folds" if advice else "After temperature"
        found.append(_confidence(lead, after, **choices))
        found.append(_nll_change(outputs, after, **choices))
        if advice:
            found.append(
                "The temperature is advice, not applied: to use it, fit it on examples that "
                "neither trained nor judge the model."
            )
    return [sentence for sentence in found if sentence]


def _weakest(outputs: Outputs, level: float) -> str:
    """The class with the lowest recall, what it is taken for, and whether that is sure."""
    counts = confusion(outputs)
    support = counts.sum(1)
    recall = counts.diagonal() / support
    k = int(recall.nan_to_num(2.0).argmin())
    hits, of = int(counts[k, k]), int(support[k])
    if hits == of:
        return "No class has an error."
    low, high = wilson(hits, of, level)
    wrong = counts[k].clone()
    wrong[k] = 0
    other = int(wrong.argmax())
    names = outputs.class_names
    sentence = (
        f"Weakest class: {names[k]}, {hits:,} of {of:,} found ({_percent(hits / of)}, interval "
        f"{_range(low, high)}), most often taken for {names[other]} ({int(wrong[other]):,})."
    )
    absent = int((support == 0).sum())
    if absent:
        sentence += f" {absent} of {len(names)} classes have no example here."
    return sentence


def _confidence(lead: str, outputs: Outputs, **choices: Any) -> str:
    gap, found = confidence_gap(outputs, **choices)
    sure = float(outputs.rows.confidence.mean())
    numbers = (
        f"mean confidence {_percent(sure)} against accuracy {_percent(sure - gap)}, "
        f"{gap * 100:+.1f} points (interval {found.low * 100:+.1f} to {found.high * 100:+.1f})"
    )
    if found.low <= 0 <= found.high:
        return f"{lead}: cannot tell whether over- or underconfident: {numbers}."
    return f"{lead}: {'over' if gap > 0 else 'under'}confident: {numbers}."


def _nll_change(before: Outputs, after: Outputs, **choices: Any) -> str:
    """Whether the NLL fell, example by example."""
    change = after.rows.nll - before.rows.nll
    if not bool(change.isfinite().all()):
        return ""
    found = mean_interval(change, **choices)
    first, last = float(before.rows.nll.mean()), float(after.rows.nll.mean())
    numbers = (
        f"NLL {first:.4f} to {last:.4f}, a change of {last - first:+.4f} "
        f"(interval {found.low:+.4f} to {found.high:+.4f})"
    )
    if found.low <= 0 <= found.high:
        return f"Cannot tell whether the temperature helps: {numbers}."
    return f"The temperature {'helps' if last < first else 'harms'}: {numbers}."


def run_findings(
    validation: Outputs,
    test: Outputs,
    calibrator: Calibrator | None,
    seconds: float,
    images_per_second: float,
    counts: Mapping[str, int],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of a run's findings.json. Without a calibrator `test_calibrated` is None."""
    after = None if calibrator is None else calibrator.apply(test)
    choices: dict[str, Any] = {"resamples": resamples, "seed": seed}
    calibrated = None if calibrator is None else judge(test, calibrator=calibrator, **choices)
    return {
        "schema": SCHEMA,
        "train": dict(counts),
        "validation": judge(validation, **choices),
        "test": judge(test, **choices),
        "test_calibrated": calibrated,
        "seconds": _number(seconds),
        "images_per_second": _number(images_per_second),
        "report": classification_report(test),
        "words": words(test, after=after, calibrator=calibrator, **choices),
    }


def _number(value: Any) -> float | None:
    """A float, or None where it is not finite: JSON has no NaN."""
    return float(value) if math.isfinite(float(value)) else None


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _range(low: float, high: float) -> str:
    return f"{low * 100:.1f} to {high * 100:.1f} %"
