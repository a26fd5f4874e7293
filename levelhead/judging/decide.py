"""Deciding: thresholds, sets and cheapest choices, set on validation and judged on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from levelhead.decisions import (
    SCORES,
    apply_threshold,
    conformal,
    fit_pnorm,
    halves,
    ood,
    pnorm,
    risk_coverage,
    threshold_for_risk,
)
from levelhead.decisions import costs as pricing
from levelhead.decisions.costs import Costs
from levelhead.decisions.policy import Policy
from levelhead.decisions.threshold import RISKS, Threshold
from levelhead.decisions.threshold import Method as Rule
from levelhead.decisions.unknown import Reference
from levelhead.errors import LevelheadError
from levelhead.files import write_json
from levelhead.judging.calibrate import check_methods, refuse
from levelhead.judging.judge import SCHEMA
from levelhead.judging.setting import (
    Wishes,
    fitted_calibrator,
    judged_policy,
    policy_elsewhere,
    policy_of,
)
from levelhead.judging.words import decision_words, elsewhere_words, policy_words, threshold_words
from levelhead.outputs import Outputs

METHODS: tuple[conformal.Method, ...] = ("lac", "aps", "raps")


@dataclass(frozen=True)
class Decided:
    """What was decided, and the certainties and errors on test that figures draw."""

    findings: dict[str, Any]
    policy: Policy
    certainty: dict[str, Tensor]  # by score, float64 [N]
    errors: Tensor  # float64 [N], 1.0 where the answer is wrong

    @property
    def words(self) -> tuple[str, ...]:
        """The thresholds, sets and prices, as sentences."""
        return tuple(self.findings["words"])

    @property
    def threshold(self) -> Threshold:
        """Of the score that ranks best, for the risk that was asked for."""
        return Threshold.from_json(self.findings["threshold"]["set"])

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json and the policy into a folder."""
        self.policy.save(folder)
        write_json(Path(folder) / "findings.json", self.findings)


