"""Auditing one set of predictions: what they are worth, and advice on what would fix them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from levelhead.calibrators import CALIBRATORS
from levelhead.calibrators.choose import Ranked
from levelhead.decisions import SCORES, ood, risk_coverage, threshold_for_risk
from levelhead.decisions.plain import mean, plain
from levelhead.decisions.threshold import RISKS
from levelhead.errors import LevelheadError
from levelhead.files import write_json
from levelhead.judging.calibrate import check_methods, ranked_and_chosen, ranking
from levelhead.judging.judge import classification_report, judge, measured
from levelhead.judging.label_noise import label_noise
from levelhead.judging.words import about, doubt, nll_change, noise_words, threshold_words, verdict
from levelhead.metrics import HEADLINE, ece
from levelhead.outputs import Outputs
from levelhead.statistics.binning import BINS
from levelhead.statistics.calibration_error import (
    absolute_error,
    consistency,
    examples_needed_for_calibration,
)
from levelhead.statistics.calibration_tests import kuiper, spiegelhalter
from levelhead.statistics.folds import random_folds
from levelhead.statistics.measured import Measured

RANKED = 20_000
"""Calibrators are ranked on so many examples at most: more would not change the order."""
CALIBRATED, SCORES_CALIBRATED = 200_000, 1 << 26
"""Of more examples or scores (half a GiB in float64) those ranked show what calibration does."""


@dataclass(frozen=True, eq=False)
class Audited:
    """What an audit says of some outputs; `after` are the same, calibrated fold by fold.

    Of more than 200,000 examples or 67 million scores `after` are 20,000 of them, drawn at random.
    """

    outputs: Outputs
    findings: dict[str, Any]
    after: Outputs | None

    @property
    def words(self) -> tuple[str, ...]:
        """The verdict and the advice, as sentences."""
        return tuple(self.findings["words"])

    @property
    def metrics(self) -> dict[str, Measured]:
        """Every metric of the outputs as given, with its interval."""
        return measured(self.findings)

    @property
    def method(self) -> str | None:
        """The calibrator that is advised; "none" to leave all as it is, None if none can be."""
        method: str | None = self.findings["advice"]["method"]
        return method

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json into a folder."""
        write_json(Path(folder) / "findings.json", self.findings)

    def __getitem__(self, key: str) -> Any:
        """A part of findings, as when `audit` gave a dict: deprecated, take `findings[key]`."""
        warnings.warn(
            f"audit(…)[{key!r}]: audit gives an object now; take .findings[{key!r}], .words or "
            ".metrics",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.findings[key]


def audit(
    outputs: Outputs,
    *,
    risk: float = 0.01,
    methods: Sequence[str] | None = None,
    outside: Outputs | None = None,
    noise: float | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    bins: int = BINS,
) -> Audited:
    """Judge one set of predictions, and say what would fix them: advice, not applied.

    A judgement (`judge`) with more: `calibrated`, how likely a calibrated model is to look like
    this (p-value), and how many examples would tell; `advice`, what each calibrator does to
    examples it was not fitted on (`methods`: default all), and the metrics before and after the
    one to choose; `selective`, the scores of certainty and the thresholds that keep each risk,
    `risk` among them, with a guarantee; `outside`, where given, how far other examples are told
    apart; `label_noise`, where a share `noise` of the labels may be false, what that leaves open;
    `report` by class; `words`. `temperature` is the fit on all examples: `metrics` are
    those of the outputs as given. Raises LevelheadError for methods, risks and bins that cannot be.
    """
    check_methods(methods)
    thresholds = selective(outputs, sorted({*RISKS, risk}))
    choices: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed, "bins": bins}
    findings = judge(outputs, **choices)
    findings["bins"] = bins
    findings["calibrated"] = _could_be_calibrated(outputs, level, resamples, seed, bins)
    advice, before, after = _advice(outputs, methods, **choices)
    findings["temperature"] = advice.pop("temperature")
    if after is not None:
        few = findings if before is outputs else judge(before, metrics=HEADLINE, **choices)
        advice["before"] = {name: few["metrics"][name] for name in HEADLINE}
        advice["after"] = judge(after, metrics=HEADLINE, **choices)["metrics"]
    findings["advice"] = advice
    findings["selective"] = thresholds
    if outside is not None:
        findings["outside"] = {"n": len(outside)} | ood.separate(outputs, outside, level=level)
    if noise is not None:
        findings["label_noise"] = label_noise(outputs, noise, level)
    findings["report"] = classification_report(outputs)
    choices.pop("bins")
    findings["words"] = _sentences(outputs, before, after, findings, risk, **choices)
    return Audited(outputs, findings, after)


def _sentences(
    outputs: Outputs,
    before: Outputs,
    after: Outputs | None,
    findings: dict[str, Any],
    risk: float,
    **choices: Any,
) -> list[str]:
    """What an audit found, as sentences: doubt and verdict first, then advice and thresholds."""
    advice = findings["advice"]
    sentences = [
        doubt(outputs),
        verdict(outputs, findings["calibrated"], sides=findings["metrics"], **choices),
    ]
    if after is not None:
        some = "" if before is outputs else f"On {len(before):,} examples drawn at random: "
        change = nll_change(before, after, advice["method"], advice=True, **choices)
        sentences.append(some + change if change else "")
    raw = "model's own " if after is not None else ""
    sentences += [*advice["words"], threshold_words(findings["selective"], risk, raw)]
    sentences += about(outputs, choices["level"])
    if "label_noise" in findings:
        sentences.append(noise_words(findings["label_noise"]))
    return [sentence for sentence in sentences if sentence]


