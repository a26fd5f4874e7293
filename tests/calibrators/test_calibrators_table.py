"""The table of calibrators against scipy, scikit-learn and netcal, its contract, and the choice."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from levelhead.calibrators import CALIBRATORS, Temperature, calibrator_of
from levelhead.calibrators.choose import choice_words, choose, rank, refuse_overlap
from levelhead.calibrators.newton import newton
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_predictions
from levelhead.statistics.folds import folds, random_folds
from worlds import skewed

AFFINE = ("bias_temperature", "vector", "matrix", "dirichlet", "platt", "beta")
STEPS = ("isotonic", "histogram", "venn_abers")  # give probabilities, whatever comes in
PARAMETRIC = [name for name in CALIBRATORS if name not in STEPS]
MENDS = (*STEPS, "quadratic")  # where a label's probability is exactly 0
FIELDS = {"quadratic": "coefficients", "venn_abers": "p", "isotonic": "y", "histogram": "y"}


def classes(name: str, k: int = 3) -> int:
    """Classes for a calibrator."""
    return CALIBRATORS[name].only or k


def as_probabilities(outputs: Outputs) -> Outputs:
    """The same outputs as probabilities."""
    return Outputs.from_probabilities(outputs.probabilities(), outputs.labels)


def unit(outputs: Outputs) -> float:
    """The T in whose units parameters are penalised; where it is infinite, the logits' spread."""
    found = Temperature.fit_outputs(outputs)
    return found.temperature / (1000 if found.limit == "T -> infinity" else 1)


def nll(outputs: Outputs) -> float:
    """Mean NLL, nats."""
    return float(outputs.rows.nll.mean())


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("name", AFFINE)
def test_the_documented_loss_is_at_its_minimum(name, kind):
    """Another loss than the docstrings' would be minimised, or not to the end."""
    k = classes(name, 4)
    outputs = skewed(600, k, seed=3)
    if kind == "probabilities":
        outputs = as_probabilities(outputs)
    found = CALIBRATORS[name].fit_outputs(outputs)
    t = unit(outputs)
    v = (torch.tensor(found.weight, dtype=torch.float64) * t).requires_grad_()
    b = torch.tensor(found.bias, dtype=torch.float64).requires_grad_()
    u = outputs.log_probabilities() / t
    scores = u @ v.T + b if v.ndim == 2 else u * v + b
    loss = torch.nn.functional.cross_entropy(scores, outputs.labels, reduction="sum")
    one = torch.eye(k) if v.ndim == 2 else torch.ones(v.shape)
    loss = loss + ((v - one).square().sum() + b.square().sum()) / (2 * 10**2)
    if v.ndim == 2:
        d = v.diag()
        off = (v.square().sum() - d.square().sum()) / (k * (k - 1)) + b.square().sum() / k
        if name == "matrix":
            off = off + (d - d.mean()).square().sum() / k
        loss = loss + len(outputs) * found.penalty * off
    for part in torch.autograd.grad(loss, (v, b)):
        assert float(part.abs().max()) < 1e-4  # of a sum over 600 examples
    assert nll(found.apply(outputs)) < nll(outputs)


@pytest.mark.parametrize("k", [3, 10])
def test_vector_scaling_agrees_with_scipy(k):
    """A vector scaling that is not the best one, or is best for other units."""
    outputs = skewed(800, k, seed=1)
    found = CALIBRATORS["vector"].fit_outputs(outputs)
    u, y = log_softmax(outputs.scores.numpy(), axis=1), outputs.labels.numpy()

    def loss(theta):
        return -log_softmax(u * theta[:k] + theta[k:], axis=1)[range(len(y)), y].mean()

    best = minimize(
        loss, np.r_[np.full(k, 0.5), np.zeros(k)], method="BFGS", options={"gtol": 1e-7}
    )
    mine = np.r_[found.weight, found.bias]
    assert loss(mine) == pytest.approx(best.fun, abs=2e-6)  # the weak penalty is all between them
    np.testing.assert_allclose(mine[:k], best.x[:k], atol=3e-3)
    np.testing.assert_allclose(mine[k:], best.x[k:] - best.x[k:].mean(), atol=3e-3)


