"""A measured number and a difference: against plain formulas, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from levelhead.errors import LevelheadError
from levelhead.metrics import METRICS
from levelhead.metrics.metric import influence_of
from levelhead.outputs import Outputs
from levelhead.statistics.examples import wilson
from levelhead.statistics.measured import Estimate, Quantity, difference, mean, spread, verdict
from worlds import half_over_seeds

SHARE = Quantity("accuracy", "up", 100, 1, share=True)
LOSS = Quantity("NLL", "down")
BIASED = Quantity("ECE", "down", biased=True)


def answers(seed: int, n: int = 400, right: float = 0.8) -> Estimate:
    """The accuracy of one run."""
    rows = torch.from_numpy(np.random.default_rng(seed).binomial(1, right, n).astype(float))
    return Estimate(float(rows.mean()), *wilson(float(rows.sum()), n), (rows,))


def losses(seed: int, n: int = 400, shift: float = 0.0) -> Estimate:
    """The mean loss of one run."""
    rows = torch.from_numpy(np.random.default_rng(seed).exponential(0.5, n) + shift)
    half = 1.96 * float(rows.std()) / math.sqrt(n)
    value = float(rows.mean())
    return Estimate(value, value - half, value + half, (rows,))


def test_a_difference_is_students_t_on_the_seeds_that_both_have():
    """A seed of one side alone would move the difference, as it did on one page of two."""
    ours = {seed: losses(seed) for seed in (0, 1, 2)}
    theirs = {seed: losses(seed + 50, shift=0.1) for seed in (1, 2, 3)}
    change = difference(ours, theirs, LOSS)
    rows = torch.stack([ours[s].influence[0] - theirs[s].influence[0] for s in (1, 2)]).numpy()
    half = half_over_seeds(rows)
    assert change.seeds == (1, 2)
    assert change.value == pytest.approx(rows.mean())
    assert (change.low, change.high) == pytest.approx((rows.mean() - half, rows.mean() + half))
    assert change.per_seed == pytest.approx(rows.mean(1))
    assert change.verdict == ("better" if change.high < 0 else "cannot tell")
    clear = difference(ours, {s: losses(s, shift=1.0) for s in ours}, LOSS)
    assert clear.verdict == "better", "a lower loss is better"


@pytest.mark.parametrize("quantity", [SHARE, LOSS, BIASED])
@pytest.mark.parametrize("seeds", [1, 3])
def test_two_equal_networks_cannot_be_told_apart(quantity: Quantity, seeds: int):
    """Equal answers on a few examples would be sold as a proof of equality, or as a gain."""
    make = answers if quantity is SHARE else losses
    same = {seed: make(seed) for seed in range(seeds)}
    change = difference(same, same, quantity)
    assert (change.value, change.verdict) == (0.0, "cannot tell")
    if quantity is SHARE:  # they may differ on the next example
        assert change.low == pytest.approx(-1.959964 / 400)
        assert change.high == pytest.approx(1.959964 / 400)


def test_without_a_shared_seed_there_is_no_difference():
    """What seeds differ by would be taken for what settings differ by."""
    change = difference({0: losses(0)}, {1: losses(1)}, LOSS)
    assert (change.value, change.low, change.per_seed) == (None, None, ())
    assert change.verdict == "cannot tell"
    assert change.reason == change.to_json()["reason"] != ""


def test_a_mean_over_seeds_has_one_formula():
    """Accuracy's interval would differ between a study, a curve and a page."""
    runs = {seed: answers(seed) for seed in (0, 1, 2)}
    rows = torch.stack([run.influence[0] for run in runs.values()]).numpy()
    p = rows.mean()
    examples = rows.mean(0).var(ddof=1) / 400
    n = p * (1 - p) / examples  # as many examples as make a share vary as much
    low, high = wilson(p * n, n)
    z = stats.norm.ppf(0.975)
    # Wilson's width in place of the examples' variance, and no narrower than that.
    own = rows - rows.mean(1, keepdims=True) - rows.mean(0) + p
    shared = (own**2).sum() / (2 * 399) / 1200
    rest = max(((high - low) / 2) ** 2 - z**2 * shared, 0)
    half = math.sqrt(stats.t.ppf(0.975, 2) ** 2 * rows.mean(1).var(ddof=1) / 3 + rest)
    half = max(half, (high - low) / 2)
    centre = (low + high) / 2
    found = mean(runs, SHARE)
    assert found.value == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    alone = mean({7: runs[0]}, SHARE)
    assert (alone.low, alone.high) == (runs[0].low, runs[0].high), "one seed: its own interval"
    with pytest.raises(LevelheadError, match="no seeds"):
        mean({}, SHARE)


def test_a_share_stays_a_share():
    """An accuracy of more than 100 % would be printed."""
    rows = torch.ones(30, dtype=torch.float64)
    low, high = wilson(30, 30)
    runs = {seed: Estimate(1.0, low, high, (rows,)) for seed in (0, 1)}
    found = mean(runs, SHARE)
    assert found.value == found.high == 1.0
    assert found.low is not None
    assert 0.8 < found.low < 1


def test_the_far_end_of_a_biased_error_is_not_paired():
    """A gain in calibration would look too small: the better plug-in error is too large."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(1500, 4)) * 1.5
    labels = (z + draw.gumbel(size=z.shape)).argmax(1)
    metric = METRICS["ece"]

    def ece(gain: float) -> Estimate:
        prepared = metric.prepare(Outputs.from_logits(gain * z, labels))
        value = metric.value(prepared)["ece"]
        return Estimate(value, max(value - 0.02, 0), value, (influence_of(metric, prepared),))

    calibrated, sharp = {0: ece(1.0)}, {0: ece(1.6)}
    change = difference(calibrated, sharp, metric.quantity)
    x, y = calibrated[0], sharp[0]
    centre = (x.low + x.high - y.low - y.high) / 2
    half = math.hypot(x.high - x.low, y.high - y.low) / 2
    assert change.value is not None
    assert change.value < 0
    assert change.low is not None
    assert change.low <= centre - half + 1e-12
    assert change.verdict == "better"


def test_what_seeds_give_as_a_whole():
    """Error bars of ratios and of information would be too short, or one seed have some."""
    values = [0.9, 0.95, 1.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = spread(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert spread([0.9]).low is spread([0.9]).high is None


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1), st.sampled_from(["up", "down"]))
def test_verdict(value: float, half: float, direction: str):
    """The words would claim what the interval leaves open, or get the direction wrong."""
    word = verdict(value, value - half, value + half, direction)  # type: ignore[arg-type]
    if value - half <= 0 <= value + half:
        assert word == "cannot tell"
    else:
        assert word == ("better" if (value > 0) == (direction == "up") else "worse")
