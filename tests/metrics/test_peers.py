"""Metrics against other libraries: where they agree, and who is right where they do not."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from levelhead.machine import import_torchvision
from levelhead.metrics import METRICS, ece
from levelhead.outputs import Outputs
from worlds import sampled

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_torchvision()
    import netcal.metrics as netcal
    import relplot
    from probmetrics.distributions import CategoricalDirac, CategoricalProbs
    from probmetrics.metrics import KolmogorovSmirnovCalibrationMetric, Metrics
    from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError


def value(name: str, outputs: Outputs) -> float:
    return METRICS[name].value(METRICS[name].prepare(outputs))[name]


def quiet(call: Any, *args: Any, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **more)


def top(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    return outputs.rows.confidence.numpy(), outputs.rows.correct.numpy()


def alone(sure: np.ndarray, right: np.ndarray) -> Outputs:
    """Outputs of which the confidence alone is known, right or not."""
    return Outputs.from_confidence(sure, np.zeros(len(sure), int), np.where(right, 0, 1))


@pytest.fixture(scope="module")
def ten() -> Outputs:
    return sampled(3000, 10, 2.0, scale=2.0)


@pytest.fixture(scope="module")
def two() -> Outputs:
    return sampled(3000, 2, 2.0, scale=2.0)


def test_binned_errors_agree(ten, two):
    """Everybody's ECE and MCE would be another number than ours. No confidence is on an edge, where
    torchmetrics and netcal close bins on the left."""
    p, y = ten.probabilities(), ten.labels
    for name, norm in (("ece", "l1"), ("mce", "max")):
        found = value(name, ten)
        torchmetrics = MulticlassCalibrationError(10, n_bins=15, norm=norm)(p, y)
        assert float(torchmetrics) == pytest.approx(found, abs=1e-6)
        other = {"ece": netcal.ECE, "mce": netcal.MCE}[name](15)
        assert quiet(other.measure, p.numpy(), y.numpy()) == pytest.approx(found, abs=1e-9)
    p1, y1 = two.probabilities()[:, 1], two.labels
    other = BinaryCalibrationError(n_bins=15)(p1, y1)
    assert float(other) == pytest.approx(value("binary_ece", two), abs=1e-6)
    assert quiet(netcal.ECE(15).measure, p1.numpy(), y1.numpy()) == pytest.approx(
        value("binary_ece", two)
    )


def test_equal_mass_bins_agree_up_to_the_edge(ten):
    """Adaptive ECE would be cut elsewhere. netcal's edges lie between two examples, by linear
    quantiles, so a bin may hold one example more or less: each can move the error by 1/n."""
    sure, right = top(ten)
    other = quiet(netcal.ECE(15, equal_intervals=False).measure, sure, right)
    assert other == pytest.approx(value("ece_mass", ten), abs=28 / len(sure))
    assert ece.prepare_mass(ten).sum().tolist() == [200.0] * 15


def test_classwise_ece_agrees(ten):
    """The mean over classes would be over others, or of another error."""
    p, y = ten.probabilities().numpy(), ten.labels.numpy()
    each = [quiet(netcal.ECE(15).measure, p[:, k], (y == k) * 1) for k in range(10)]
    assert value("classwise_ece", ten) == pytest.approx(np.mean(each), abs=1e-9)


def test_cumulative_difference_agrees(two):
    """ECCE-MAD would not be the Kolmogorov–Smirnov calibration error (of the second class)."""
    told, p = CategoricalDirac(two.labels, 2), CategoricalProbs(two.probabilities())
    other = KolmogorovSmirnovCalibrationMetric().compute_all(told, p)["kolmogorov-smirnov"]
    second = ece.prepare_binary(two)
    _, difference, _ = ece.cumulative(alone(second.confidence.numpy(), second.correct.numpy()))
    assert float(difference.abs().max()) == pytest.approx(float(other), abs=1e-5)


def test_scores_agree(ten):
    """NLL, Brier score and balanced errors would be other means. Their over- and
    underconfidence are other things: losses of examples, not of bins."""
    names = ["logloss", "brier", "accuracy"]
    found = quiet(Metrics.from_names(names).compute_all_from_labels_logits, ten.labels, ten.scores)
    for name, ours in zip(names, ("nll", "brier", "accuracy"), strict=True):
        assert float(found[name]) == pytest.approx(value(ours, ten), rel=1e-5)


def test_refinement_agrees(ten):
    """The split of the NLL by temperature would not be that of its authors' package."""
    name = "refinement_logloss_ts-mix_all"
    found = quiet(Metrics.from_names([name]).compute_all_from_labels_logits, ten.labels, ten.scores)
    # Their temperature mixes in a little of the uniform distribution.
    assert float(found[name]) == pytest.approx(value("nll_refinement", ten), abs=2e-3)


