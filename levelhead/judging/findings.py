"""The findings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from levelhead.calibrators import CALIBRATORS, Calibrator
from levelhead.errors import LevelheadError
from levelhead.judging.calibrate import ranked_and_chosen
from levelhead.judging.judge import SCHEMA, classification_report, judge, number
from levelhead.judging.words import words
from levelhead.outputs import Outputs


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
    """The content of a run's findings.json.

    `test_calibrated` is with `calibrator` (temperature scaling, which studies hold smoothing
    against), None without. `calibrator` is what predictions and pages use: the choice by
    cross-validation on validation, its JSON and test judged with it, or none.
    """
    choices: dict[str, Any] = {"resamples": resamples, "seed": seed}
    chosen, reason = chosen_calibrator(validation, seed)
    after = None if chosen is None else chosen.apply(test)
    judged = None if chosen is None else judge(test, calibrator=chosen, **choices)
    calibrated = None if calibrator is None else judge(test, calibrator=calibrator, **choices)
    return {
        "schema": SCHEMA,
        "train": dict(counts),
        "validation": judge(validation, **choices),
        "test": judge(test, **choices),
        "test_calibrated": calibrated,
        "calibrator": {
            "method": "none" if chosen is None else chosen.method,
            "reason": reason,
            "calibration": None if chosen is None else chosen.to_json(),
            "test": judged,
        },
        "seconds": number(seconds),
        "images_per_second": number(images_per_second),
        "report": classification_report(test),
        "words": words(test, after=after, calibrator=chosen, reason=reason, **choices),
    }


def chosen_calibrator(validation: Outputs, seed: int = 0) -> tuple[Calibrator | None, str]:
    """The calibrator that is shown to help, fitted on validation, or None; and why."""
    try:
        _, choice, reason = ranked_and_chosen(validation, None, seed, 0.95)
    except LevelheadError as error:
        return None, f"No calibrator: {error}."
    if choice.method == "none":
        return None, reason
    fitted = CALIBRATORS[choice.method].fit_outputs(validation, fitted_on="validation")
    return fitted, reason
