"""Intervals: formulas against other libraries, coverage against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from levelhead.errors import LevelheadError
from levelhead.metrics import METRICS, interval_of, intervals_of, reason
from levelhead.metrics.ece import cells, prepare
from levelhead.outputs import Outputs
from levelhead.statistics.calibration_error import (
    Cells,
    calibration_interval,
    consistency,
    examples_needed_for_calibration,
)
from levelhead.statistics.examples import (
    example_variance,
    examples_needed,
    mean_interval,
    weights,
    wilson,
)
from levelhead.statistics.seeds import interaction, paired_seeds, seeds_mean
from worlds import replicates


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (7, 10), (9339, 10_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(k, n, level):
    """The interval of every accuracy would be off."""
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 30), (2, 50), (3, 51), (1, 200)])
def test_few_errors_keep_what_a_poisson_law_allows(k, n):
    """One error in 200 would exclude a model that errs in one of 1,700, which often shows one."""
    low, high = wilson(k, n)
    assert stats.poisson.sf(k - 1, low * n) == pytest.approx(0.05, abs=1e-9)
    assert high == pytest.approx(stats.binomtest(k, n).proportion_ci(0.95, method="wilson").high)
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_shares_near_an_end_are_covered():
    """Exactly, over the binomial law: Wilson's own interval holds 0.9994 of 200 in 88 %."""
    for p, n in ((0.9994, 200), (0.9987, 1000), (0.97, 40)):
        inside = [low <= p <= high for low, high in (wilson(k, n) for k in range(n + 1))]
        assert stats.binom.pmf(np.arange(n + 1), n, p)[inside].sum() > 0.92, (p, n)


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


@pytest.mark.parametrize(("n", "method"), [(20_001, "percentile")])
def test_bootstrap_agrees_with_scipy(n, method):
    """NLL and Brier would get intervals of the wrong width, or not follow their skewness."""
    values = torch.tensor(np.random.default_rng(0).lognormal(size=n))
    found = interval_of(METRICS["nll"], values, resamples=4000 if n < 1000 else 400)
    other = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, method=method, random_state=1, batch=50
    ).confidence_interval
    assert found.method == f"bootstrap {method}"
    assert (found.low, found.high) == pytest.approx((other.low, other.high), rel=0.02)
    assert mean_interval(values, resamples=4000 if n < 1000 else 400) == found


def test_bootstrap_t_is_the_textbooks():
    """The deviation of a resample would be another number's, or the ends swapped."""
    values = torch.tensor(np.random.default_rng(3).lognormal(size=60))
    found = mean_interval(values, resamples=500, seed=7)
    x, t = values.numpy(), []
    for block in weights(60, 500, 7):
        for often in block.numpy():
            drawn = np.repeat(x, often.astype(int))
            t.append(
                (drawn.mean() - x.mean()) / max(drawn.std() / 60**0.5, x.std(ddof=1) / 60**0.5 / 4)
            )
    low, high = np.quantile(t, [0.025, 0.975])
    own = x.std(ddof=1) / 60**0.5
    assert (found.low, found.high) == pytest.approx((x.mean() - high * own, x.mean() - low * own))


def test_balanced_accuracy_is_movers():
    """A class of two examples, both right, would be held for perfect."""
    y = np.repeat([0, 1, 2], [30, 8, 2])
    right = np.r_[np.ones(27), np.zeros(3), np.ones(6), np.zeros(2), np.ones(2)].astype(bool)
    outputs = Outputs.from_confidence(np.full(40, 0.5), np.where(right, y, (y + 1) % 3), y)
    metric = METRICS["balanced_accuracy"]
    found = interval_of(metric, metric.prepare(outputs))
    recalls = np.array([27 / 30, 6 / 8, 1.0])
    ends = [stats.binomtest(k, n).proportion_ci() for k, n in ((27, 30), (6, 8), (2, 2))]
    low = (
        recalls.mean()
        - np.sqrt(sum((r - e.low) ** 2 for r, e in zip(recalls, ends, strict=True))) / 3
    )
    high = (
        recalls.mean()
        + np.sqrt(sum((e.high - r) ** 2 for r, e in zip(recalls, ends, strict=True))) / 3
    )
    assert (found.low, found.high) == pytest.approx((low, min(high, 1)))


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
    for name in ("nll", "ece", "aurc", "balanced_accuracy"):
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
    """Prepared ECE of a classifier with these confidences."""
    wrong = np.where(right, 0, 1)
    return prepare(Outputs.from_confidence(sure, np.zeros_like(wrong), wrong, ["a", "b"]))


def ece_interval(prepared, **more):
    return calibration_interval(cells(prepared), **more)


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


def some(n=200, k=8):
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.ones(k), n)
    z = draw.normal(size=(n, k)) + 2 * np.eye(k)[draw.integers(0, k, n)]
    return Outputs.from_logits(z, z.argmax(1) * draw.integers(0, 2, n), label_distribution=shares)


def test_each_metric_gets_its_kind_of_interval():
    """Accuracy would be bootstrapped, the ECE's interval be the plain percentile one, or the
    intervals of several metrics at once differ from one at a time."""
    outputs = some()
    pairs = [(m, m.prepare(outputs)) for m in METRICS.values() if reason(m, outputs) is None]
    assert len(pairs) == 28
    kinds = {"wilson": "wilson", "bootstrap": "bootstrap-t", "none": "none"}
    kinds["calibration"] = "bias-corrected by simulation, cut at 0"
    together = intervals_of(pairs, resamples=50)
    for (metric, prepared), found in zip(pairs, together, strict=True):
        analytic = metric.ends(prepared, 0.95, None) is not None
        own = "analytic" if analytic else kinds[metric.interval]
        assert found.method == own
        alone = interval_of(metric, prepared, resamples=50)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high), nan_ok=True)
        value = metric.value(prepared)[metric.name]
        if metric.interval == "bootstrap":
            assert found.low <= value <= found.high


