"""Findings: what Outputs say about a classifier, as numbers with intervals and as sentences.

`judge` measures, `audit` adds advice on one set of predictions, `calibrate` fits on one set and
judges on another, `decide` sets thresholds and tells what they are worth, `versus` compares two
models on the same examples.
"""

from levelhead.judging.audit import Audited, audit, cross_fitted
from levelhead.judging.calibrate import Calibrated, calibrate
from levelhead.judging.decide import Decided, decide
from levelhead.judging.findings import run_findings
from levelhead.judging.judge import SCHEMA, classification_report, confidence_gap, judge
from levelhead.judging.setting import Wishes, judged_policy, set_policy
from levelhead.judging.versus import Versus, versus
from levelhead.judging.words import words

__all__ = [
    "SCHEMA",
    "Audited",
    "Calibrated",
    "Decided",
    "Versus",
    "Wishes",
    "audit",
    "calibrate",
    "classification_report",
    "confidence_gap",
    "cross_fitted",
    "decide",
    "judge",
    "judged_policy",
    "run_findings",
    "set_policy",
    "versus",
    "words",
]
