"""Intervals: formulas against other libraries, coverage against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from levelhead.errors import LevelheadError
from levelhead.intervals import (
    bootstrap,
    ece_interval,
    example_variance,
    interval,
    mean_interval,
    paired_seeds,
    replicates,
    seeds_mean,
    weights,
    wilson,
)
from levelhead.metrics import METRICS
from levelhead.metrics.ece import prepare
from levelhead.outputs import Outputs


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (7, 10), (9339, 10_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(k, n, level):
    """The interval of every accuracy would be off."""
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_impossible_questions_are_refused():
    """A share of nothing would give NaN."""
    for k, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(LevelheadError, match="a share of"):
            wilson(k, n)
    with pytest.raises(LevelheadError, match="level 95: must be between 0 and 1"):
        wilson(1, 2, 95)
    with pytest.raises(LevelheadError, match="no seeds"):
        seeds_mean([], 0.1)


def test_weights_are_multinomial_draws():
    """Resamples would be of another size, or differ between metrics."""
    blocks = list(weights(3000, 1000, seed=4))
    drawn = torch.cat(blocks)
    assert len(blocks) > 1
    assert drawn.shape == (1000, 3000)
    assert (drawn.sum(1) == 3000).all()
    assert drawn.var().item() == pytest.approx(1 - 1 / 3000, rel=0.01)
    assert torch.equal(drawn, torch.cat(list(weights(3000, 1000, seed=4))))


def test_bootstrap_agrees_with_scipy():
    """NLL and Brier would get intervals of the wrong width."""
    values = torch.tensor(np.random.default_rng(0).exponential(size=400))
    low, high = bootstrap(values, METRICS["nll"], resamples=4000)
    other = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), rel=0.02)
    assert mean_interval(values, resamples=4000).low == pytest.approx(low)


def test_analytic_interval_joins_the_bootstrap():
    """Crossing 100,000 examples would make the interval jump."""
    values = torch.tensor(np.random.default_rng(0).exponential(size=100_001))
    big, small = mean_interval(values), mean_interval(values[1:], resamples=300)
    assert (big.method, small.method) == ("normal", "bootstrap percentile")
    assert big.high - big.low == pytest.approx(small.high - small.low, rel=0.15)


def test_replicates_share_their_draws():
    """Differences between settings would not be paired: their intervals far too wide."""
    draw = np.random.default_rng(0)
    outputs = [Outputs.from_logits(draw.normal(size=(50, 3)), np.arange(50) % 3) for _ in "ab"]
    for name in ("nll", "ece"):
        metric = METRICS[name]
        prepared = [metric.prepare(o) for o in outputs]
        both = replicates(metric, prepared, resamples=20)
        assert both.shape == (2, 20)
        assert torch.allclose(both[1:], replicates(metric, prepared[1:], resamples=20))
        row = next(iter(weights(50, 20)))[7]
        assert both[0, 7].item() == pytest.approx(metric.value(prepared[0], row)[name])


def calibrated(draw, n):
    sure = 0.1 + 0.9 * draw.beta(3, 1.2, n)
    return sure, sure


def overconfident(draw, n):
    sure, _ = calibrated(draw, n)
    return sure, 0.1 + 0.9 * ((sure - 0.1) / 0.9) ** 1.3


def binned(sure, right):
    """Prepared ECE of a binary-like classifier with these confidences (class 0 is predicted)."""
    rest = (1 - sure)[:, None] / 10 * np.ones(10)
    scores = np.concatenate([sure[:, None], rest], 1)
    return prepare(Outputs.from_probabilities(scores, np.where(right, 0, 1)))


@pytest.mark.parametrize("world", [calibrated, overconfident])
def test_ece_interval_covers_the_binned_error_of_the_population(world):
    """A calibrated model would be called miscalibrated (or the reverse) more often than 1 in 20.

    For the calibrated world the truth is 0, and covering it means low == 0.
    """
    draw = np.random.default_rng(0)
    sure, chance = world(draw, 1_000_000)
    bin_of = np.clip(np.ceil(sure * 15) - 1, 0, 14).astype(int)
    truth = np.abs(np.bincount(bin_of, sure - chance)).sum() / len(sure)
    hits, above_plug_in, repeats = 0, 0, 250
    for seed in range(repeats):
        sure, chance = world(draw, 400)
        prepared = binned(sure, draw.random(400) < chance)
        low, high = ece_interval(prepared, resamples=300, seed=seed)
        assert 0 <= low <= high
        hits += low <= truth + 1e-12 and truth <= high
        above_plug_in += METRICS["ece"].value(prepared)["ece"] > truth
    assert (truth == 0) == (world is calibrated)
    assert 0.91 <= hits / repeats <= 0.99
    assert above_plug_in / repeats > 0.8  # what the correction is for


def test_ece_interval_in_corners():
    """Perfect, hopeless, tiny and huge samples would give NaN, negative or empty intervals."""
    ones, zeros = np.ones(50, bool), np.zeros(50, bool)
    low, high = ece_interval(binned(np.ones(50), ones))
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 50), abs=0.01)  # no error seen in 50
    low, high = ece_interval(binned(np.full(50, 1.0), zeros))
    assert 0.9 < low < 1 == high
    assert ece_interval(binned(np.full(1, 0.7), ones[:1]))[0] == 0
    draw = np.random.default_rng(0)
    sure, chance = overconfident(draw, 300_000)
    prepared = binned(sure, draw.random(300_000) < chance)
    low, high = ece_interval(prepared)
    assert low < METRICS["ece"].value(prepared)["ece"] < high < low + 0.005


def test_each_metric_gets_its_kind_of_interval():
    """Accuracy would be bootstrapped, or the ECE's interval be the plain percentile one."""
    draw = np.random.default_rng(0)
    outputs = Outputs.from_logits(draw.normal(size=(200, 8)), draw.integers(0, 8, 200))
    methods = {
        name: interval(m, m.prepare(outputs), resamples=100).method for name, m in METRICS.items()
    }
    assert [m.split()[0] for m in methods.values()] == [
        "wilson",
        "wilson",
        "bootstrap",
        "bootstrap",
        "bias-corrected",
    ]


def test_seeds_without_example_variance_are_students_t():
    """Three seeds would get a normal (or a bootstrap) interval, which is far too narrow."""
    values = [0.91, 0.93, 0.92]
    found = seeds_mean(values, 0.0)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.df, found.seeds, found.scope) == (2, 3, "this recipe")


def test_one_seed_speaks_for_this_model():
    """One training would be taken for evidence about the recipe."""
    found = paired_seeds([0.02], 0.01**2)
    assert (found.scope, found.df) == ("this model", math.inf)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=1e-5)


def test_paired_seeds_cover_the_recipes_difference():
    """ "Cannot tell" would be said too rarely or too often; seeds and examples both vary."""
    draw, hits, repeats = np.random.default_rng(0), 0, 1000
    for _ in range(repeats):
        hard = draw.normal(size=200)  # what an example adds to the difference, for all seeds
        losses = 0.3 + draw.normal(0, 0.1, (3, 1)) + hard + draw.normal(size=(3, 200))
        variance = example_variance(torch.tensor(losses))
        assert variance == pytest.approx(losses.mean(0).var(ddof=1) / 200)
        found = paired_seeds(losses.mean(1), variance)
        assert found.df >= 2
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / repeats <= 0.99