def decide(
    validation: Outputs,
    test: Outputs,
    *,
    risk: float = 0.01,
    alpha: float = 0.1,
    methods: Sequence[str] | None = None,
    costs: Costs | None = None,
    abstain_price: float | None = None,
    outside: Outputs | None = None,
    rule: Rule = "ltt",
    level: float = 0.95,
    seed: int = 0,
    wishes: Wishes | None = None,
    reference: Reference | None = None,
    model: str = "",
) -> Decided:
    """When to answer, what set to give, what to choose; what each is worth on test.

    Validation is halved: A fits the calibrator and the exponent of the p-norm score, B sets the
    thresholds (by `rule`, learn then test or SGR: the risk holds with probability `level`) and the
    conformal quantiles (`alpha`), so that both guarantees hold. Findings: `{"schema", "n",
    "calibrator", "scores", "threshold", "raw_threshold", "thresholds", "conformal", "sets",
    "costs", "outside", "words"}`; a block that cannot be is None. Thresholds are of the calibrated
    confidence; where a calibrator is used `raw_threshold` is that of the model's own. `sets` is the
    conformal method whose sets are smallest on half A. `policy` is what `policy_of` sets for
    `wishes` (default: the risk, alpha and costs given here), with `reference` and `model` as there,
    judged on test. Raises LevelheadError as `calibrate` does.
    """
    check_methods(methods)
    refuse(validation, test)
    first, second = halves(validation, seed)
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "n": {"fit": len(first), "set": len(second), "test": len(test)},
        "calibrator": None, "scores": {}, "conformal": None, "costs": None, "outside": None,
        "sets": None,
    }  # fmt: skip
    raw = {"fit": first, "set": second, "test": test}
    ready = raw
    calibrator, why = None, ""
    if validation.kind != "confidence":
        calibrator, why = fitted_calibrator(first, methods, seed, level)
        method = "none" if calibrator is None else calibrator.method
        findings["calibrator"] = {"method": method, "reason": why}
        if calibrator is not None:
            findings["calibrator"]["calibration"] = calibrator.to_json()
            ready = {name: calibrator.apply(part) for name, part in raw.items()}
    best, confidence = "msp", "calibrated" if ready is not raw else "raw"
    scores = {n: SCORES[n] for n in ("msp", "margin", "entropy") if not SCORES[n].missing(second)}
    if validation.kind == "logits":
        fitted_norm = fit_pnorm(first)
        findings["pnorm"] = fitted_norm.as_json()
        if fitted_norm.p is not None:
            best = fitted_norm.score.name
        scores[pnorm(fitted_norm.best).name] = pnorm(fitted_norm.best)
    for name, score in scores.items():
        # The p-norm is that of the logits as they came: a calibrator may bend them.
        parts = raw if name.startswith("pnorm") else ready
        findings["scores"][name] = _score(
            name, score, parts["set"], parts["test"], risk, rule, level
        )
    findings["score"], findings["confidence"] = best, confidence
    findings["threshold"] = findings["scores"][best]
    # Who runs the model elsewhere, without its policy, may have the raw confidence alone.
    findings["raw_threshold"] = None
    if best == "msp" and ready is not raw:
        msp = SCORES["msp"]
        own = _score("msp", msp, raw["set"], raw["test"], risk, rule, level)
        findings["raw_threshold"] = own
    parts = raw if best.startswith("pnorm") else ready
    certainty, errors = scores[best].of(parts["set"]), 1 - parts["set"].rows.correct
    findings["thresholds"] = []
    for wanted in sorted({*RISKS, risk}):
        chosen = threshold_for_risk(
            certainty, errors, wanted, confidence=level, method=rule, score=best,
            units=second.units,
        )  # fmt: skip
        row = {"set": chosen.as_json(), "test": apply_threshold(chosen, parts["test"], level)}
        findings["thresholds"].append(row)
    if validation.kind != "confidence":
        findings["conformal"], sizes = {}, {}
        for way in METHODS:
            fitted_sets = conformal.fit(ready["set"], alpha, way, seed)
            worth = conformal.evaluate(fitted_sets, ready["test"], level)
            promise = {
                "guarantee": fitted_sets.guarantee(),
                "expected": fitted_sets.coverage_range(level),
            }
            findings["conformal"][way] = {"fitted": fitted_sets.to_json(), "test": worth} | promise
            sizes[way] = float(conformal.sets(fitted_sets, ready["fit"]).sum(1).double().mean())
        findings["sets"] = min(sizes, key=sizes.__getitem__)
    if costs is not None:
        if validation.kind == "confidence":
            raise LevelheadError("costs: need the probabilities of all classes, not one confidence")
        findings["costs"] = pricing.evaluate(ready["test"], costs, abstain_price, level=level)
    if outside is not None:
        findings["outside"] = {"n": len(outside)} | ood.separate(test, outside, level=level)
    notes = dict.fromkeys((*validation.notes, *test.notes))
    wishes = wishes or Wishes(risk=risk, costs=costs, abstain_price=abstain_price, alpha=alpha)
    policy = policy_of(
        first, second, wishes, calibrator, reason=why, reference=reference, level=level, rule=rule,
        model=model,
    )  # fmt: skip
    judged = judged_policy(policy, test, level)
    elsewhere = None
    if outside is not None:
        elsewhere = policy_elsewhere(policy, outside, level)
        flag = policy.unknown
        if flag is not None and not (flag.missing(test) or flag.missing(outside)):
            apart = ood.separation(flag.of(test), flag.of(outside), level=level)
            findings["outside"][flag.score] = apart
    findings["policy"] = policy.to_json() | {"test": judged, "outside": elsewhere}
    # Where "none of mine" goes before, the policy's threshold is of fewer examples: one number.
    alone = policy.unknown is not None and bool(policy.thresholds)
    sentences = decision_words(findings, risk, alpha, thresholds=not alone)
    one = policy.thresholds[0] if alone and len(policy.thresholds) == 1 else None
    if one is not None and one.value is not None and one.method != "coverage":
        whose = "" if calibrator is None else "calibrated "
        sentences.append(threshold_words({"thresholds": [one.as_json()]}, one.risk_wanted, whose))
    sentences += policy_words(policy.promises[0], judged)
    if elsewhere is not None:
        sentences.append(elsewhere_words(elsewhere))
    findings["words"] = [*notes, *sentences, *policy.promises[1:]]
    sure = {
        n: s.of(raw["test"] if n.startswith("pnorm") else ready["test"]) for n, s in scores.items()
    }
    return Decided(findings, policy, sure, 1 - ready["test"].rows.correct)


def _score(
    name: str,
    score: Any,
    setting: Outputs,
    test: Outputs,
    risk: float,
    rule: Rule,
    level: float,
) -> dict[str, Any]:
    """One score: its areas on test, and its threshold for `risk`, set on one half and tested."""
    curve = risk_coverage(score.of(test), 1 - test.rows.correct)
    certainty, errors = score.of(setting), 1 - setting.rows.correct
    threshold = threshold_for_risk(
        certainty, errors, risk, confidence=level, method=rule, score=name, units=setting.units
    )
    return {
        "title": score.title,
        "aurc": curve.aurc,
        "eaurc": curve.eaurc,
        "set": threshold.as_json(),
        "test": apply_threshold(threshold, test, level),
    }