def exact_smece(sure, right, sigma, points=4001):
    """∫ |Σ (confidence − correct) K(t, confidence)| dt / n, K by its mirror images."""
    t = (np.arange(points) + 0.5) / points
    total = np.zeros(points)
    for shift in range(-2, 3):
        for centre in (2 * shift + sure, 2 * shift - sure):
            kernel = np.exp(-((t[:, None] - centre) ** 2) / (2 * sigma**2))
            total += kernel @ (sure - right) / (sigma * math.sqrt(2 * math.pi))
    return np.abs(total).mean() / len(sure)


@pytest.mark.parametrize("edge", [False, True])
def test_smece_is_the_fixed_point_of_its_definition(edge):
    """Smooth ECE would be that of another kernel, most where confidences pile up at 1."""
    draw = np.random.default_rng(0)
    sure = np.where(draw.random(400) < 0.3, 1.0, draw.beta(3, 1, 400)) if edge else draw.random(400)
    right = draw.random(400) < sure**2
    found = value("smece", alone(sure, right))
    assert exact_smece(sure, right, found) == pytest.approx(found, rel=1e-3)


def test_smece_agrees_away_from_the_ends():
    """Smooth ECE would not be that of its authors. Their bandwidth is a multiple of 1/1024, where
    ours is exact, and so is their error."""
    draw = np.random.default_rng(0)
    sure = 0.3 + 0.4 * draw.random(4000)
    right = draw.random(4000) < sure - 0.03 * np.sin(8 * sure)
    other, width = quiet(relplot.smECE, sure, right * 1.0, return_width=True)
    found = value("smece", alone(sure, right))
    assert abs(other - found) < 1 / 1024
    assert exact_smece(sure, right, found, 501) == pytest.approx(found, rel=1e-3)
    assert exact_smece(sure, right, width, 501) == pytest.approx(other, rel=2e-3)


def test_smece_of_confidences_at_1_is_ours():
    """relplot counts examples whose confidence is exactly 0 or 1 by half: its mirror image leaves
    the end of the grid out. A quarter at 1.0, all overconfident: the smoothed residual has one
    sign, so that its integral is mean confidence − accuracy whatever the bandwidth.
    """
    draw = np.random.default_rng(0)
    sure = np.where(draw.random(4000) < 0.5, 1.0, 0.8 + 0.1 * draw.random(4000))
    right = draw.random(4000) < np.where(sure == 1, 0.98, sure - 0.15)
    found, gap = value("smece", alone(sure, right)), (sure - right).mean()
    assert found == pytest.approx(gap, rel=1e-9)
    assert exact_smece(sure, right, found, 501) == pytest.approx(gap, rel=1e-6)
    assert quiet(relplot.smECE, sure, right * 1.0) > 1.2 * gap


def test_real_network(real_data):
    """The published network's numbers would change unseen. relplot says 0.069, more than any binned
    error: half of the examples at the upper end are missing."""
    from levelhead.outputs.read import read_predictions

    outputs = read_predictions(real_data("predictions") / "resnet56_cifar10_test.npz")
    rows = outputs.rows
    gap = float((rows.confidence - rows.correct).mean())
    assert value("smece", outputs) == pytest.approx(gap, rel=1e-6)
    assert value("ece", outputs) == pytest.approx(0.0464, abs=1e-4)
    other = quiet(relplot.smECE, rows.confidence.numpy(), rows.correct.numpy())
    assert other == pytest.approx(0.069, abs=1e-3)