def test_analytic_intervals_join_the_bootstrap(monkeypatch):
    """Crossing 100,000 examples would make the interval of a ratio jump."""
    outputs = some(5000)
    names = [n for n, m in METRICS.items() if m.interval == "bootstrap" and not reason(m, outputs)]
    pairs = [(METRICS[name], METRICS[name].prepare(outputs)) for name in names]
    small = intervals_of(pairs, resamples=400)
    monkeypatch.setattr("levelhead.metrics.metric.ANALYTIC", 1000)
    for name, one, other in zip(names, small, intervals_of(pairs), strict=True):
        assert other.method in ("normal", "analytic")
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.15), name


@pytest.mark.parametrize("all_right", [True, False])
def test_intervals_where_all_or_none_are_right(all_right):
    """A bootstrap of 30 right answers would claim to know that no error will ever come."""
    wrong = np.zeros(30, int) + (not all_right)
    outputs = Outputs.from_confidence(np.linspace(0.5, 0.9, 30), np.zeros(30, int), wrong)
    for name in ("balanced_accuracy", "aurc", "eaurc"):
        metric = METRICS[name]
        found = interval_of(metric, metric.prepare(outputs))
        value = metric.value(metric.prepare(outputs))[name]
        assert found.low <= value <= found.high
        if all_right:
            assert found.high - found.low > 0.05
    for name in ("overconfidence", "underconfidence", "smece"):
        metric = METRICS[name]
        found = interval_of(metric, metric.prepare(outputs), resamples=100)
        assert 0 <= found.low <= found.high <= 1


def test_over_and_underconfidence_each_cover():
    """The side that is not there would get an interval of [0, 0], or not cover the other."""
    draw, repeats = np.random.default_rng(0), 120
    sure, chance = overconfident(draw, 1_000_000)
    bin_of = np.clip(np.ceil(sure * 15) - 1, 0, 14).astype(int)
    gaps = np.bincount(bin_of, sure - chance) / len(sure)
    truth = {
        "overconfidence": np.maximum(gaps, 0).sum(),
        "underconfidence": -np.minimum(gaps, 0).sum(),
    }
    hits = dict.fromkeys(truth, 0)
    for seed in range(repeats):
        sure, chance = overconfident(draw, 500)
        prepared = binned(sure, draw.random(500) < chance)
        for name in truth:
            found = interval_of(METRICS[name], prepared, resamples=200, seed=seed)
            assert found.high > 0
            hits[name] += found.low <= truth[name] + 1e-12 <= found.high + 1e-12
    assert min(hits.values()) / repeats >= 0.9


def test_many_cells_stay_quick_and_agree():
    """Classwise ECE of a thousand classes would take minutes, or get another kind of answer."""
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.1, 0.9, 900)
    count = np.full(900, 50)
    calm = Cells(count, sure, draw.binomial(count, sure), np.arange(900))
    off = Cells(count, sure, draw.binomial(count, np.clip(sure - 0.1, 0, 1)), np.arange(900))
    assert calibration_interval(calm)[0] == 0
    low, high = calibration_interval(off)
    assert 0.08 < low < 0.1 < high < 0.12
    assert consistency(calm) > 0.05
    assert consistency(off) < 0.01


def test_consistency_is_a_p_value():
    """A calibrated model would be called miscalibrated too often, or never the other."""
    draw = np.random.default_rng(0)
    found = {}
    for world in (calibrated, overconfident):
        p = []
        for seed in range(200):
            sure, chance = world(draw, 800)
            prepared = binned(sure, draw.random(800) < chance)
            p.append(consistency(cells(prepared), resamples=99, seed=seed))
        found[world] = np.array(p)
    assert stats.kstest(found[calibrated], "uniform").pvalue > 0.001
    assert (found[overconfident] < 0.05).mean() > 0.5
    assert found[calibrated].min() >= 0.01


def test_examples_needed_for_a_mean_has_the_power_it_says():
    """Users would be told to label far too few, or too many, examples."""
    n = examples_needed(0.02, 0.5)
    power = stats.norm.cdf(0.02 * math.sqrt(n) / 0.5 - stats.norm.ppf(0.975))
    assert 0.8 <= power < 0.82  # rounded up to two digits
    assert n == 5000
    assert examples_needed(-0.02, 0.5) == n
    assert examples_needed(0.0, 0.5) is None


def test_examples_needed_for_calibration_has_the_power_it_says():
    """The number of examples that would show the miscalibration would not show it."""
    draw = np.random.default_rng(0)
    sure, chance = overconfident(draw, 20_000)
    found = cells(binned(sure, draw.random(20_000) < chance))
    n = examples_needed_for_calibration(found)
    assert 100 < n < 3000
    rejected = 0
    for seed in range(100):
        sure, chance = overconfident(draw, n)
        prepared = binned(sure, draw.random(n) < chance)
        rejected += consistency(cells(prepared), resamples=199, seed=seed) <= 0.05
    assert 0.65 <= rejected / 100 <= 0.93
    exact = Cells(np.array([10.0]), np.array([0.5]), np.array([5.0]), np.array([0]))
    assert examples_needed_for_calibration(exact) is None


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
        found = paired_seeds(losses.mean(1), variance, shared=interaction(torch.tensor(losses)))
        assert found.df == 2
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / repeats <= 0.99
