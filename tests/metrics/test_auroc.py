"""Does the confidence tell errors apart: against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from levelhead.metrics import METRICS, intervals_of, reason
from levelhead.metrics.auroc import prepare
from levelhead.outputs import Outputs


def some(n=400, seed=0):
    """A classifier that is right more often where it is sure, with ties."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4)).round(1)
    labels = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs.from_logits(z, labels)


def test_auroc_is_scikit_learns():
    """Ties or signs would be counted another way."""
    outputs = some()
    sure, right = -outputs.rows.log_rest.numpy(), outputs.rows.correct.numpy()
    value = METRICS["auroc_errors"].value(prepare(outputs))["auroc_errors"]
    assert value == pytest.approx(roc_auc_score(right, sure), abs=1e-12)
    weights = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (2, 400))).double()
    drawn = METRICS["auroc_errors"].value(prepare(outputs), weights)["auroc_errors"]
    wanted = [roc_auc_score(right, sure, sample_weight=w) for w in weights.numpy()]
    np.testing.assert_allclose(drawn.numpy(), wanted, atol=1e-12)


def test_errors_kept_with_95_percent():
    """The share would be read off at another threshold."""
    outputs = some(seed=3)
    sure, right = -outputs.rows.log_rest.numpy(), outputs.rows.correct.numpy()
    fpr, tpr, _ = roc_curve(right, sure, drop_intermediate=False)
    value = METRICS["fpr95_errors"].value(prepare(outputs))["fpr95_errors"]
    assert value == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


def test_intervals_hold_the_value_and_need_both_kinds():
    """An AUROC of answers that are all right would be a number."""
    outputs = some(120)
    for name in ("auroc_errors", "fpr95_errors"):
        metric = METRICS[name]
        (interval,) = intervals_of([(metric, metric.prepare(outputs))], outputs=outputs)
        value = metric.value(metric.prepare(outputs))[name]
        assert 0 <= interval.low < value < interval.high <= 1
        right = Outputs.from_logits(np.eye(4), [0, 1, 2, 3])
        assert "right" in reason(metric, right)
