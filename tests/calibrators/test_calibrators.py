"""Temperature scaling against scipy, at its limits, and its interval against simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

from levelhead.calibrators import CALIBRATORS, Temperature
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from worlds import logits_and_labels


def nll(z: np.ndarray, y: np.ndarray, log_t: float) -> float:
    return float(-log_softmax(z / math.exp(log_t), axis=1)[range(len(y)), y].mean())


def slope(z: np.ndarray, y: np.ndarray, log_t: float) -> float:
    p = softmax(z / math.exp(log_t), axis=1)
    return float(((p * z).sum(1) - z[range(len(y)), y]).mean())


@pytest.mark.parametrize(
    ("n", "k", "temperature"),
    [(200, 2, 0.7), (1000, 10, 1.5), (1000, 10, 30.0), (150, 1000, 2.0), (45_000, 3, 1.2)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_agrees_with_scipy(n, k, temperature, scale):
    """Another temperature than the best would be reported and applied; units must not matter."""
    z, y = logits_and_labels(n, k, temperature, scale=4.0)
    found = Temperature.fit(z * scale, y)
    exact = brentq(lambda u: slope(z, y, u), -3, 6, xtol=1e-12)
    assert math.log(found.temperature / scale) == pytest.approx(exact, abs=1e-6)
    other = minimize_scalar(lambda u: nll(z, y, u), bounds=(-3, 6), method="bounded")
    assert nll(z, y, math.log(found.temperature / scale)) <= other.fun + 1e-12
    assert found.low < found.temperature < found.high
    assert (found.n, found.limit) == (n, None)


def test_a_biased_first_guess_does_not_matter():
    """Large sets start from every n-th row: rows in a pattern would give a wrong temperature."""
    z, y = logits_and_labels(60_000, 4, 1.0, scale=4.0)
    z[::3] *= 50  # the rows that the first guess looks at
    exact = brentq(lambda u: slope(z, y, u), -3, 9, xtol=1e-12)
    assert math.log(Temperature.fit(z, y).temperature) == pytest.approx(exact, abs=1e-6)


def test_no_example_wrong_has_no_best_temperature():
    """Separable data would give T = 0.001, and the next wrong answer an NLL of thousands."""
    z = np.eye(3)[np.arange(30) % 3] * 2
    y = np.arange(30) % 3
    found = Temperature.fit(z, y)
    assert found.limit == "T -> 0"
    assert (found.temperature, found.low) == (pytest.approx(found.high), 0)
    assert 0 < found.high < 1
    assert nll(z, y, math.log(found.high)) * 30 == pytest.approx(1.9207, abs=1e-3)
    assert "no lower limit" in found.sentence()
    one = Temperature.fit(z[:1], y[:1])  # a single right answer rules hardly anything out
    assert (one.limit, one.temperature) == ("T -> 0", 1)


def test_scores_that_point_away_have_no_best_temperature():
    """The search would run off to 10⁶, or stop at a number that means nothing."""
    z = np.eye(3)[np.arange(60) % 3] * 5
    found = Temperature.fit(z, (np.arange(60) + 1) % 3)
    assert found.limit == "T -> infinity"
    assert found.temperature > 100
    assert 1 < found.low < found.high == math.inf
    assert "no better than chance" in found.sentence()


def test_scores_that_say_nothing_leave_temperature_alone():
    """Constant rows would divide 0 by 0."""
    found = Temperature.fit(np.ones((5, 3)), [0, 1, 2, 0, 1])
    assert (found.limit, found.temperature) == ("flat", 1)
    even = Outputs.from_probabilities(np.full((5, 10), 0.1), range(5))
    assert Temperature.fit_outputs(even).limit == "flat"


def test_one_enormous_mistake_stays_finite():
    """A logit of 10⁸ on the wrong class would overflow the NLL."""
    z, y = logits_and_labels(500, 5, 1.0, scale=4.0)
    z[0, (y[0] + 1) % 5] = 3e3
    exact = brentq(lambda u: slope(z, y, u), -3, 30, xtol=1e-13)
    assert math.log(Temperature.fit(z, y).temperature) == pytest.approx(exact, abs=1e-6)
    right = z.copy()  # right beyond doubt: says nothing about the others
    right[0] = 0
    right[0, y[0]] = 1e8
    exact = brentq(lambda u: slope(right, y, u), -3, 9, xtol=1e-13)
    assert math.log(Temperature.fit(right, y).temperature) == pytest.approx(exact, abs=1e-6)
    z[0, (y[0] + 1) % 5] = 1e9  # outweighs all the others: even T = 10⁸ is too sharp
    found = Temperature.fit(z, y)
    assert found.limit == "T -> infinity"
    assert math.isfinite(found.temperature)


def test_probabilities_are_their_logarithms():
    """A file of probabilities would get another temperature than its logits."""
    z, y = logits_and_labels(400, 6, 2.0, scale=4.0)
    from_logits = Temperature.fit(z, y)
    outputs = Outputs.from_probabilities(softmax(z, axis=1), y)
    from_probabilities = Temperature.fit_outputs(outputs)
    assert from_probabilities.temperature == pytest.approx(from_logits.temperature, rel=1e-6)
    after = from_probabilities.apply(outputs)
    assert after.kind == "probabilities"
    np.testing.assert_allclose(
        after.scores, softmax(z / from_logits.temperature, axis=1), rtol=1e-5
    )


def test_zero_probabilities():
    """An exact 0 of another class would give NaN; one of the label has no finite NLL at all."""
    p = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]])
    found = Temperature.fit_outputs(Outputs.from_probabilities(p, [0, 1, 1, 0]))
    two = Temperature.fit_outputs(Outputs.from_probabilities(p[:, :2], [0, 1, 1, 0]))
    assert found.temperature == pytest.approx(two.temperature, rel=1e-6)
    assert found.apply(Outputs.from_probabilities(p, [0, 1, 1, 0])).scores[:, 2].tolist() == [0] * 4
    with pytest.raises(LevelheadError, match="row 1: the label's probability is exactly 0"):
        Temperature.fit_outputs(Outputs.from_probabilities(p, [0, 2, 1, 0]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.floats(1e-2, 1e2))
def test_the_order_of_classes_stays(seed, temperature):
    """Temperature would change predictions: logits one float apart must not become equal."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(50, 4)).astype(np.float32)
    z[:, 3] = np.nextafter(z[:, :3].max(1), np.float32(np.inf))  # above by one float
    outputs = Outputs.from_logits(z, [0] * 50)
    after = Temperature(temperature, 0, 1, 50).apply(outputs)
    assert torch.equal(
        after.scores.argsort(dim=1, stable=True), outputs.scores.argsort(dim=1, stable=True)
    )
    assert torch.equal(after.predictions(), outputs.predictions())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(-100, 100))
