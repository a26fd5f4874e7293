"""Calibrating: ranked and fitted on one set of predictions, applied to and judged on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.calibrators import CALIBRATORS, Calibrator
from levelhead.calibrators.calibrator import check_classes, fitting_split
from levelhead.calibrators.choose import (
    Choice,
    Ranked,
    choice_words,
    choose,
    rank,
    refuse_overlap,
)
from levelhead.errors import LevelheadError, nearest
from levelhead.files import write_json
from levelhead.judging.judge import SCHEMA, judge, measured
from levelhead.judging.words import gap_words, nll_change
from levelhead.outputs import Outputs
from levelhead.statistics.measured import Measured

FEW = 10
"""Fewer examples are not dealt into folds: a calibrator would be judged on one or none."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibrator, the test outputs before and after it, and what that did."""

    calibrator: Calibrator | None  # None where leaving all as it is was the best
    test: Outputs
    outputs: Outputs  # test, calibrated
    findings: dict[str, Any]

    @property
    def words(self) -> tuple[str, ...]:
        """What it did, and why this one, as sentences."""
        return tuple(self.findings["words"])

    @property
    def metrics(self) -> dict[str, Measured]:
        """The metrics of test, calibrated: the same as `after`."""
        return self.after

    @property
    def before(self) -> dict[str, Measured]:
        """The metrics of test as it was."""
        return measured(self.findings["before"])

    @property
    def after(self) -> dict[str, Measured]:
        """The metrics of test, calibrated."""
        return measured(self.findings["after"])

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json, calibration.json (if any) and calibrated.safetensors."""
        folder = Path(folder)
        if self.calibrator is not None:
            write_json(folder / "calibration.json", self.calibrator.to_json())
        self.outputs.save(folder / "calibrated.safetensors")
        write_json(folder / "findings.json", self.findings)


def calibrate(
    validation: Outputs,
    test: Outputs,
    methods: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Calibrated:
    """Rank `methods` (default: all) on validation, fit the best there, judge it on test.

    Findings: `{"schema", "method", "reason", "n_validation", "ranking", "before", "after",
    "calibration", "words"}`, before and after as `judge` gives them. The ranking is by NLL of
    held-out folds of validation, the choice by the rule of `calibrators.choose` (none, where no
    gain is shown). Raises
    LevelheadError where test shares examples with validation, has other classes, or where
    `validation` is a split that trained or judges the model.
    """
    check_methods(methods)
    refuse(validation, test)
    check_classes(validation, "calibrate")
    where = validation.split or "validation"
    ranked, choice, reason = ranked_and_chosen(validation, methods, seed, level)
    method = choice.method
    choices: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    calibrator, after = None, test
    sentences = list(dict.fromkeys((*validation.notes, *test.notes)))
    if method != "none":
        calibrator = CALIBRATORS[method].fit_outputs(validation, fitted_on=where)
        after = calibrator.apply(test)
        sentences.append(nll_change(test, after, method, **choices))
    before = judge(test, **choices)
    sentences += [reason, gap_words("Before", test, **choices)]
    if calibrator is not None:
        sentences += [gap_words("After", after, **choices), calibrator.sentence()]
    return Calibrated(
        calibrator,
        test,
        after,
        {
            "schema": SCHEMA,
            "method": method,
            "reason": reason,
            "n_validation": len(validation),
            "ranking": ranking(ranked),
            "before": before,
            "after": judge(test, calibrator=calibrator, **choices) if calibrator else before,
            "calibration": None if calibrator is None else calibrator.to_json(),
            "words": [sentence for sentence in sentences if sentence],
        },
    )


def check_methods(methods: Sequence[str] | None) -> None:
    """Raise LevelheadError for a calibrator that does not exist."""
    for name in methods or ():
        if name not in (*CALIBRATORS, "none"):
            raise LevelheadError(f"calibrator {name!r}: {nearest(name, list(CALIBRATORS))}")


def refuse(validation: Outputs, test: Outputs) -> None:
    """Raise LevelheadError where the one cannot be fitted on and the other judge it."""
    fitting_split(validation)
    if (kinds := [validation.kind, test.kind]) != ["confidence"] * 2:
        if "confidence" in kinds:
            raise LevelheadError(
                f"validation holds {kinds[0]}, test holds {kinds[1]}; give both the same way"
            )
        check_classes(test, "test", validation.class_names)
    refuse_overlap(validation, test)


def ranked_and_chosen(
    outputs: Outputs, methods: Sequence[str] | None, seed: int, level: float
) -> tuple[list[Ranked], Choice, str]:
    """`rank` and `choose`: the rows, the choice, and why. Raises LevelheadError as they do.

    By default only temperature is tried where a class has no example: whatever treats classes
    apart would learn that it never occurs.
    """
    n, k = len(outputs), outputs.classes
    check_classes(outputs, "calibration")
    if n < FEW:
        raise LevelheadError(
            f"{n} example{'s are' if n > 1 else ' is'} too few to fit a calibrator and judge it on "
            f"others; give at least {FEW}"
        )
    absent = k - len(outputs.labels.unique()) if methods is None else 0
    if absent:
        methods = ("temperature",)
    ranked = rank(outputs, methods, seed=seed, level=level)
    choice = choose(ranked, outputs, level)
    words = choice_words(choice, ranked, level)
    if absent:
        words += f" Only temperature was tried: {absent:,} of {k:,} classes have no example."
    return ranked, choice, words


def ranking(rows: Sequence[Ranked]) -> list[dict[str, Any]]:
    """What `rank` found, as JSON: a row a method, the best first; null beside a `reason`."""

    def ends(found: tuple[float, float, float] | None) -> dict[str, float] | None:
        return None if found is None else dict(zip(("value", "low", "high"), found, strict=True))

    return [
        {
            "method": row.name,
            "parameters": row.parameters,
            "nll": ends(row.nll),
            "against_temperature": ends(row.over_temperature)
            if row.name != "temperature"
            else None,
            "against_none": ends(row.over_none),
            "ece": row.ece,
            "brier": row.brier,
            "accuracy": row.accuracy,
            "seconds": row.seconds,
            "reason": row.reason or None,
        }
        for row in rows
    ]
