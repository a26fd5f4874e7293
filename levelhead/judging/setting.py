"""Setting a policy: the calibrator on half A of validation, thresholds and sets on half B."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators import CALIBRATORS, Calibrator
from levelhead.decisions import conformal, fit_pnorm, halves
from levelhead.decisions.costs import Costs
from levelhead.decisions.plain import HAIR, missing, share
from levelhead.decisions.policy import KINDS, Policy
from levelhead.decisions.scores import Score, find_score
from levelhead.decisions.threshold import Method as Rule
from levelhead.decisions.threshold import Threshold, risk_of, threshold_for_risk
from levelhead.decisions.unknown import Reference, fit_unknown
from levelhead.delimited import rows
from levelhead.errors import LevelheadError, nearest
from levelhead.judging.calibrate import ranked_and_chosen
from levelhead.labels import spelling
from levelhead.machine import version
from levelhead.outputs import Outputs
from levelhead.statistics.examples import effective_size, upper_bound

UNASKED = (0.01, 0.05, 0.1)
"""Risks tried, from the strictest, where nobody asked for one; each at its share of 1 − level."""


@dataclass(frozen=True)
class Wishes:
    """What is asked of a policy; all shares. Without risk, coverage and costs: the strictest of
    `UNASKED` that can be promised, and every answer without a promise where none can."""

    risk: float | None = None
    risk_by_class: Mapping[str, float] | None = None  # others: `risk`, or 0.01
    coverage: float | None = None
    costs: Costs | None = None
    abstain_price: float | None = None
    alpha: float = 0.1  # how often sets may miss
    unknown: float | None = 0.05  # false alarms; None: never "none of mine"


def set_policy(
    validation: Outputs,
    wishes: Wishes | None = None,
    *,
    methods: Sequence[str] | None = None,
    reference: Reference | None = None,
    level: float = 0.95,
    seed: int = 0,
    rule: Rule = "ltt",
    model: str = "",
) -> Policy:
    """The policy for `wishes`, from validation alone, which is halved as `decide` does.

    `reference`: training features that "none of mine" measures distances from. Raises
    LevelheadError for wishes that cannot be.
    """
    wishes = wishes or Wishes()
    units = validation.units
    if len(validation) < 2 or (units is not None and int(units.max()) == 0):
        _refuse(wishes, validation, level)
        return unset(validation, level, model)
    first, second = halves(validation, seed)
    calibrator, reason = fitted_calibrator(first, methods, seed, level)
    return policy_of(
        first, second, wishes, calibrator, reason=reason, reference=reference,
        level=level, rule=rule, model=model,
    )  # fmt: skip


def unset(validation: Outputs, level: float, model: str) -> Policy:
    """The policy where one example, or none, leaves nothing to set."""
    what = "example" if validation.units is None else "group"
    why = f"one {what} of validation sets nothing"
    return Policy(
        validation.class_names, None, "msp", (), None, None, None, level, 0, 0,
        f"No calibrator: {why}.", f"{why[0].upper()}{why[1:]}.", model,
        version(),
    )  # fmt: skip


def fitted_calibrator(
    outputs: Outputs, methods: Sequence[str] | None = None, seed: int = 0, level: float = 0.95
) -> tuple[Calibrator | None, str]:
    """The calibrator that is shown to help, fitted on half of validation, or None; and why."""
    if outputs.kind == "confidence":
        return None, "No calibrator: the confidence alone is known."
    try:
        _, choice, reason = ranked_and_chosen(outputs, methods, seed, level)
        if choice.method == "none":
            return None, reason
        fitted = CALIBRATORS[choice.method].fit_outputs(outputs, fitted_on="half of validation")
    except LevelheadError as error:  # too few, or a zero that none fixes: decide without
        return None, f"No calibrator: {error}."
    return fitted, reason


def policy_of(
    first: Outputs,
    second: Outputs,
    wishes: Wishes,
    calibrator: Calibrator | None,
    *,
    reason: str = "",
    reference: Reference | None = None,
    level: float = 0.95,
    rule: Rule = "ltt",
    model: str = "",
) -> Policy:
    """The policy from half A (`first`, which fitted `calibrator`) and half B (`second`) alone.

    "None of mine" takes its quantile from half A, where no label is looked at, so that thresholds
    may be set on those of half B that pass it. A threshold for each class (`risk_by_class`) is
    set on the examples predicted as that class, each at 1 − (1 − level) / K: together they hold
    with `level` (Bonferroni). Raises LevelheadError for wishes that cannot be.
    """
    _refuse(wishes, first, level)
    names = first.class_names
    score = find_score("msp")
    if first.kind == "logits" and (better := fit_pnorm(first)).p is not None:
        score = better.score
    unknown, note = None, ""
    if wishes.unknown is not None:
        unknown = fit_unknown(first, wishes.unknown, reference)
        if unknown is None:
            note = "None of mine: never said, it needs logits."
    passed = second
    if unknown is not None and bool((known := ~unknown.flags(second)).any()):
        passed = second.take(known.nonzero()[:, 0])
    costs = wishes.costs
    if costs is not None and wishes.abstain_price is not None:
        costs = replace(costs, abstain=torch.full_like(costs.matrix[0], wishes.abstain_price))
    thresholds: tuple[Threshold, ...] = ()
    if costs is None:
        certainty, best, errors = _certain(passed, calibrator, score)
        about: dict[str, Any] = {"method": rule, "score": score.name}
        if wishes.risk_by_class is not None:
            other = 0.01 if wishes.risk is None else wishes.risk
            thresholds = tuple(
                _of_class(
                    certainty, errors, best == k, passed.units,
                    wishes.risk_by_class.get(name, other), 1 - (1 - level) / len(names), about,
                )
                for k, name in enumerate(names)
            )  # fmt: skip
        elif wishes.coverage is not None:
            thresholds = (_for_coverage(
                certainty, errors, wishes.coverage, len(second), level, score.name, passed.units
            ),)  # fmt: skip
        elif wishes.risk is not None:
            thresholds = (threshold_for_risk(
                certainty, errors, wishes.risk, confidence=level, units=passed.units, **about
            ),)  # fmt: skip
        else:
            each = 1 - (1 - level) / len(UNASKED)
            for risk in UNASKED:
                one = threshold_for_risk(
                    certainty, errors, risk, confidence=each, units=passed.units, **about
                )
                if one.value is not None:
                    thresholds = (one,)
                    break
            else:
                note = (
                    f"{note} No risk up to {UNASKED[-1] * 100:g} % can be promised: {one.reason}."
                )
        thresholds = tuple(_a_hair_above(one, certainty) for one in thresholds)
    ready = second if calibrator is None else calibrator.apply(second)
    sets = None if second.kind == "confidence" else conformal.fit(ready, wishes.alpha, "lac")
    if sets is not None:
        sets = replace(sets, quantile=tuple(q + HAIR * max(1.0, q) for q in sets.quantile))
    return Policy(
        names, calibrator, score.name, thresholds, sets, costs, unknown, level, len(first),
        len(passed), reason, note.strip(), model, version(),
    )  # fmt: skip


def _a_hair_above(one: Threshold, certainty: Tensor) -> Threshold:
    """The threshold, half-way to the least certainty it keeps, or `HAIR` up, if that is less."""
    if one.value is None or math.isinf(one.value):
        return one
    kept = certainty[certainty >= one.value]
    room = float(kept.min()) - one.value if len(kept) else math.inf
    return replace(one, value=one.value + min(room / 2, HAIR * max(1.0, abs(one.value))))


def _refuse(wishes: Wishes, outputs: Outputs, level: float) -> None:
    """Raise LevelheadError for wishes that cannot be."""
    named = [
        flag
        for flag, value in (
            ("--risk-by-class", wishes.risk_by_class),
            ("--coverage", wishes.coverage),
            ("--costs", wishes.costs),
        )
        if value is not None
    ]
    if len(named) > 1:
        raise LevelheadError(f"{' and '.join(named)}: give one of them, they decide differently")
    if wishes.coverage is not None and not 0 < wishes.coverage <= 1:
        raise LevelheadError(f"coverage {wishes.coverage}: must be above 0 and at most 1")
    if not 0 < level < 1:
        raise LevelheadError(f"level {level}: must be between 0 and 1, for example 0.95")
    if wishes.costs is not None and outputs.kind == "confidence":
        raise LevelheadError("costs: need the probabilities of all classes, not one confidence")


def _certain(
    outputs: Outputs, calibrator: Calibrator | None, score: Score
) -> tuple[Tensor, Tensor, Tensor]:
    """Certainty, prediction and error of each example, as `Policy.answers` has them."""
    ready = outputs if calibrator is None else calibrator.apply(outputs)
    certainty = score.of(outputs if score.name.startswith("pnorm") else ready)
    return certainty, ready.predictions(), 1 - ready.rows.correct


def _of_class(
    certainty: Tensor,
    errors: Tensor,
    here: Tensor,
    units: Tensor | None,
    risk: float,
    level: float,
    about: dict[str, Any],
) -> Threshold:
    """The threshold of those predicted as one class."""
    if not bool(here.any()):
        return _nothing(risk, level, "none of the examples is predicted as it", str(about["score"]))
    own = None if units is None else units[here].unique(return_inverse=True)[1]
    return threshold_for_risk(
        certainty[here], errors[here], risk, confidence=level, units=own, **about
    )


def _nothing(risk: float, level: float, reason: str, score: str) -> Threshold:
    return Threshold(
        None, risk, 0.0, None, 0, 0, "ltt", round(1 - level, 12), None, 0, score, reason
    )


def _for_coverage(
    certainty: Tensor,
    errors: Tensor,
    coverage: float,
    n: int,
    level: float,
    score: str,
    units: Tensor | None,
) -> Threshold:
    """The threshold that the most certain share `coverage` of all n reaches, and its risk.

    The rank is fixed before an error is seen: the errors above it are binomial.
    """
    order = certainty.argsort(descending=True)
    kept = min(max(1, round(coverage * n)), len(certainty))
    cut = float(certainty[order[kept - 1]])
    keep = certainty >= cut
    kept, wrong = int(keep.sum()), int(errors[keep].sum())
    design = 1.0
    if units is not None:
        own = units[keep].unique(return_inverse=True)[1]
        design = kept / effective_size(errors[keep], own)
    bound = float(upper_bound(np.array(wrong / design), np.array(kept / design), 1 - level))
    return Threshold(
        -math.inf if kept == len(certainty) else _below(cut, certainty), bound, kept / n, bound,
        kept, wrong,
        "coverage", round(1 - level, 12),
        f"About {kept / n * 100:.4g} % of images are answered; with probability at least "
        f"{level * 100:.4g} % over the draw of these {n:,} examples, at most {bound * 100:.3g} % "
        "of the answers are wrong, for examples drawn as these were.", n, score,
    )  # fmt: skip


def _below(cut: float, certainty: Tensor) -> float:
    """A limit that keeps `cut`, but none below it: half-way, or a hair."""
    under = certainty[certainty < cut]
    room = cut - float(under.max()) if len(under) else math.inf
    return cut - min(room / 2, HAIR * max(1.0, abs(cut)))


def judged_policy(policy: Policy, test: Outputs, level: float = 0.95) -> dict[str, Any]:
    """What a policy does on labelled examples that did not set it.

    `{"n", "shares": {class, set, ask, none}, "risk": {value, low, high}, "errors", "by_class":
    [{"name", "answered", "wrong", "risk"}], "sets": {"coverage", "size", "when_shown"},
    "false_alarms": {value, low, high}}`; by class: of the answers that name it.
    """
    if policy.unknown is not None and policy.unknown.missing(test):
        policy = policy.without_unknown("")
    answers = policy.answers(test)
    counts = torch.bincount(answers.kind, minlength=len(KINDS)).tolist()
    answered = answers.kind == 0
    wrong = (answers.choice != test.labels) & answered
    sets = None
    if (inside := answers.sets) is not None:
        covered = inside.gather(1, test.labels[:, None])[:, 0]
        shown = answers.kind == 1
        sets = {
            "coverage": share(covered, level, test.units),
            "size": float(inside.sum(1).double().mean()),
            "when_shown": share(covered[shown], level) if bool(shown.any()) else missing("no set"),
        }
    by_class = []
    for k, name in enumerate(test.class_names):
        here = answered & (answers.choice == k)
        row = {"name": name, "answered": int(here.sum()), "wrong": int(wrong[here].sum())}
        by_class.append(row | {"risk": _risk(wrong, here, test.units, level)})
    return {
        "n": len(test),
        "shares": {name: n / len(test) for name, n in zip(KINDS, counts, strict=True)},
        "errors": int(wrong.sum()),
        "risk": _risk(wrong, answered, test.units, level),
        "by_class": by_class,
        "sets": sets,
        "false_alarms": missing("never said")
        if policy.unknown is None
        else share(answers.kind == 3, level, test.units),
    }


def policy_elsewhere(
    policy: Policy, outside: Outputs, level: float = 0.95
) -> dict[str, Any] | None:
    """What a policy does with examples of none of the classes: `{"n", "shares", "none"}`.

    They may be named otherwise; None where there are more or fewer classes.
    """
    if outside.classes != len(policy.class_names):
        return None
    outside = replace(outside, class_names=policy.class_names)
    if policy.unknown is not None and policy.unknown.missing(outside):
        policy = policy.without_unknown("")
    kind = policy.answers(outside).kind
    counts = torch.bincount(kind, minlength=len(KINDS)).tolist()
    return {
        "n": len(outside),
        "shares": {name: n / len(outside) for name, n in zip(KINDS, counts, strict=True)},
        "none": missing("never said") if policy.unknown is None else share(kind == 3, level),
    }


def _risk(wrong: Tensor, answered: Tensor, units: Tensor | None, level: float) -> dict[str, Any]:
    """The risk of the answers that were given."""
    return risk_of(wrong[answered].double(), None if units is None else units[answered], level)


def read_risks(path: str | Path, class_names: tuple[str, ...]) -> dict[str, float]:
    """Read a CSV of the lines `class,risk` (a heading is free). Raises LevelheadError by line."""
    risks: dict[str, float] = {}
    for number, cells in rows(Path(path)):
        name, value = spelling(cells[0]), cells[1].strip() if len(cells) == 2 else ""
        try:
            risk = float(value)
        except ValueError:
            risk = math.nan
        if number == 1 and name not in class_names and math.isnan(risk):
            continue
        where = f"{path}: line {number}"
        if name not in class_names:
            raise LevelheadError(
                f"{where}: {name!r} is no class; {nearest(name, list(class_names))}"
            )
        if name in risks:
            raise LevelheadError(f"{where}: {name!r} occurs twice; remove one")
        if not 0 < risk < 1:
            raise LevelheadError(f"{where}: {value!r} is no risk; give a number such as 0.01")
        risks[name] = risk
    if not risks:
        raise LevelheadError(f"{path}: holds no risk; give lines such as {class_names[0]},0.01")
    return risks
