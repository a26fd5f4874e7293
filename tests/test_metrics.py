"""Metrics and binning against torchmetrics, scikit-learn and NumPy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from levelhead.binning import bin_confidence, bin_edges, bin_index
from levelhead.errors import LevelheadError
from levelhead.metrics import METRICS
from levelhead.models.borrowed import import_torchvision
from levelhead.outputs import Outputs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_torchvision()  # torchmetrics imports it, and fails beside a torch of another build
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError


def value(name: str, outputs: Outputs, weights: torch.Tensor | None = None) -> float:
    metric = METRICS[name]
    return metric.value(metric.prepare(outputs), weights)[name]


def sample(n: int, k: int, seed: int = 0, scale: float = 2.0) -> Outputs:
    """Overconfident logits: labels drawn from the softmax of half of them."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(n, k)) * scale
    y = (z / 2 + draw.gumbel(size=(n, k))).argmax(1)
    return Outputs.from_logits(z, y)


@pytest.mark.parametrize(("n", "k"), [(500, 2), (500, 10), (300, 1000)])
def test_agree_with_scikit_learn_and_torchmetrics(n, k):
    """A metric of the table would not be the one whose name it bears."""
    outputs = sample(n, k)
    p, y, z = outputs.probabilities(), outputs.labels, outputs.scores
    names = list(range(k))
    assert value("accuracy", outputs) == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert value("nll", outputs) == pytest.approx(sk.log_loss(y, p, labels=names))
    assert value("nll", outputs) == pytest.approx(
        torch.nn.functional.cross_entropy(z.double(), y).item()
    )
    brier = sk.brier_score_loss(y, p, labels=names, scale_by_half=False)
    assert value("brier", outputs) == pytest.approx(brier)
    ece = MulticlassCalibrationError(k, n_bins=15, norm="l1")(p, y).item()
    assert value("ece", outputs) == pytest.approx(ece, abs=1e-6)
    assert value("accuracy", outputs) == pytest.approx(
        MulticlassAccuracy(k, average="micro")(p, y).item()
    )
    if k > 5:
        top5 = sk.top_k_accuracy_score(y, p, k=5, labels=names)
        assert value("top5", outputs) == pytest.approx(top5)
        other = MulticlassAccuracy(k, average="micro", top_k=5)(p, y).item()
        assert value("top5", outputs) == pytest.approx(other)


def test_top5_is_no_number_of_five_classes():
    """A top-5 accuracy of 100 % would be reported where it says nothing."""
    assert METRICS["top5"].undefined(sample(10, 5)) == "any answer is among the top 5 of 5 classes"
    assert METRICS["top5"].undefined(sample(10, 6)) is None


def test_ties_go_to_the_first_class():
    """Accuracy would depend on how a library breaks ties."""
    outputs = Outputs.from_logits(np.zeros((6, 6)), range(6))
    assert outputs.predictions().tolist() == [0] * 6
    assert value("accuracy", outputs) == pytest.approx(1 / 6)
    assert value("top5", outputs) == pytest.approx(5 / 6)


def test_saturated_probabilities():
    """Exact 0 and 1 would crash the audit, or give NaN."""
    outputs = Outputs.from_probabilities([[1.0, 0], [1, 0], [0, 1]], [0, 1, 1])
    assert value("nll", outputs) == math.inf
    reason = METRICS["nll"].undefined(outputs)
    assert reason is not None
    assert "exactly 0 in 1 of 3 rows, first in row 1" in reason
    assert value("brier", outputs) == pytest.approx(2 / 3)
    assert value("ece", outputs) == pytest.approx(1 / 3)


