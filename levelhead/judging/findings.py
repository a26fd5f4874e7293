"""The findings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from levelhead.calibrators import Calibrator
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
        "seconds": number(seconds),
        "images_per_second": number(images_per_second),
        "report": classification_report(test),
        "words": words(test, after=after, calibrator=calibrator, **choices),
    }
