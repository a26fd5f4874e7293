"""The findings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from levelhead.calibrators import Calibrator
from levelhead.decisions.policy import Policy
from levelhead.judging.judge import SCHEMA, classification_report, judge, number
from levelhead.judging.setting import judged_policy, set_policy
from levelhead.judging.words import policy_words, words
from levelhead.outputs import Outputs


def run_findings(
    validation: Outputs,
    test: Outputs,
    calibrator: Calibrator | None,
    seconds: float,
    images_per_second: float,
    counts: Mapping[str, int],
    *,
    policy: Policy | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of a run's findings.json.

    `test_calibrated` is with `calibrator` (temperature scaling, which studies hold smoothing
    against), None without. `calibrator` is what predictions and pages use, that of `policy`
    (default: what `set_policy` gives): its JSON and test judged with it, or none. `policy` is what
    the policy does on test.
    """
    choices: dict[str, Any] = {"resamples": resamples, "seed": seed}
    more = policy_findings(policy or set_policy(validation, seed=seed), test, **choices)
    calibrated = None if calibrator is None else judge(test, calibrator=calibrator, **choices)
    return {
        "schema": SCHEMA,
        "train": dict(counts),
        "validation": judge(validation, **choices),
        "test": judge(test, **choices),
        "test_calibrated": calibrated,
        "calibrator": more["calibrator"],
        "policy": more["policy"],
        "seconds": number(seconds),
        "images_per_second": number(images_per_second),
        "report": classification_report(test),
        "words": more["words"],
    }


def policy_findings(policy: Policy, test: Outputs, **choices: Any) -> dict[str, Any]:
    """What a run's findings say of its policy: `{"calibrator", "policy", "words"}`."""
    chosen, reason = policy.calibrator, policy.calibrator_reason
    after = None if chosen is None else chosen.apply(test)
    decided = judged_policy(policy, test)
    return {
        "calibrator": {
            "method": "none" if chosen is None else chosen.method,
            "reason": reason,
            "calibration": None if chosen is None else chosen.to_json(),
            "test": None if chosen is None else judge(test, calibrator=chosen, **choices),
        },
        "policy": decided,
        "words": [
            *words(test, after=after, calibrator=chosen, reason=reason, **choices),
            *policy_words(policy.answers_promise(), decided),
        ],
    }
