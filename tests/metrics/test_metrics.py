"""Metrics and binning against torchmetrics, scikit-learn and NumPy."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from levelhead.errors import LevelheadError
from levelhead.machine import import_torchvision
from levelhead.metrics import METRICS, aurc, brier, ece, nll, reason, smece
from levelhead.metrics.accuracy import top_k
from levelhead.metrics.classwise import tables
from levelhead.metrics.counts import class_counts, confusion, taken_for
from levelhead.outputs import Outputs
from levelhead.statistics.binning import bin_confidence, bin_edges, bin_index
from worlds import annotated

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_torchvision()  # torchmetrics imports it, and fails beside a torch of another build
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError


def value(name: str, outputs: Outputs, weights: torch.Tensor | None = None) -> float:
    metric = METRICS[name]
    return metric.value(metric.prepare(outputs), weights)[name]


def defined(outputs: Outputs) -> list[str]:
    return [name for name, metric in METRICS.items() if reason(metric, outputs) is None]


@pytest.mark.parametrize(("n", "k"), [(500, 2), (500, 10), (300, 1000)])
def test_agree_with_scikit_learn_and_torchmetrics(n, k):
    """A metric of the table would not be the one whose name it bears."""
    outputs = annotated(n, k)
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
    assert (
        METRICS["top5"].undefined(annotated(10, 5)) == "any answer is among the top 5 of 5 classes"
    )
    assert METRICS["top5"].undefined(annotated(10, 6)) is None


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
    """A metric would depend on the order of the file, or on how often it was appended.

    Debiasing counts examples, and AURC averages over i/N, so both may change with duplicates.
    """
    outputs = annotated(60, k, seed)
    order = np.random.default_rng(seed).permutation(60)
    twice = outputs.take(np.concatenate([order, order]))
    for name in defined(outputs):
        expected = value(name, outputs)
        assert value(name, outputs.take(order)) == pytest.approx(expected, abs=1e-9), name
        if name not in ("ece_debiased", "aurc", "eaurc"):
            assert value(name, twice) == pytest.approx(expected, abs=1e-9), name


# Equal-mass bins stay where they were; refinement takes one Newton step instead of a new fit.
APPROXIMATE = {"ece_mass", "nll_refinement", "nll_calibration"}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), k=st.sampled_from([2, 7]))
def test_weights_mean_repetition(seed, k):
    """The bootstrap's re-weighting would not be re-sampling, alone or many at once."""
    outputs = annotated(40, k, seed)
    times = np.random.default_rng(seed).integers(0, 4, (2, 40))
    times[:, 0] += 1
    weights = torch.tensor(times, dtype=torch.float64)
    for name in defined(outputs):
        metric, prepared = METRICS[name], METRICS[name].prepare(outputs)
        block = metric.value(prepared, weights)[name]
        assert block.shape == (2,)
        for row, found in zip(weights, block, strict=True):
            assert metric.value(prepared, row)[name] == pytest.approx(float(found), abs=1e-12)
            again = outputs.take(np.repeat(np.arange(40), row.long()))
            if name not in APPROXIMATE:
                assert value(name, again) == pytest.approx(float(found), abs=1e-9), name
    rows, repeated = outputs.rows, outputs.take(np.repeat(np.arange(40), times[0]))
    bins = bin_confidence(rows.confidence, rows.correct, weights[0])
    assert bins.error() == pytest.approx(value("ece", repeated))
    assert bins.count.sum() == times[0].sum()