def test_newton_agrees_with_scikit_learn():
    """Every affine calibrator would be fitted wrongly; scikit-learn penalises W alone, by 1/C."""
    from sklearn.linear_model import LogisticRegression

    outputs = skewed(500, 4, seed=2)
    u, y = outputs.log_probabilities(), outputs.labels
    hold = torch.cat([torch.full((16,), 1 / 0.7), torch.full((4,), 1e-9)]).double()
    theta, value = newton(u, y, torch.zeros(20, dtype=torch.float64), hold.mul)
    peer = LogisticRegression(C=0.7, tol=1e-10, max_iter=10_000).fit(u.numpy(), y.numpy())
    np.testing.assert_allclose(theta[:16].view(4, 4), peer.coef_, atol=1e-5)
    b = peer.intercept_ - peer.intercept_.mean()
    np.testing.assert_allclose(theta[16:] - theta[16:].mean(), b, atol=1e-5)
    logs = np.log(peer.predict_proba(u.numpy()))[range(500), y.numpy()]
    assert value == pytest.approx(-logs.sum() + (peer.coef_**2).sum() / 1.4, rel=1e-9)


@pytest.mark.parametrize("bias", [0, 12])
def test_platt_scaling_agrees_with_scikit_learn(bias):
    """Platt scaling would not be the logistic regression on log-odds that its users know.

    With a large bias no temperature helps (T -> infinity), which must not keep Platt from it.
    """
    from sklearn.linear_model import LogisticRegression

    outputs = skewed(1000, 2, seed=4)
    outputs.scores[:, 1] += bias
    assert (Temperature.fit_outputs(outputs).limit is None) == (bias == 0)
    found = CALIBRATORS["platt"].fit_outputs(outputs)
    odds = (outputs.scores[:, 1] - outputs.scores[:, 0]).numpy()[:, None]
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(odds, outputs.labels.numpy())
    off = 1e-2 if bias else 1e-3  # the weak penalty
    assert found.weight == pytest.approx(float(peer.coef_[0, 0]), rel=off)
    assert found.bias[1] - found.bias[0] == pytest.approx(float(peer.intercept_[0]), abs=4 * off)
    p = found.apply(outputs).probabilities()[:, 1]
    np.testing.assert_allclose(p, peer.predict_proba(odds)[:, 1], atol=off)


@pytest.mark.parametrize("slopes", [(0.6, 0.4), (0.8, -0.5), (-0.7, 0.3), (-0.4, -0.5)])
def test_beta_calibration_agrees_with_scipy_within_its_bounds(slopes):
    """A map that is not monotone (a weight below 0), or not the best of those that are."""
    draw = np.random.default_rng(5)
    u = log_softmax(draw.normal(size=(700, 2)) * 2, axis=1)
    a, b = slopes
    y = (draw.random(700) < 1 / (1 + np.exp(-(a * u[:, 1] - b * u[:, 0] + 0.3)))).astype(int)
    outputs = Outputs.from_probabilities(np.exp(u), y)
    found = CALIBRATORS["beta"].fit_outputs(outputs)
    t = unit(outputs)

    def loss(theta):
        v, c = theta[:2], theta[2:]
        fit = -log_softmax(u / t * v + c, axis=1)[range(700), y].sum()
        return fit + (((v - (v > 0)) ** 2).sum() + (c**2).sum()) / 200

    mine = np.r_[np.array(found.weight) * t, found.bias]
    best = min(
        (
            minimize(loss, start, bounds=[(1e-12, None)] * 2 + [(None, None)] * 2, tol=1e-12)
            for start in ([1, 1, 0, 0], [0.1, 2, 0, 0])
        ),
        key=lambda one: one.fun,
    )
    assert min(found.weight) >= 0
    assert loss(mine) <= best.fun + 0.02  # a weight held at 0 is not pulled towards 1
    assert (min(found.weight) == 0) == (min(slopes) < 0)