def _could_be_calibrated(
    outputs: Outputs, level: float, resamples: int, seed: int, bins: int
) -> dict[str, Any]:
    """The consistency test of the ECE and what it would need to tell; two tests without bins."""
    cells, error = ece.cells(ece.prepare(outputs, bins), outputs.units), absolute_error
    rows = outputs.rows
    return {
        "test": "consistency resampling of the ECE (Bröcker & Smith 2007)",
        "resamples": resamples,
        "ece": float(error(cells.residual, cells.count)),
        "p_value": consistency(cells, error, resamples, seed),
        "needed": examples_needed_for_calibration(cells, error, level, seed=seed),
        "spiegelhalter": plain(spiegelhalter(rows.confidence, rows.correct, outputs.units)),
        "kuiper": plain(kuiper(rows.confidence, rows.correct, outputs.units)),
    }


def _advice(
    outputs: Outputs, methods: Sequence[str] | None, **choices: Any
) -> tuple[dict[str, Any], Outputs, Outputs | None]:
    """The ranking of calibrators, the choice; outputs before, and calibrated fold by fold."""
    advice: dict[str, Any] = {
        "text": "advice, not applied", "method": None, "n": len(outputs), "ranking": [],
        "before": None, "after": None, "temperature": None, "mends": None, "words": [],
    }  # fmt: skip
    few = before = outputs
    try:
        if len(outputs) > RANKED:
            draw = torch.Generator().manual_seed(choices["seed"])
            few = outputs.take(torch.randperm(len(outputs), generator=draw)[:RANKED].sort().values)
            advice["n"] = RANKED
            whole = len(outputs) <= CALIBRATED and outputs.scores.numel() <= SCORES_CALIBRATED
            before = outputs if whole else few
        where = "these examples: advice, not applied"
        fitted = CALIBRATORS["temperature"].fit_outputs(outputs, fitted_on=where)
        advice["temperature"] = fitted.summary()
        ranked, choice, sentence = ranked_and_chosen(
            few, methods, choices["seed"], choices["level"]
        )
        method = choice.method
        advice["ranking"] = ranking(ranked)
        advice["method"] = method
        advice["mends"] = _mends(ranked, choice.best, few, choices["level"])
        advice["words"] = [sentence]
        if method == "none":
            return advice, before, None
        after = cross_fitted(before, method, seed=choices["seed"])
        if method == "temperature":
            advice["words"].append(fitted.sentence())
        advice["words"].append(
            "That is advice, not applied: fit it on examples that neither trained nor judge the "
            "model (levelhead calibrate VALIDATION --apply TEST)."
        )
        return advice, before, after
    except LevelheadError as error:
        advice["reason"] = str(error)
        advice["words"] = [f"No calibrator: {error}."]
        return advice, before, None


def _mends(
    ranked: Sequence[Ranked], method: str, outputs: Outputs, level: float
) -> dict[str, Any] | None:
    """How much NLL the best calibrator takes away, fitted on other folds; by class too.

    Nats, above 0 where it helps. By class of the label: a calibrator that helps on average may harm
    a class.
    """
    rows = {row.name: row for row in ranked}
    none, best = rows.get("none"), rows.get(method)
    if none is None or best is None or none.losses is None or best.losses is None or best is none:
        return None
    gain = none.losses - best.losses
    by_class: list[dict[str, Any]] = []
    for k, name in enumerate(outputs.class_names):
        here = outputs.labels == k
        if not here.any():
            continue
        own = None if outputs.units is None else outputs.units[here].unique(return_inverse=True)[1]
        row: dict[str, Any] = {"name": name, "n": int(here.sum())}
        by_class.append(row | (mean(gain[here], level, own) if row["n"] > 1 else {}))
    return {"method": method, **mean(gain, level, outputs.units), "by_class": by_class}


def cross_fitted(outputs: Outputs, method: str, folds: int = 5, seed: int = 0) -> Outputs:
    """Each fold of the examples calibrated by `method` fitted on the other folds."""
    fold = random_folds(len(outputs), folds, seed, outputs.units)
    bare = outputs.bare()
    scores = torch.empty_like(outputs.scores, dtype=torch.float64)
    kind = outputs.kind
    for f in range(folds):
        part, rest = ((fold == f).nonzero().squeeze(1), (fold != f).nonzero().squeeze(1))
        after = CALIBRATORS[method].fit_outputs(bare.take(rest)).apply(bare.take(part))
        scores[part], kind = after.scores, after.kind
    return dataclasses.replace(outputs, kind=kind, scores=scores)


def selective(outputs: Outputs, risks: Sequence[float]) -> dict[str, Any]:
    """Risk–coverage areas of every score, and thresholds of the top probability for `risks`.

    The thresholds are set on these examples, which fitted nothing: the guarantee is for examples
    to come. A score that the outputs cannot give is None with a reason.
    """
    errors = 1 - outputs.rows.correct
    scores: dict[str, Any] = {}
    for name, score in SCORES.items():
        if reason := score.missing(outputs):
            scores[name] = {"aurc": None, "eaurc": None, "reason": reason}
        else:
            curve = risk_coverage(score.of(outputs), errors)
            scores[name] = {"aurc": curve.aurc, "eaurc": curve.eaurc}
    certainty = SCORES["msp"].of(outputs)
    units = outputs.units
    kept = [threshold_for_risk(certainty, errors, risk, units=units).as_json() for risk in risks]
    return {"score": "msp", "scores": scores, "thresholds": kept}