def test_confidence_of_exactly_1_belongs_to_the_last_bin():
    """torchmetrics gives 1.0 a sixteenth bin, where its gap cannot cancel against the others.

    The bins are (0, 1/15], …, (14/15, 1], so 1.0 and 0.97 share one: NumPy's digitize and
    scikit-learn say so too, and torchmetrics is wrong by its own 15 bins.
    """
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.97, 0.03], [0.97, 0.03]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 0])
    sure, right = p.amax(1).numpy(), np.array([1, 0, 1, 1.0])
    index = np.digitize(sure, np.arange(16) / 15, right=True)
    expected = sum(abs((sure - right)[index == b].sum()) for b in set(index)) / 4
    assert value("ece", Outputs.from_probabilities(p, y)) == pytest.approx(expected)
    true, shown = calibration_curve(right, sure, n_bins=15)
    assert abs(true[-1] - shown[-1]) == pytest.approx(expected)
    assert len(true) == 1
    other = MulticlassCalibrationError(2, n_bins=15, norm="l1")(p, y).item()
    assert other > expected + 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_are_right_closed(dtype):
    """A confidence exactly at k/15 would fall into the bin above."""
    edges = bin_edges().to(dtype)
    assert bin_index(edges).tolist() == [0, *range(15)]
    digitized = np.digitize(edges.numpy(), edges.numpy()[1:-1], right=True)
    assert bin_index(edges).tolist() == digitized.tolist()
    above = torch.nextafter(edges[:-1], torch.ones(15, dtype=dtype))
    assert bin_index(above).tolist() == list(range(15))
    assert bin_index(torch.nextafter(edges[1:], torch.zeros(15, dtype=dtype))).tolist() == list(
        range(15)
    )


def test_bins_agree_with_scikit_learn():
    """The reliability diagram would show other bars than everyone's."""
    draw = np.random.default_rng(0)
    sure = np.concatenate([draw.beta(5, 1, 500), np.arange(16) / 15])
    right = (draw.random(516) < sure).astype(float)
    bins = bin_confidence(torch.tensor(sure), torch.tensor(right))
    true, shown = calibration_curve(right, sure, n_bins=15)
    there = bins.count > 0
    np.testing.assert_allclose(bins.accuracy[there], true)
    np.testing.assert_allclose(bins.confidence[there], shown)
    assert bins.error() == pytest.approx(value_of_bins(bins))


def value_of_bins(bins) -> float:
    n = float(bins.count.sum())
    return sum(
        float(c) / n * abs(float(p) - float(a))
        for c, p, a in zip(bins.count, bins.confidence, bins.accuracy, strict=True)
        if c > 0
    )


def test_confidence_outside_0_and_1_is_refused():
    """Logits would be binned as if they were confidences."""
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(LevelheadError, match="row 1: the confidence"):
            bin_confidence(torch.tensor([0.5, bad]), torch.ones(2))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), k=st.sampled_from([2, 6, 30]))
def test_order_and_duplication_change_nothing(seed, k):
    """A metric would depend on the order of the file, or on how often it was appended."""
    outputs = sample(60, k, seed)
    order = np.random.default_rng(seed).permutation(60)
    twice = outputs.take(np.concatenate([order, order]))
    for name in METRICS:
        expected = value(name, outputs)
        assert value(name, outputs.take(order)) == pytest.approx(expected, abs=1e-12)
        assert value(name, twice) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_weights_mean_repetition(seed):
    """The bootstrap's re-weighting would not be re-sampling."""
    outputs = sample(40, 7, seed)
    times = np.random.default_rng(seed).integers(0, 4, 40)
    times[0] += 1
    repeated = outputs.take(np.repeat(np.arange(40), times))
    weights = torch.tensor(times, dtype=torch.float64)
    for name in METRICS:
        found = value(name, outputs, weights)
        assert found == pytest.approx(value(name, repeated), abs=1e-12)
    rows = outputs.rows
    bins = bin_confidence(rows.confidence, rows.correct, weights)
    assert bins.error() == pytest.approx(value("ece", repeated))
    assert bins.count.sum() == times.sum()


def test_the_table_says_what_each_metric_is():
    """Flags, docs and reports would lack a title, a direction or a source."""
    assert list(METRICS) == ["accuracy", "top5", "nll", "brier", "ece"]
    for name, metric in METRICS.items():
        assert (metric.name, bool(metric.title), bool(metric.source)) == (name, True, True)
        assert metric.direction == ("up" if name in ("accuracy", "top5") else "down")
