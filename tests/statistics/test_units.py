"""Examples that belong together: units are what is counted, resampled and kept whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.outputs import Outputs
from levelhead.statistics.calibration_error import absolute_error, consistency, unit_noise
from levelhead.statistics.examples import (
    Interval,
    by_unit,
    effective_size,
    example_variance,
    mean_interval,
    share_interval,
    small_sample,
    weights,
    wilson,
    with_unseen_errors,
)
from levelhead.statistics.folds import folds, halves, random_folds

few = settings(max_examples=30, deadline=None)


def grouped(sizes, seed=0):
    """Units of these sizes, in mixed order, and values that units share."""
    rng = np.random.default_rng(seed)
    units = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = rng.normal(size=len(sizes))[units] + 0.3 * rng.normal(size=len(units))
    return torch.from_numpy(units), torch.from_numpy(values)


@few
@given(st.lists(st.integers(1, 6), min_size=2, max_size=20), st.integers(0, 99))
def test_the_variance_of_a_mean_is_the_cluster_robust_one(sizes, seed):
    """Frames of one video would be counted as so many videos."""
    units, values = grouped(sizes, seed)
    n, mean, g = len(values), float(values.mean()), len(sizes)
    sums = [float((values[units == u] - mean).sum()) for u in range(g)]
    wanted = sum(s * s for s in sums) / n**2 * g / (g - 1)
    assert example_variance(values, units) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    assert float(by_unit(values, units).mean()) == pytest.approx(mean, abs=1e-9)


def test_units_of_one_example_change_nothing():
    """Groups that group nothing would widen every interval."""
    values = torch.arange(30.0).double()
    alone = torch.arange(30)
    assert effective_size(values, alone) == pytest.approx(30)
    one, other = mean_interval(values), mean_interval(values, units=alone)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    outputs = Outputs.from_logits(np.eye(4), [0, 1, 2, 3], groups=["a", "b", "", ""])
    assert outputs.units is None


def test_copies_count_once():
    """A set said five times over would be five times as sure."""
    rng = np.random.default_rng(0)
    hits = torch.from_numpy((rng.random(60) < 0.8).astype(float))
    units = torch.arange(60).repeat_interleave(5)
    five = hits.repeat_interleave(5)
    assert effective_size(five, units) == pytest.approx(60, rel=1e-6)
    ends = share_interval(five, 0.95, units)
    assert ends == pytest.approx(wilson(float(hits.sum()), 60, small_sample(0.95, 60)), abs=1e-9)
    block = next(weights(300, 4, 0, units))
    assert block.shape == (4, 300)
    assert (block.view(4, 60, 5) == block.view(4, 60, 5)[..., :1]).all(), "units are drawn whole"


def test_small_samples_have_students_t():
    """A bootstrap of ten units would cover 90 % and say 95."""
    from scipy.stats import norm, t

    wanted = t.ppf(0.975, 9) * math.sqrt(10 / 9)
    assert norm.ppf((1 + small_sample(0.95, 10)) / 2) == pytest.approx(wanted, rel=1e-9)
    assert small_sample(0.95, 1) < 1


@few
@given(st.lists(st.integers(1, 9), min_size=6, max_size=30), st.integers(2, 5), st.integers(0, 9))
def test_no_unit_is_parted(sizes, number, seed):
    """A calibrator would be judged on the patients it was fitted on."""
    units, values = grouped(sizes, seed)
    labels = (values > 0).long()
    for fold in (folds(labels, number, seed, units), random_folds(len(units), number, seed, units)):
        for u in range(len(sizes)):
            assert len(fold[units == u].unique()) == 1
        assert len(fold.unique()) == number
    first, second = halves(labels, seed, units)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(units)))
    assert not set(units[first].tolist()) & set(units[second].tolist())


def test_random_folds_are_even_and_not_stratified():
    """Stratified folds praise a bias for each class for shares that every fold was given."""
    labels = torch.arange(100) % 10
    fold = random_folds(100, 5)
    assert torch.bincount(fold).tolist() == [20] * 5
    counts = torch.stack([torch.bincount(labels[fold == f], minlength=10) for f in range(5)])
    assert (counts != 2).any()


def test_rare_errors_reach_up_to_wilsons_share():
    """With no error seen, the interval of the NLL would end below what one error costs."""
    correct = torch.ones(100, dtype=torch.float64)
    start = Interval(0.0, 0.01, "x")
    reach = with_unseen_errors(start, 0.005, correct, 5.0)
    assert reach.high == pytest.approx(0.005 + wilson(0, 100)[1] * 5)
    assert reach.low == 0.0
    assert with_unseen_errors(start, 0.005, correct, -5.0) == start, "errors that cost less"


def test_a_calibrated_grouped_model_is_not_called_miscalibrated():
    """Groups read and then ignored: false verdicts in 32 % of sets."""
    rng, said = np.random.default_rng(0), 0
    for _ in range(60):
        chance = rng.beta(3.2, 0.8, 30).repeat(10)  # a mean of 0.8, correlated within tens
        correct = rng.random(300) < chance
        outputs = Outputs.from_confidence(
            np.full(300, 0.8), np.zeros(300, int), np.where(correct, 0, 1), ["a", "b"],
            groups=[str(i // 10) for i in range(300)],
        )  # fmt: skip
        from levelhead.metrics import ece

        cells = ece.cells(ece.prepare(outputs), outputs.units)
        said += consistency(cells, absolute_error, 200) < 0.05
    assert said <= 7, said


def test_unit_noise_adds_up_to_nothing():
    """The noise that units share would carry part of the gap itself."""
    rng = np.random.default_rng(1)
    units, cell, residual = rng.integers(0, 9, 200), rng.integers(0, 5, 200), rng.normal(size=200)
    noise = unit_noise(units, cell, residual, 5)
    assert noise.shape == (9, 5)
    np.testing.assert_allclose(noise.sum(0), 0, atol=1e-12)
    at = cell == 3
    own = (residual[at & (units == 2)] - residual[at].mean()).sum()
    assert noise[2, 3] == pytest.approx(own)
