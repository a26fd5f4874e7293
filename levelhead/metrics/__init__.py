"""Metrics: one file each, and the table that feeds judgements, flags and docs."""

from levelhead.metrics.accuracy import accuracy, top5
from levelhead.metrics.brier import brier
from levelhead.metrics.ece import ece
from levelhead.metrics.metric import Metric
from levelhead.metrics.nll import nll

METRICS: dict[str, Metric] = {m.name: m for m in (accuracy, top5, nll, brier, ece)}

__all__ = ["METRICS", "Metric"]