def test_isotonic_regression_agrees_with_scikit_learn():
    """Another map than the isotonic fit of each class, floored and renormalised."""
    from sklearn.isotonic import IsotonicRegression

    outputs, other = skewed(500, 3), skewed(300, 3, seed=9)
    found = CALIBRATORS["isotonic"].fit_outputs(outputs).apply(other)
    p, q = outputs.probabilities().numpy(), other.probabilities().numpy()
    columns = [
        IsotonicRegression(out_of_bounds="clip")
        .fit(p[:, k], outputs.labels.numpy() == k)
        .predict(q[:, k])
        for k in range(3)
    ]
    expected = np.maximum(np.stack(columns, 1), 1 / 1000)
    np.testing.assert_allclose(found.scores, expected / expected.sum(1, keepdims=True), atol=1e-12)


def test_histogram_binning_agrees_with_scikit_learn():
    """Shares of other bins. (netcal 1.4 has equal widths alone.)"""
    from sklearn.calibration import calibration_curve

    outputs = skewed(1500, 2)
    p, y = outputs.probabilities().numpy(), outputs.labels.numpy()
    found = CALIBRATORS["histogram"].fit_outputs(outputs)
    shares, _ = calibration_curve(y, p[:, 1], n_bins=15, strategy="quantile")
    np.testing.assert_allclose(found.y[1], shares, atol=1e-12)
    after = found.apply(outputs).probabilities()
    mine = np.maximum(np.array(found.y[1])[np.searchsorted(found.x[1], p[:, 1])], 1 / 3000)
    np.testing.assert_allclose(after[:, 1] * (1 + 1 / 1500), mine, atol=2e-3)