def test_refinement_under_weights_is_close_to_a_new_fit():
    """The interval of the refinement would not be that of a re-fitted temperature."""
    outputs = annotated(2000, 5)
    times = np.random.default_rng(0).multinomial(2000, np.full(2000, 1 / 2000))
    again = outputs.take(np.repeat(np.arange(2000), times))
    for name in ("nll_refinement", "nll_calibration"):
        found = value(name, outputs, torch.tensor(times).double())
        assert found == pytest.approx(value(name, again), abs=2e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_influence_is_what_a_little_more_weight_does(tied):
    """BCa and analytic intervals would have the wrong width."""
    outputs = annotated(150, 4)
    if tied:
        draw = np.random.default_rng(0)
        sure = np.round(0.5 + 0.5 * draw.random(150), 1)
        outputs = Outputs.from_confidence(sure, draw.integers(0, 2, 150), [0] * 150)
    n, step = 150, 1e-4
    weights = torch.ones(n, n, dtype=torch.float64) * (1 - step) + step * n * torch.eye(n)
    for name in defined(outputs):
        metric = METRICS[name]
        prepared = metric.prepare(outputs)
        if metric.influence is not None:
            moved = metric.value(prepared, weights)[name] - metric.value(prepared)[name]
            # Sums over ranks stand for integrals over coverage: exact as N grows.
            close = {"atol": 0.02, "rtol": 0.1} if "aurc" in name else {"atol": 2e-3, "rtol": 1e-2}
            torch.testing.assert_close(metric.influence(prepared), moved / step, **close)


def test_the_table_says_what_each_metric_is():
    """Flags, docs and reports would lack a title, a direction or a source."""
    assert list(METRICS)[:6] == [
        "accuracy", "balanced_accuracy", "top5", "nll", "nll_refinement", "nll_calibration",
    ]  # fmt: skip
    assert len(METRICS) == 31
    for name, metric in METRICS.items():
        assert (metric.name, bool(metric.title), bool(metric.source)) == (name, True, True)
        assert (metric.cells is not None) == (metric.interval == "calibration")
    up = {"accuracy", "balanced_accuracy", "top5", "brier_resolution", "auroc_errors"}
    up |= {"multilabel_accuracy", "superclass_accuracy"}
    assert {name for name, m in METRICS.items() if m.direction == "up"} == up
    assert {name for name, m in METRICS.items() if m.direction == "none"} == {
        "brier_uncertainty", "sharpness", "entropy",
    }  # fmt: skip


def test_what_confidence_alone_tells():
    """A log of confidences would crash the audit, or get numbers made of NaN."""
    full = annotated(300, 7)
    rows = full.rows
    alone = Outputs.from_confidence(rows.confidence, rows.prediction, full.labels)
    assert {name for name in METRICS if METRICS[name].needs == "confidence"} >= {"ece", "aurc"}
    for name, metric in METRICS.items():
        if metric.needs in ("acceptable", "superclasses"):
            assert f"--{metric.needs}" in reason(metric, alone)
        elif metric.needs not in ("confidence", "classes"):
            assert "only the prediction" in reason(metric, alone)
        elif reason(metric, alone) is None:
            assert value(name, alone) == pytest.approx(value(name, full)), name
    told = dataclasses.replace(alone, label_log_probability=-rows.nll)
    assert value("nll", told) == pytest.approx(value("nll", full))
    assert "label distribution" in reason(
        METRICS["soft_nll"], Outputs.from_logits(full.scores, full.labels)
    )


def test_balanced_accuracy_and_top_k():
    """A rare class would count for less than the others, or top-k count another k."""
    outputs = annotated(300, 8)
    y = outputs.labels.clone()
    y[y == 3] = 2  # a class without examples
    outputs = Outputs.from_logits(outputs.scores, y)
    told = outputs.predictions()
    expected = sk.recall_score(y, told, labels=y.unique(), average="macro")
    assert value("balanced_accuracy", outputs) == pytest.approx(expected)
    for k in (1, 3, 7):
        other = sk.top_k_accuracy_score(y, outputs.scores, k=k, labels=range(8))
        assert float(top_k(outputs, k).mean()) == pytest.approx(other)


def test_refinement_is_the_nll_after_the_best_temperature(monkeypatch):
    """The split of the NLL would not be the one of a full fit, or not add up."""
    from scipy.optimize import minimize_scalar

    monkeypatch.setattr(nll, "_SCORES", 20_000)
    for n in (300, 50_001):  # fitted on all, and on every twelfth
        outputs = annotated(n, 5)
        z, y = outputs.scores.double(), outputs.labels

        def loss(u, z=z, y=y):
            return torch.nn.functional.cross_entropy(z * math.exp(u), y).item()

        best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-7}).fun
        assert value("nll_refinement", outputs) == pytest.approx(best, abs=1e-7)
        both = value("nll_refinement", outputs) + value("nll_calibration", outputs)
        assert both == pytest.approx(value("nll", outputs))
    right = Outputs.from_logits(np.eye(6), range(6))
    assert "no lower limit" in reason(METRICS["nll_refinement"], right)
    flat = Outputs.from_logits(np.zeros((6, 6)), range(6))
    assert value("nll_refinement", flat) == pytest.approx(math.log(6))
    assert value("nll_calibration", flat) == 0
    upside_down = Outputs.from_logits(-np.eye(6), range(6))
    assert value("nll_refinement", upside_down) == pytest.approx(math.log(6), abs=1e-3)


