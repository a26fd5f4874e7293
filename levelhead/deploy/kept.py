"""A policy set anew is kept with its run, whose findings and page then say what it gives."""

from __future__ import annotations

from typing import Any

from levelhead.decisions.policy import Policy
from levelhead.files import locked, reading, write_json
from levelhead.judging import judge, judged_policy
from levelhead.judging.words import policy_words, words
from levelhead.runs import MAKE_ANEW, Run


def keep_policy(run: Run, policy: Policy) -> None:
    """Write policy.json, and findings that agree with it; report.html is written by `report`.

    Raises LevelheadError where another process works on the run.
    """
    with locked(run.folder, "run"), reading(run.folder / "findings.json", MAKE_ANEW):
        findings: dict[str, Any] = dict(run.findings)
        test, interval = run.outputs("test"), findings["test"]["interval"]
        choices: dict[str, Any] = {"resamples": int(interval["resamples"]), "seed": 0}
        chosen, judged = policy.calibrator, judged_policy(policy, test, policy.level)
        stored = None if chosen is None else chosen.to_json()
        if findings.get("calibrator", {}).get("calibration") != stored:
            findings["calibrator"] = {
                "method": "none" if chosen is None else chosen.method,
                "reason": policy.calibrator_reason,
                "calibration": stored,
                "test": None if chosen is None else judge(test, calibrator=chosen, **choices),
            }
        after = None if chosen is None else chosen.apply(test)
        reason = policy.calibrator_reason
        findings["policy"] = judged
        findings["words"] = [
            *words(test, after=after, calibrator=chosen, reason=reason, **choices),
            *policy_words(policy.answers_promise(), judged),
        ]
        policy.save(run.folder)
        write_json(run.folder / "findings.json", findings)
