"""Decisions: when to answer, what set to give, what to choose, and what is not known at all."""

from levelhead.decisions import conformal, costs, ood
from levelhead.decisions.ood import separate, separation
from levelhead.decisions.scores import SCORES, PNorm, Score, find_score, fit_pnorm, pnorm
from levelhead.decisions.selective import (
    RiskCoverage,
    halves,
    risk_band,
    risk_coverage,
)
from levelhead.decisions.threshold import Threshold, apply_threshold, threshold_for_risk
from levelhead.statistics.examples import clopper_pearson

__all__ = [
    "SCORES",
    "PNorm",
    "RiskCoverage",
    "Score",
    "Threshold",
    "apply_threshold",
    "clopper_pearson",
    "conformal",
    "costs",
    "find_score",
    "fit_pnorm",
    "halves",
    "ood",
    "pnorm",
    "risk_band",
    "risk_coverage",
    "separate",
    "separation",
    "threshold_for_risk",
]
