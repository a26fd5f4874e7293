"""Tests of calibration without bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levelhead.statistics.calibration_tests import kuiper, range_tail, spiegelhalter


def test_the_tail_of_the_range_is_that_of_brownian_motion():
    """Kuiper's p-values would be of another distribution."""
    steps = np.random.default_rng(0).choice([-1.0, 1.0], size=(4000, 4000)).cumsum(1) / 4000**0.5
    ranges = np.maximum(steps.max(1), 0) - np.minimum(steps.min(1), 0)
    for r in (1.0, 1.6, 2.2):
        assert range_tail(r) == pytest.approx((ranges > r).mean(), abs=0.03)
    assert range_tail(0.3) == pytest.approx(range_tail(0.41), abs=1e-9)
    assert range_tail(50.0) == 0.0


def test_calibrated_models_are_rejected_in_one_set_of_twenty():
    """A p-value below 5 % would come more often than in 5 % of sets."""
    rng = np.random.default_rng(1)
    rejected = np.zeros(2)
    for _ in range(400):
        p = torch.from_numpy(rng.uniform(0.3, 1, 300))
        y = (torch.from_numpy(rng.random(300)) < p).double()
        rejected += [spiegelhalter(p, y).p_value < 0.05, kuiper(p, y).p_value < 0.05]
    assert (rejected / 400 < 0.09).all(), rejected
    assert (rejected / 400 > 0.01).all(), rejected


def test_rare_errors_reject_no_more_often():
    """By a normal law a model that is 99.7 % right would be rejected in one set of ten."""
    rng = np.random.default_rng(4)
    p = torch.from_numpy(1 - 0.02 * rng.beta(0.3, 1.5, 300))
    rejected = sum(
        spiegelhalter(p, (torch.from_numpy(rng.random(300)) < p).double()).p_value < 0.05
        for _ in range(300)
    )
    assert rejected / 300 < 0.08, rejected


def test_overconfidence_is_found_and_signed():
    """A model that is too sure would pass, or be called too unsure."""
    rng = np.random.default_rng(2)
    p = torch.full((500,), 0.95).double()
    y = torch.from_numpy((rng.random(500) < 0.8).astype(float))
    assert spiegelhalter(p, y).statistic > 5
    assert spiegelhalter(p, y).p_value < 1e-3
    assert kuiper(p, y).p_value < 1e-6
    each = (y - p) * (1 - 2 * p)  # the formula, by another path
    z = float(each.sum() / ((1 - 2 * p) ** 2 * p * (1 - p)).sum().sqrt())
    assert spiegelhalter(p, y).statistic == pytest.approx(z)


def test_units_widen_both():
    """Frames of one video would reject a calibrated model."""
    rng = np.random.default_rng(3)
    rejected = np.zeros(2)
    for _ in range(200):
        chance = torch.from_numpy(rng.beta(3.2, 0.8, 40)).repeat_interleave(10)
        y = (torch.from_numpy(rng.random(400)) < chance).double()
        p, units = torch.full((400,), 0.8).double(), torch.arange(40).repeat_interleave(10)
        tests = spiegelhalter(p, y, units), kuiper(p, y, units)
        rejected += [one.p_value < 0.05 for one in tests]
    assert (rejected / 200 < 0.1).all(), rejected