def test_brier_parts_add_up():
    """Reliability, resolution and uncertainty would not be Murphy's."""
    outputs = annotated(500, 4)
    rows = outputs.rows
    bins = ece.prepare(outputs)
    inside = rows.confidence - (bins.sum(rows.confidence) / bins.sum())[bins.index]
    within = (inside.square() - 2 * inside * rows.correct).mean()
    parts = [value(f"brier_{p}", outputs) for p in ("reliability", "resolution", "uncertainty")]
    score = (rows.confidence - rows.correct).square().mean()
    assert parts[0] - parts[1] + parts[2] + within == pytest.approx(float(score))


def test_relatives_of_ece():
    """Another bin, sign or class would be measured than the name says."""
    outputs = annotated(800, 6)
    p, y = outputs.probabilities().numpy(), outputs.labels.numpy()
    sure, told = p.max(1), p.argmax(1)
    gap = sure - (told == y)
    edges = np.arange(1, 15) / 15

    def sums(values, *keys):
        flat = np.unique(np.stack(keys), axis=1, return_inverse=True)[1].ravel()
        return np.bincount(flat, values) / len(values), np.bincount(flat) / len(values)

    bin_of = np.digitize(sure, edges, right=True)
    gaps, share = sums(gap, bin_of)
    assert value("overconfidence", outputs) == pytest.approx(np.maximum(gaps, 0).sum())
    assert value("underconfidence", outputs) == pytest.approx(np.maximum(-gaps, 0).sum())
    assert value("mce", outputs) == pytest.approx(np.abs(gaps / share).max())
    assert value("toplabel_ece", outputs) == pytest.approx(np.abs(sums(gap, told, bin_of)[0]).sum())
    order = np.argsort(sure)
    mass = np.empty(800, int)
    mass[order] = np.ceil(np.arange(1, 801) * 15 / 800).astype(int)
    assert value("ece_mass", outputs) == pytest.approx(np.abs(sums(gap, mass)[0]).sum())
    correct, _ = sums((told == y).astype(float), bin_of)
    a, n = correct / share, share * 800
    noise = np.where(n > 1, a * (1 - a) / np.maximum(n - 1, 1), 0)
    assert value("ece_debiased", outputs) == pytest.approx(
        (share * ((gaps / share) ** 2 - noise)).sum()
    )
    for name, hit in (("classwise_ece", np.eye(6)[y]), ("human_calibration", None)):
        hit = outputs.label_distribution.numpy() if hit is None else hit
        each = [
            np.abs(sums(p[:, k] - hit[:, k], np.digitize(p[:, k], edges, right=True))[0]).sum()
            for k in range(6)
        ]
        assert value(name, outputs) == pytest.approx(np.mean(each))
    count = tables(outputs, weights=torch.ones(2, 800, dtype=torch.float64))[0]
    assert (count.sum(-1) == 800).all()
    binary = annotated(800, 2)
    p1, y1 = binary.probabilities()[:, 1].numpy(), binary.labels.numpy()
    expected = np.abs(sums(p1 - y1, np.digitize(p1, edges, right=True))[0]).sum()
    assert value("binary_ece", binary) == pytest.approx(expected)
    assert "here are 6" in reason(METRICS["binary_ece"], outputs)


def test_equal_confidences_stay_in_one_equal_mass_bin():
    """The order of the file would decide which of two equal examples is in which bin."""
    outputs = Outputs.from_confidence([0.7] * 90 + [0.9] * 10, [0] * 100, [0, 1] * 50)
    assert ece.prepare_mass(outputs).sum().count_nonzero() == 2
    assert value("ece_mass", outputs) == pytest.approx(0.9 * 0.2 + 0.1 * 0.4)


def test_bins_are_selectable():
    """Another number of bins than asked for would be used."""
    outputs = annotated(500, 4)
    for bins in (1, 40):
        found = ece.ece.value(ece.prepare(outputs, bins))["ece"]
        expected = bin_confidence(outputs.rows.confidence, outputs.rows.correct, bins=bins).error()
        assert found == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 6))
