"""Metrics: one idea a file, and the table that feeds judgements, flags and docs."""

from levelhead.metrics import accuracy, aurc, auroc, brier, classwise, ece, nll, sharpness, smece
from levelhead.metrics.metric import Metric, influence_of, interval_of, intervals_of, reason

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(accuracy.accuracy, accuracy.balanced_accuracy, accuracy.top5),
        *(nll.nll, nll.nll_refinement, nll.nll_calibration),
        *(brier.brier, brier.brier_reliability, brier.brier_resolution, brier.brier_uncertainty),
        *(ece.ece, ece.ece_mass, ece.mce, classwise.classwise_ece, ece.toplabel_ece),
        *(ece.binary_ece, ece.ece_debiased, smece.smece, ece.overconfidence, ece.underconfidence),
        *(sharpness.sharpness, sharpness.entropy, aurc.aurc, aurc.eaurc),
        *(auroc.auroc_errors, auroc.fpr95_errors),
        *(accuracy.zero_one, accuracy.multilabel_accuracy, accuracy.superclass_accuracy),
        *(nll.soft_nll, classwise.human_calibration),
    )
}

HEADLINE = ("accuracy", "top5", "nll", "brier", "ece", "smece", "aurc")
"""The few that stand first; a table of settings has the first five."""

__all__ = ["HEADLINE", "METRICS", "Metric", "influence_of", "interval_of", "intervals_of", "reason"]
