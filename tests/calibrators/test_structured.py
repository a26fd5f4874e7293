"""Structured, quadratic and Venn–Abers calibrators, against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from levelhead.calibrators import CALIBRATORS, spoken
from levelhead.calibrators.choose import choose, rank
from levelhead.outputs import Outputs


def biased(classes, n, seed, sharp=1.5):
    """Too sharp, by class more or less so."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, classes)) * 1.5
    labels = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs.from_logits(z * sharp + np.linspace(-1, 1, classes), labels)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own dependencies
@pytest.mark.parametrize("method", ["svs", "sms"])
@pytest.mark.parametrize(("classes", "n"), [(10, 400), (3, 2000)])
def test_they_are_probmetrics(method, classes, n):
    """The penalties, or what they pull towards, would be others than the paper's."""
    from probmetrics.calibrators import get_calibrator

    outputs, test = biased(classes, n, 0), biased(classes, 300, 1)
    ours = CALIBRATORS[method].fit_outputs(outputs).apply(test).probabilities().numpy()
    peer = get_calibrator(method, **{f"{method}_print_init_info": False})
    peer.fit(outputs.probabilities().numpy(), outputs.labels.numpy())
    theirs = peer.predict_proba(test.probabilities().numpy())
    np.testing.assert_allclose(ours, theirs, atol=2e-3)  # its temperature is good to 1e-3
    own = np.arange(300), test.labels.numpy()
    assert -np.log(ours[own]).mean() == pytest.approx(-np.log(theirs[own]).mean(), abs=1e-4)


def test_no_class_is_rarer_than_the_examples_can_show():
    """One wrong answer after a perfect fit would cost hundreds of nats."""
    z = 30 * np.eye(4)[np.arange(40) % 4]
    outputs = Outputs.from_logits(z, np.arange(40) % 4)
    fitted = CALIBRATORS["svs"].fit_outputs(outputs)
    wrong = Outputs.from_logits(z[:4], [1, 2, 3, 0])
    assert float(fitted.apply(wrong).rows.nll.max()) < 2 * np.log(4 * 41)


def test_quadratic_is_logistic_regression():
    """The odds would be bent by something else."""
    rng = np.random.default_rng(0)
    s = 2 * rng.normal(size=4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-(0.2 + 0.7 * s + 0.05 * s * s)))).astype(int)
    outputs = Outputs.from_logits(np.c_[np.zeros(4000), s], y)
    fitted = CALIBRATORS["quadratic"].fit_outputs(outputs)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=5000)
    peer.fit(np.c_[np.ones(4000), s, s * s], y)
    np.testing.assert_allclose(fitted.coefficients, peer.coef_[0], atol=2e-3)
    ends = Outputs.from_logits(np.c_[np.zeros(3), [-80.0, -60.0, -40.0]], [0, 0, 0])
    p = fitted.apply(ends).probabilities()[:, 1]
    assert (p.diff() >= 0).all(), "beyond the turning point the map must not rise again"


@pytest.mark.parametrize("n", [1, 2, 9, 150])
def test_venn_abers_is_two_isotonic_regressions(n):
    """The pair (p0, p1) would not be that of the example as either class."""
    rng = np.random.default_rng(n)
    s = rng.normal(size=n).round(1)
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * s))).astype(int)
    outputs = Outputs.from_logits(np.c_[np.zeros(n), s], y, ["a", "b"])
    new = np.r_[rng.normal(size=30).round(1), s[:5], -99.0, 99.0]
    test = Outputs.from_logits(np.c_[np.zeros(len(new)), new], np.zeros(len(new), int), ["a", "b"])
    ours = CALIBRATORS["venn_abers"].fit_outputs(outputs).apply(test).probabilities()[:, 1]
    wanted = []
    for value in new:
        ends = []
        for label in (0.0, 1.0):
            fit = IsotonicRegression(y_min=0, y_max=1).fit(np.r_[s, value], np.r_[y, label])
            ends.append(fit.predict([value])[0])
        wanted.append(ends[1] / (1 - ends[0] + ends[1]))
    np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-12)


def rare(n, seed, scale=1.0):
    """A model that is right 99.9 times of 100 and says so (at scale 1)."""
    rng = np.random.default_rng([seed, n])
    label = rng.integers(0, 10, n)
    z = 1.6 * (7.6 * np.eye(10)[label] + rng.normal(size=(n, 10)))
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs.from_logits(scale * z, y)


def test_nothing_is_advised_for_a_calibrated_model():
    """With an error or none among 100, whatever sharpens looked better beyond doubt."""
    advised = [choose(rank(o := rare(n, s)), o).method for n in (100, 300) for s in range(15)]
    assert advised.count("none") >= 29, advised


def test_what_is_plain_is_advised():
    """A rule that never advises anything would pass the test above."""
    outputs = biased(10, 2000, 0)
    choice = choose(rank(outputs), outputs)
    assert choice.verdict == "advised"
    assert choice.method in ("sms", "vector", "svs")
    assert choice.gain[2] < 0
    soft = rare(1000, 0, scale=0.5)
    assert choose(rank(soft), soft).verdict == "advised"


def test_too_few_to_tell_says_how_many():
    """ "Cannot tell" would leave a user without a next step."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(200, 5)) * 2
    outputs = Outputs.from_logits(1.15 * z, (z + rng.gumbel(size=z.shape)).argmax(1))
    choice = choose(rank(outputs), outputs)
    assert (choice.method, choice.verdict) == ("none", "cannot tell")
    assert choice.needed > 200


def test_groups_stay_whole_in_the_ranking():
    """Copies in both the fitting and the judging fold would praise the most flexible method."""
    base = biased(5, 40, 2, sharp=1.0)
    index = torch.arange(40).repeat_interleave(8)
    copied = Outputs.from_logits(
        base.scores[index], base.labels[index], groups=[str(i) for i in index.tolist()]
    )
    alone = Outputs.from_logits(base.scores[index], base.labels[index])
    losses = [
        {row.name: float(row.losses.mean()) for row in rank(o, ("sms",))} for o in (copied, alone)
    ]
    assert losses[0]["sms"] > losses[1]["sms"] + 0.02


def test_spoken_names():
    """A sentence would begin with "Sms"."""
    assert spoken("svs") == "SVS"
    assert spoken("bias_temperature") == "bias temperature"
