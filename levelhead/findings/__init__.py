"""Findings: what Outputs say about a classifier, as numbers with intervals and as sentences.

`judge` measures, `audit` adds advice on one set of predictions, `calibrate` fits on one set and
judges on another, `decide` sets thresholds and tells what they are worth.
"""

from levelhead.findings.audit import Audited, audit, audited, cross_fitted
from levelhead.findings.calibration import Calibrated, calibrate
from levelhead.findings.decision import Decided, decide
from levelhead.findings.judge import (
    SCHEMA,
    classification_report,
    confidence_gap,
    confusion,
    judge,
)
from levelhead.findings.run import run_findings
from levelhead.findings.words import words

__all__ = [
    "SCHEMA",
    "Audited",
    "Calibrated",
    "Decided",
    "audit",
    "audited",
    "calibrate",
    "classification_report",
    "confidence_gap",
    "confusion",
    "cross_fitted",
    "decide",
    "judge",
    "run_findings",
    "words",
]
