"""A policy set anew is kept with its run, whose findings and page then say what it gives."""

from __future__ import annotations

from typing import Any

from levelhead.decisions.policy import Policy, read_reference
from levelhead.files import locked, reading, sha256, write_json
from levelhead.judging.findings import policy_findings
from levelhead.runs import MAKE_ANEW, Run


def basis(run: Run) -> dict[str, Any]:
    """What a policy for a run rests on besides its outputs: `reference` and `model`."""
    weights = run.folder / "model.safetensors"
    return {"reference": read_reference(run.folder), "model": sha256(weights)}


def keep_policy(run: Run, policy: Policy) -> None:
    """Write policy.json, and findings that agree with it; report.html is written by `report`.

    Raises LevelheadError where another process works on the run.
    """
    with locked(run.folder, "run"), reading(run.folder / "findings.json", MAKE_ANEW):
        findings: dict[str, Any] = dict(run.findings)
        resamples = int(findings["test"]["interval"]["resamples"])
        more = policy_findings(policy, run.outputs("test"), resamples=resamples, seed=0)
        policy.save(run.folder)
        write_json(run.folder / "findings.json", findings | more)