def test_aurc_is_the_mean_over_all_orders_of_ties(seed, n):
    """How a sort breaks ties would decide how good a ranking is said to be."""
    from itertools import permutations

    draw = np.random.default_rng(seed)
    sure, wrong = draw.choice([0.5, 0.7], n), draw.integers(0, 2, n)
    outputs = Outputs.from_confidence(sure, [0] * n, wrong, ["a", "b"])

    def area(order):
        return np.mean(np.cumsum(wrong[list(order)]) / np.arange(1, n + 1))

    fair = [o for o in permutations(range(n)) if all(np.diff(sure[list(o)]) <= 0)]
    expected = np.mean([area(order) for order in fair])
    assert value("aurc", outputs) == pytest.approx(expected)
    best = min(area(order) for order in permutations(range(n)))
    assert value("eaurc", outputs) == pytest.approx(expected - best, abs=1e-12)


def test_ranking_survives_saturation():
    """Confidences that round to 1.0 would be ranked by chance: a quarter of a real network's."""
    z = torch.tensor([[50.0, 0], [45, 0], [40, 0]])
    assert (torch.softmax(z, 1)[:, 0] == 1).all()
    assert value("aurc", Outputs.from_logits(z, [0, 0, 1])) == pytest.approx(1 / 9)


def test_smooth_curve_is_the_kernel_mean():
    """The drawn curve would not be what the number beside it measures."""
    draw = np.random.default_rng(0)
    sure = torch.tensor(draw.beta(3, 1, 300))
    right = torch.tensor(draw.random(300)) < sure
    at, sigma = torch.linspace(0, 1, 9), 0.05
    accuracy, density = smece.curve(sure, right, at, sigma)
    centres = torch.cat([sure + s for s in (-2, 0, 2)] + [s - sure for s in (-2, 0, 2)])
    kernel = (-(at[:, None].double() - centres).square() / (2 * sigma**2)).exp()
    kernel /= sigma * math.sqrt(2 * math.pi)
    torch.testing.assert_close(density, kernel.sum(1) / 300, rtol=1e-3, atol=1e-6)
    there = density > 1e-3
    expected = (kernel @ right.double().repeat(6)) / kernel.sum(1)
    torch.testing.assert_close(accuracy[there], expected[there], rtol=1e-3, atol=1e-4)
    weights = torch.ones(2, 300)
    weights[1, :150] = 0
    both = smece.curve(sure, right, at, sigma, weights)
    torch.testing.assert_close(both[0][0], accuracy, equal_nan=True)
    torch.testing.assert_close(both[1][1], smece.curve(sure[150:], right[150:], at, sigma)[1])


def test_cumulative_difference():
    """The curve without bins would not end at mean confidence − accuracy, or depend on order."""
    outputs = annotated(2000, 4)
    sure, difference, band = ece.cumulative(outputs)
    rows = outputs.rows
    assert float(difference[-1]) == pytest.approx(float((rows.confidence - rows.correct).mean()))
    assert (sure.diff() >= 0).all()
    order = np.random.default_rng(0).permutation(2000)
    torch.testing.assert_close(ece.cumulative(outputs.take(order))[1], difference)
    draw, out = np.random.default_rng(0), 0
    for _ in range(300):
        p = draw.random(400) / 2 + 0.5
        y = (draw.random(400) > p).astype(int)
        _, found, band = ece.cumulative(Outputs.from_confidence(p, [0] * 400, y))
        out += bool((found.abs() > band).any())
    assert 0.01 <= out / 300 <= 0.075


def test_work_is_shared_and_not_kept_for_others():
    """Every metric would sort anew, or metrics of one model use another's bins."""
    one, other = annotated(50, 3), annotated(50, 3, 1)
    assert ece.prepare(one) is METRICS["overconfidence"].prepare(one)
    assert ece.prepare(one) is not ece.prepare(other)
    assert ece.prepare(one, 5).size == 5
    assert ece.prepare(one.take(range(10))).index.shape == (10,)
    assert aurc.prepare(one) is aurc.prepare(one)
    assert nll.tempered(one) is nll.tempered(one)
    assert brier.prepare is ece.prepare


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40))
def test_counts_without_the_matrix(seed: int, k: int, n: int) -> None:
    """Of very many classes the sums are taken without the matrix, and would differ from it."""
    rng = np.random.default_rng(seed)
    outputs = Outputs.from_logits(rng.normal(size=(n, k)), rng.integers(0, k, n))
    matrix = confusion(outputs)
    right, support, predicted = class_counts(outputs)
    assert torch.equal(right, matrix.diagonal())
    assert torch.equal(support, matrix.sum(1))
    assert torch.equal(predicted, matrix.sum(0))
    wrong = matrix - matrix.diagonal().diag()
    other, times = taken_for(outputs)
    assert torch.equal(times, wrong.amax(1))
    assert torch.equal(other, wrong.argmax(1) * (times > 0))