def test_shifts_order_and_copies_do_not_matter(seed, shift):
    """The same model and data, written down differently, would get another temperature."""
    z, y = logits_and_labels(80, 3, 1.5, seed, scale=4.0)
    expected = Temperature.fit(z, y)
    order = np.random.default_rng(seed).permutation(80)
    for other in (
        Temperature.fit(z + shift, y),
        Temperature.fit(z[order], y[order]),
        Temperature.fit(z[:, [2, 0, 1]], (y + 1) % 3),
        Temperature.fit(np.tile(z, (2, 1)), np.tile(y, 2)),
    ):
        assert other.limit == expected.limit
        assert other.temperature == pytest.approx(expected.temperature, rel=2e-6)


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_interval_covers(spread):
    """The interval of T would be too narrow, above all where no temperature makes it right."""
    draw = np.random.default_rng(0)

    def world(n):
        z = draw.normal(size=(n, 10)) * 6
        noisy = z / 1.5 + spread * draw.normal(size=z.shape)  # no tempered softmax if spread > 0
        return z, (noisy + draw.gumbel(size=z.shape)).argmax(1)

    truth, repeats = Temperature.fit(*world(200_000)).temperature, 300
    fitted = [Temperature.fit(*world(300)) for _ in range(repeats)]
    covered = sum(f.low <= truth <= f.high for f in fitted) / repeats
    assert 0.91 <= covered <= 0.985


@pytest.mark.parametrize("split", ["train", "test"])
def test_fitting_where_it_is_not_allowed(split):
    """A temperature fitted on test would flatter the model it judges."""
    for name, calibrator in CALIBRATORS.items():
        z, y = logits_and_labels(50, calibrator.only or 3, 1.0, scale=4.0)
        with pytest.raises(LevelheadError, match=f"split '{split}': .* fitted on validation"):
            calibrator.fit_on(Outputs.from_logits(z, y, split=split))
        fitted = calibrator.fit_on(Outputs.from_logits(z, y, split="validation"))
        assert fitted.summary()["fitted_on"] == "validation", name


def test_json_round_trip():
    """A run's calibration would not come back, or hold NaN or Infinity."""
    for found in (
        Temperature(1.5, 1.2, 1.9, 100, "validation"),
        Temperature(900.0, 3.0, math.inf, 7, "validation", "T -> infinity"),
    ):
        text = json.dumps(found.to_json(), allow_nan=False)
        assert CALIBRATORS[json.loads(text)["method"]].from_json(json.loads(text)) == found
        assert json.dumps(found.summary(), allow_nan=False)
    good = found.to_json()
    for bad in (None, [], {}, {**good, "method": "x"}, {**good, "temperature": -1}, {"method": 1}):
        with pytest.raises(LevelheadError, match="not a saved temperature"):
            Temperature.from_json(bad)