def test_temperature_is_no_worse_than_its_peers():
    """A temperature with a higher NLL than a peer's on the data that both were fitted on.

    netcal 1.4 agrees on float64; on float32 probabilities its search stops where it starts, at
    T = 1, without a word. The NLL says who is right.
    """
    outputs = skewed(1000, 5, seed=6)
    p, y = outputs.probabilities().numpy(), outputs.labels.numpy()
    found = Temperature.fit_outputs(outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from levelhead.machine import import_torchvision

        import_torchvision()
        from netcal.scaling import TemperatureScaling
        from probmetrics.calibrators import get_calibrator

        theirs = [
            get_calibrator("temp-scaling").fit(p, y).predict_proba(p),
            TemperatureScaling().fit(p, y).transform(p),
            TemperatureScaling().fit(p.astype(np.float32), y).transform(p.astype(np.float32)),
        ]
    best = nll(found.apply(outputs))
    peers = [float(-np.log(q[range(1000), y]).mean()) for q in theirs]
    assert best <= min(peers) + 1e-9
    assert peers[:2] == pytest.approx([best, best], abs=1e-6)


@pytest.mark.parametrize("name", CALIBRATORS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 99), kind=st.sampled_from(["logits", "probabilities"]))
def test_contract(name, seed, kind):
    """An entry that loses its parameters, gives no probabilities, or depends on how classes are
    ordered or logits are shifted, breaks what is built on the table."""
    k = classes(name)
    outputs, other = skewed(120, k, seed), skewed(60, k, seed + 100)
    if kind == "probabilities":
        outputs, other = as_probabilities(outputs), as_probabilities(other)
    found = CALIBRATORS[name].fit_outputs(outputs, fitted_on="validation")
    text = json.dumps(found.to_json(), allow_nan=False)
    assert calibrator_of(json.loads(text)) == found
    assert found.summary()["fitted_on"] == "validation"
    assert "120 examples (validation)" in found.sentence()
    after = found.apply(other)
    parametric = name in PARAMETRIC
    assert after.kind == (kind if parametric else "probabilities")
    assert after.scores.dtype == torch.float64
    p = after.probabilities()
    assert bool((p > 0).all())
    order = np.random.default_rng(seed).permutation(k)
    place = torch.from_numpy(np.argsort(order))

    def turned(source):
        new = source.scores[:, torch.from_numpy(order)]
        return Outputs(kind, new, place[source.labels], source.class_names)

    again = CALIBRATORS[name].fit_outputs(turned(outputs)).apply(turned(other))
    np.testing.assert_allclose(again.probabilities()[:, place], p, atol=2e-5)
    if kind == "logits":
        draw = torch.Generator().manual_seed(seed)

        def shifted(source):
            by = torch.randn(len(source), 1, generator=draw, dtype=torch.float64) * 30
            return Outputs(kind, source.scores + by, source.labels, source.class_names)

        again = CALIBRATORS[name].fit_outputs(shifted(outputs)).apply(shifted(other))
        np.testing.assert_allclose(again.probabilities(), p, atol=2e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_what_cannot_be_is_refused(name):
    """Scores of other classes, or a bare confidence, would be calibrated all the same."""
    entry, k = CALIBRATORS[name], classes(name)
    sure = Outputs.from_confidence([0.9, 0.8], [0, 1], [0, 1])
    found = entry.fit_outputs(skewed(50, k))
    for act in (entry.fit_outputs, found.apply):
        with pytest.raises(LevelheadError, match=r"hold the confidence alone|is for 2 classes"):
            act(sure)
    if name != "temperature":
        with pytest.raises(LevelheadError, match=f"fitted for {k} classes; .* have {k + 1}"):
            found.apply(skewed(50, k + 1))
        names = ["b", "a", "c"][:k]
        with pytest.raises(LevelheadError, match=r"class 0 was '0' .* is 'b' here"):
            found.apply(skewed(50, k, class_names=names))
    if entry.only:
        with pytest.raises(LevelheadError, match="is for 2 classes; these outputs have 3"):
            entry.fit_outputs(skewed(50, 3))
    good = found.to_json()
    for bad in ({**good, "x": 1}, {"method": name}, {**good, "method": "no"}, None):
        with pytest.raises(LevelheadError, match=r"calibration: (not a saved|unknown method)"):
            calibrator_of(bad)
    if name != "temperature":
        field = FIELDS.get(name, "bias")
        wrong = ([],) if field in ("p", "coefficients") else ([], ["x"] * k)
        for value in (*wrong, [float("nan")] * k):
            with pytest.raises(LevelheadError, match="not a saved"):
                calibrator_of({**good, field: value})


@pytest.mark.parametrize("name", CALIBRATORS)
def test_probabilities_of_exactly_zero(name):
    """−inf would become NaN in every parameter, or be passed over in silence."""
    k = classes(name)
    outputs = skewed(200, k)
    p = outputs.probabilities()
    row = 17
    other = (int(outputs.labels[row]) + 1) % k
    p[row, other] = 0
    p[row] /= p[row].sum()
    entry = CALIBRATORS[name]
    zero = Outputs.from_probabilities(p, outputs.labels)
    if name in ("matrix", "dirichlet"):
        with pytest.raises(LevelheadError, match=f"row 17: a probability is exactly 0.*{name}"):
            entry.fit_outputs(zero)
    else:
        after = entry.fit_outputs(zero).apply(zero)
        assert bool(after.scores.isfinite().all())
        kept = name in PARAMETRIC and name not in ("svs", "sms", "quadratic")
        assert (float(after.scores[row, other]) == 0) == kept
    labels = outputs.labels.clone()
    labels[row] = other
    lost = Outputs.from_probabilities(p, labels)
    if name not in MENDS:
        with pytest.raises(LevelheadError, match="row 17: the label's probability is exactly 0"):
            entry.fit_outputs(lost)
    else:
        assert np.isfinite(nll(entry.fit_outputs(lost).apply(lost)))


@pytest.mark.parametrize("name", AFFINE)
def test_separable_data_stay_finite_and_are_named(name):
    """Parameters would run off to infinity, and the next wrong answer would cost hundreds."""
    k = classes(name)
    y = np.arange(60) % k
    found = CALIBRATORS[name].fit_outputs(Outputs.from_logits(np.eye(k)[y] * 2, y))
    assert "all of them are right" in found.sentence()
    assert np.abs(np.r_[np.ravel(found.weight), found.bias]).max() < 100
    outputs = skewed(300, k)
    keep = (outputs.labels != 0).nonzero().squeeze(1)
    if k > 2:
        found = CALIBRATORS[name].fit_outputs(outputs.take(keep))
        assert "none of them is of '0'" in found.sentence()
        assert -12 < found.bias[0] < 0
    flat = CALIBRATORS[name].fit_outputs(Outputs.from_logits(np.ones((30, k)), np.arange(30) % k))
    assert "all classes score the same" in flat.sentence()


def test_matrix_scaling_pulls_towards_temperature():
    """Matrix scaling would overfit small sets; the docstring's difference to Dirichlet be none."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(60, 5)) * 3  # temperature is all there is to find
    outputs = Outputs.from_logits(z, (z / 2 + draw.gumbel(size=z.shape)).argmax(1))
    t = Temperature.fit_outputs(outputs).temperature
    matrix, dirichlet = (
        np.array(CALIBRATORS[name].fit_outputs(outputs).weight) * t
        for name in ("matrix", "dirichlet")
    )
    assert np.ptp(np.diag(matrix)) < np.ptp(np.diag(dirichlet)) / 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(10, 200), k=st.integers(2, 8))
def test_folds_are_even_and_stratified(seed, n, k):
    """A fold without a class, or far larger than the others, would judge by luck."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, k, n))
    found = folds(labels, 5, seed)
    for part in (found, *(found[labels == c] for c in labels.unique())):
        counts = part.bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    order = torch.from_numpy(np.random.default_rng(seed).permutation(k))
    assert torch.equal(folds(order[labels], 5, seed), found)


def test_ranking():
    """Numbers that are not held out, differences that are not paired, or a missing reason."""
    outputs = skewed(1200, 3, bias=1.5)
    rows = {row.name: row for row in rank(outputs)}
    assert not {"platt", "beta"} & rows.keys()
    assert set(rows) == {"none", "temperature", "svs", "sms", "vector"}
    for name, row in rows.items():
        assert row.reason == ""
        mean, low, high = row.nll
        assert low < mean < high
        assert mean == pytest.approx(float(row.losses.mean()))
        if name != "temperature":
            value = float((row.losses - rows["temperature"].losses).mean())
            assert row.over_temperature[0] == pytest.approx(value)
            assert row.over_temperature[1] < value < row.over_temperature[2]
    np.testing.assert_allclose(rows["none"].losses, outputs.rows.nll)
    fold = random_folds(1200, 5)
    fitted = Temperature.fit_outputs(outputs.take((fold != 2).nonzero().squeeze(1)))
    after = fitted.apply(outputs.take((fold == 2).nonzero().squeeze(1)))
    np.testing.assert_allclose(rows["temperature"].losses[fold == 2], after.rows.nll)
    few = {row.name: row for row in rank(skewed(45, 3))}
    assert few["vector"].reason == "needs 50 examples; there are 45"
    assert few["vector"].nll is None
    asked = {row.name: row for row in rank(skewed(60, 3), ["isotonic", "platt"])}
    assert asked["isotonic"].nll is not None
    assert "is for 2 classes" in asked["platt"].reason
    for bad, match in (({"methods": ["vectr"]}, "did you mean 'vector'"), ({"folds": 1}, "folds")):
        with pytest.raises(LevelheadError, match=match):
            rank(outputs, **bad)


def test_infinite_nll_in_the_ranking():
    """One label of probability 0 would turn every difference into NaN."""
    p = skewed(60, 3).probabilities()
    p[3] = torch.tensor([0, 0.5, 0.5])
    labels = torch.arange(60) % 3
    outputs = Outputs.from_probabilities(p, labels)
    ranked = rank(outputs, ["isotonic"])
    rows = {row.name: row for row in ranked}
    assert "row 3: infinite NLL" in rows["none"].reason
    assert "probability is exactly 0" in rows["temperature"].reason
    assert rows["isotonic"].nll is not None
    assert rows["isotonic"].over_none is None
    with pytest.raises(LevelheadError, match="no calibrator could be fitted"):
        choose(ranked, outputs)
    many = outputs.take(list(range(60)) * 17)
    assert choose(rank(many, ["isotonic"]), many).method == "isotonic"


def test_the_choice_follows_its_rule():
    """A rule that is not the documented one, or a sentence that does not say it."""
    wrong = skewed(3000, 4, bias=1.5)  # biases that temperature cannot fix
    ranked = rank(wrong, ["vector", "bias_temperature"])
    choice = choose(ranked, wrong)
    assert choice.method == choice.best in ("vector", "bias_temperature")
    rows = {row.name: row for row in ranked}
    more = rows["temperature"].losses - rows[choice.best].losses
    assert float(more.mean()) > float(more.std()) / 3000**0.5, "beyond one standard error"
    assert choice.compared == 2, "temperature is asked on its own"
    said = choice_words(choice, ranked)
    assert "corrected for the best of 2" in said
    assert said.startswith("By cross-validation on 3,000 examples")
    few = wrong.take(range(40))
    ranked = rank(few)
    assert "Too few examples for vector." in choice_words(choose(ranked, few), ranked)
    draw = np.random.default_rng(1)
    z = draw.normal(size=(400, 4)) * 2
    fine = Outputs.from_logits(z, (z + draw.gumbel(size=z.shape)).argmax(1))
    ranked = rank(fine, ["vector"])
    choice = choose(ranked, fine)
    assert choice.method == "none"
    assert "leave the model as it is" in choice_words(choice, ranked)


def test_shared_examples_are_refused():
    """Validation among the test rows would flatter; equal rows by chance would raise an alarm."""
    names = [str(i) for i in range(100)]
    outputs = skewed(100, 5, ids=names)
    with pytest.raises(LevelheadError, match=r"1 of the 50 test examples .* the id '50'"):
        refuse_overlap(outputs.take(range(51)), outputs.take(range(50, 100)))
    refuse_overlap(outputs.take(range(50)), outputs.take(range(50, 100)))
    for k in (2, 5):
        bare = skewed(2000, k, seed=k)
        refuse_overlap(bare.take(range(1000)), bare.take(range(1000, 2000)))
        with pytest.raises(LevelheadError, match=r"20 of the 1,020 .* is row 0, row 980 of val"):
            refuse_overlap(bare.take(range(1000)), bare.take(range(980, 2000)))
        # Few digits: rows repeat by chance, here within each half as well.
        p = np.random.default_rng(k).multinomial(20, softmax(bare.scores.numpy(), axis=1)) / 20
        rough = Outputs.from_probabilities(p, bare.labels)
        refuse_overlap(rough.take(range(1000)), rough.take(range(1000, 2000)))
    sure = Outputs.from_probabilities(np.eye(5)[np.arange(400) % 5], np.arange(400) % 5)
    refuse_overlap(sure, sure.take(range(200)))  # says nothing about which example it is


def test_a_real_network(real_data):
    """On somebody's overconfident ResNet-56 a calibrator would not help, or T be another."""
    outputs = read_predictions(real_data("predictions") / "resnet56_cifar10_test.npz")
    assert Temperature.fit_outputs(outputs).temperature == pytest.approx(2.45, abs=0.03)
    half, rest = outputs.take(range(0, 10_000, 2)), outputs.take(range(1, 10_000, 2))
    before = nll(rest)
    after = {
        name: nll(entry.fit_outputs(half).apply(rest))
        for name, entry in CALIBRATORS.items()
        if not entry.only
    }
    assert max(after.values()) < before
    assert after["matrix"] < after["temperature"] < after["histogram"]
    with pytest.raises(LevelheadError, match="5,000 of the 10,000"):
        refuse_overlap(half, outputs)
    refuse_overlap(half, rest)
