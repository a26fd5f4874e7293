"""Decisions: the curve, the scores, thresholds and their guarantee."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import logsumexp

from levelhead.decisions import (
    SCORES,
    Threshold,
    apply_threshold,
    clopper_pearson,
    find_score,
    fit_pnorm,
    halves,
    risk_band,
    risk_coverage,
    threshold_for_risk,
)
from levelhead.decisions.scores import pnorm
from levelhead.errors import LevelheadError
from levelhead.metrics import METRICS
from levelhead.outputs import Outputs
from levelhead.statistics.examples import upper_bound
from worlds import certainties, truthful


def all_orders(sure: list[float], loss: list[float]) -> tuple[np.ndarray, float]:
    """Mean risk at each count over every permutation that sorts, and the least AURC of any."""
    risks, least = [], math.inf
    for order in itertools.permutations(range(len(sure))):
        curve = [sum(loss[i] for i in order[:j]) / j for j in range(1, len(sure) + 1)]
        least = min(least, sum(curve) / len(curve))
        if all(sure[a] >= sure[b] for a, b in itertools.pairwise(order)):
            risks.append(curve)
    return np.mean(risks, 0), least


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, math.inf]), st.sampled_from([0.0, 1.0, 2.5])),
        min_size=1,
        max_size=6,
    )
)
def test_risk_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, float]]) -> None:
    """Else AURC would depend on the order of the file wherever confidences are equal."""
    sure, loss = map(list, zip(*rows, strict=True))
    curve = risk_coverage(sure, loss)
    risk, least = all_orders(sure, loss)
    np.testing.assert_allclose(curve.risk, risk, atol=1e-12)
    assert curve.aurc == pytest.approx(risk.mean(), abs=1e-12)
    assert curve.eaurc == pytest.approx(risk.mean() - least, abs=1e-12)
    assert curve.coverage[-1] == 1
    assert (np.diff(curve.threshold[np.isfinite(curve.threshold)]) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, 40, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])), st.randoms())
def test_order_of_examples_is_nothing(sure: np.ndarray, random: Any) -> None:
    """Else shuffling a file of predictions would change what is reported."""
    errors = (np.arange(40) % 3 == 0).astype(float)
    order = list(range(40))
    random.shuffle(order)
    first, second = risk_coverage(sure, errors), risk_coverage(sure[order], errors[order])
    np.testing.assert_allclose(first.risk, second.risk, atol=1e-12)
    found = [threshold_for_risk(s, e, 0.6) for s, e in ((sure, errors), (sure[order], errors))]
    assert found[0] == threshold_for_risk(torch.tensor(sure[order]), errors[order], 0.6)


def test_curve_agrees_with_a_plain_transcription_and_the_metric() -> None:
    """Else the library would report two different areas for one model."""
    outputs = truthful(2000, scale=2.0, dtype=np.float32)
    errors = 1 - outputs.rows.correct
    curve = risk_coverage(SCORES["msp"].of(outputs), errors)
    order = (-outputs.rows.log_rest).argsort(descending=True)
    literal = np.mean([float(errors[order[: i + 1]].mean()) for i in range(2000)])
    assert curve.aurc == pytest.approx(literal, abs=1e-12)
    thin = curve.thinned(50)
    assert len(thin.risk) == 50
    assert (thin.risk[-1], thin.aurc) == (curve.risk[-1], curve.aurc)
    assert len(json.dumps(curve.as_json(), allow_nan=False)) > 100
    for name in ("aurc", "eaurc"):
        if name in METRICS:
            metric = METRICS[name]
            value = metric.value(metric.prepare(outputs))[name]
            assert value == pytest.approx(getattr(curve, name), rel=1e-9)


def test_curve_refuses_what_it_cannot_rank() -> None:
    """Else a NaN would silently be the most or the least certain."""
    for sure, errors in (([1.0, math.nan], [0, 1]), ([1.0], [0, 1]), ([], []), ([1.0], [math.inf])):
        with pytest.raises(LevelheadError):
            risk_coverage(sure, errors)


def test_saturated_probabilities_are_still_ranked() -> None:
    """Else a quarter of a modern network's answers would tie at a confidence of exactly 1."""
    z = torch.tensor([[40.0, 0.0], [60.0, 0.0], [50.0, 0.0], [1000.0, 0.0]])
    outputs = Outputs.from_logits(z, [0, 0, 0, 0])
    assert (torch.softmax(z, 1)[:, 0] == 1).all()
    for name in ("msp", "margin", "entropy"):
        assert SCORES[name].of(outputs).argsort().tolist() == [0, 2, 1, 3]


def test_clopper_pearson_is_scipys() -> None:
    """Else the guarantee would rest on a wrong binomial tail."""
    k, n = np.array([0, 1, 7, 50, 50]), np.array([5, 30, 200, 51, 50])
    low, high = clopper_pearson(k, n, 0.9)
    for i in range(len(k)):
        found = stats.binomtest(int(k[i]), int(n[i])).proportion_ci(0.9, "exact")
        assert (low[i], high[i]) == pytest.approx((found.low, found.high), abs=1e-12)


def test_band_is_the_bootstraps() -> None:
    """Else the band in the figure would not be that of resampling the examples."""
    rng = np.random.default_rng(0)
    sure = np.round(rng.exponential(size=300), 1)
    errors = (rng.random(300) < 0.5 * np.exp(-sure / 2)).astype(float)
    at = [0.2, 0.5, 1.0]
    low, high = risk_band(risk_coverage(sure, errors), at, resamples=4000)
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(300, size=300)
        risk = risk_coverage(sure[chosen], errors[chosen]).risk
        drawn.append([risk[int(c * 300) - 1] for c in at])
    literal = np.quantile(drawn, [0.025, 0.975], axis=0)
    kept = np.array(at) * 300
    exact = clopper_pearson(risk_coverage(sure, errors).risk[kept.astype(int) - 1] * kept, kept)
    np.testing.assert_allclose(low, np.minimum(literal[0], exact[0]), atol=0.008)
    np.testing.assert_allclose(high, np.maximum(literal[1], exact[1]), atol=0.008)
    none = risk_band(risk_coverage(sure, 0 * errors), [0.1, 1.0])
    assert none[1] == pytest.approx(stats.beta.ppf(0.975, 1, [30, 300]))
    with pytest.raises(LevelheadError, match="outside 0 to 1"):
        risk_band(risk_coverage(sure, errors * 3), at)


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, (6, 4), elements=st.integers(-30, 30).map(float)),
    arrays(np.float64, 6, elements=st.integers(-1000, 1000).map(float)),
)
def test_a_constant_on_the_logits_changes_no_ranking(z: np.ndarray, c: np.ndarray) -> None:
    """Else two networks with the same probabilities would be ranked differently."""
    one, other = (Outputs.from_logits(x, [0] * 6) for x in (z, z + c[:, None]))
    for name in ("msp", "margin", "entropy", "pnorm", "pnorm5"):
        score = find_score(name)
        np.testing.assert_allclose(score.of(one), score.of(other), rtol=1e-9, atol=1e-12)


def test_scores_are_their_formulas() -> None:
    """Else a score would not be the one that its name and source promise."""
    outputs = truthful(200, scale=2.0, dtype=np.float32)
    z, p = outputs.scores.double().numpy(), outputs.probabilities().numpy()
    v = z - z.mean(1, keepdims=True)
    top = np.sort(p, 1)
    found = {
        "msp": -np.log(1 - top[:, -1]),
        "margin": -np.log(1 - (top[:, -1] - top[:, -2])),
        "entropy": -stats.entropy(p, axis=1),
        "energy": logsumexp(z, 1),
        "max_logit": z.max(1),
        **{f"pnorm{q}": v.max(1) / np.linalg.norm(v, q, axis=1) for q in (1, 3, 10)},
    }
    for name, wanted in found.items():
        np.testing.assert_allclose(find_score(name).of(outputs), wanted, rtol=1e-7, atol=1e-9)
    same = Outputs.from_probabilities(p, outputs.labels)
    for name in ("msp", "margin", "entropy"):
        np.testing.assert_allclose(SCORES[name].of(same), found[name], rtol=1e-7)
    assert pnorm(3).of(Outputs.from_logits([[0.1] * 10, [1e30] + [0.0] * 9], [0, 0]))[0] == 0


def test_scores_say_what_they_miss() -> None:
    """Else probabilities would be taken for logits, or a made-up number shown."""
    p = Outputs.from_probabilities([[0.9, 0.1]], [0])
    sure = Outputs.from_confidence([0.9], [0], [0])
    for name in ("energy", "max_logit", "pnorm"):
        with pytest.raises(LevelheadError, match="needs logits"):
            SCORES[name].of(p)
    with pytest.raises(LevelheadError, match="needs logits"):
        fit_pnorm(p)
    assert SCORES["msp"].missing(sure) is None
    assert "needs probabilities" in str(SCORES["entropy"].missing(sure))
    with pytest.raises(LevelheadError, match="did you mean 'energy'"):
        find_score("enrgy")


def test_pnorm_is_chosen_where_it_ranks_better_and_only_there() -> None:
    """Else the remedy for smoothed models would harm those that need none."""
    calibrated = fit_pnorm(truthful(4000, dtype=np.float32))
    assert calibrated.p is None
    assert calibrated.high >= 0
    # Where the scale of the logits is noise, dividing by their norm fixes the ranking.
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 5))
    z *= 5 / np.linalg.norm(z - z.mean(1, keepdims=True), axis=1, keepdims=True)
    p = np.exp(z - logsumexp(z, 1, keepdims=True))
    labels = (p.cumsum(1) < rng.random((4000, 1))).sum(1).clip(max=4)
    outputs = Outputs.from_logits(z, labels)
    noisy = Outputs.from_logits(z * rng.uniform(0.2, 5, (4000, 1)), labels)
    found = fit_pnorm(noisy)
    assert found.p is not None
    assert found.gain < found.high < 0
    errors = 1 - noisy.rows.correct
    msp = risk_coverage(find_score("msp").of(noisy), errors).aurc
    whole = risk_coverage(found.score.of(noisy), errors).aurc - msp
    assert whole == pytest.approx(found.gain, rel=0.2), "folds, and all at once"
    right = Outputs.from_logits(outputs.scores, outputs.predictions())
    assert fit_pnorm(right).p is None
    assert fit_pnorm(right).as_json()["score"] == "msp"


def test_halves_are_halves() -> None:
    """Else an example would both fit a calibrator and vouch for it, or a class fall in one half."""
    outputs = truthful(501, scale=2.0, dtype=np.float32)
    first, second = halves(outputs)
    again, _ = halves(outputs)
    assert torch.equal(first.scores, again.scores)
    rows = {tuple(row) for half in (first, second) for row in half.scores.tolist()}
    assert len(rows) == 501 == len(first) + len(second)
    counts = [torch.bincount(half.labels, minlength=5) for half in (first, second)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    with pytest.raises(LevelheadError):
        halves(truthful(1, scale=2.0, dtype=np.float32))


@pytest.mark.parametrize("method", ["ltt", "sgr"])
@pytest.mark.parametrize(("kind", "n"), [("rising", 1500), ("steps", 1500), ("flat", 400)])
def test_guarantee_holds(method: Any, kind: str, n: int) -> None:
    """Else more than 5 % of users would have a risk above the one they were promised."""
    rng = np.random.default_rng(5)
    every, wrong = certainties(400_000, rng, kind)
    order = np.argsort(-every)
    every, risk = every[order], np.cumsum(wrong[order]) / np.arange(1, len(every) + 1)
    broken = kept = 0
    for _ in range(300):
        found = threshold_for_risk(*certainties(n, rng, kind), 0.05, method=method)
        if found.value is not None:
            last = np.searchsorted(-every, -found.value, side="right")
            broken += bool(last) and risk[last - 1] > 0.05
            kept += found.coverage > 0.4
    assert broken / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    assert kind == "flat" or kept > 250  # and it is of use


def test_ltt_is_fixed_sequence_testing() -> None:
    """Else the tests behind the guarantee would not be those that its proof is about."""
    rng = np.random.default_rng(3)
    sure, errors = certainties(700, rng, "rising")
    found = threshold_for_risk(sure, errors, 0.04)
    wrong = np.cumsum(errors[np.argsort(-sure)])
    m = 4  # the most starts, a factor 2 apart, of which each could succeed: 108 · 8 > 700 for 5
    first = math.ceil(math.log(0.05 / m) / math.log(0.96))
    assert first * 2 ** (m - 1) > 700
    m = 3
    first = math.ceil(math.log(0.05 / m) / math.log(0.96))
    assert first * 2 ** (m - 1) <= 700
    starts = {round(first * (700 / first) ** (i / m)) for i in range(m)}
    cuts = sorted({round(c) for c in np.linspace(first, 700, 500)} | starts)
    best = 0
    for start in starts:
        for cut in [c for c in cuts if c >= start]:
            if stats.binom.cdf(wrong[cut - 1], cut, 0.04) > 0.05 / m:
                break
            best = max(best, cut)
    assert found.n_kept == best > 0
    assert found.errors_kept == wrong[best - 1]
    assert found.bound == pytest.approx(
        stats.beta.ppf(1 - 0.05 / m, wrong[best - 1] + 1, best - wrong[best - 1])
    )
    assert (sure >= found.value).sum() == best


def test_ltt_keeps_more_than_sgr() -> None:
    """Else the default would be the wrong one."""
    rng = np.random.default_rng(1)
    data = [certainties(1500, rng, "rising") for _ in range(60)]
    ltt, sgr = (
        np.mean([threshold_for_risk(*d, 0.03, method=m).coverage for d in data])
        for m in ("ltt", "sgr")
    )
    assert ltt > sgr


def test_few_examples_are_told_how_many_are_needed() -> None:
    """Else a threshold would be promised on no evidence, or the user left without a way on."""
    for n in (1, 2, 3, 298):
        found = threshold_for_risk(np.arange(n), np.zeros(n), 0.01)
        assert (found.value, found.needed, found.guarantee, found.n_kept) == (None, 299, None, 0)
        assert f"add {299 - n}" in str(found.reason)
    found = threshold_for_risk(np.arange(299), np.zeros(299), 0.01)
    assert (found.value, found.coverage) == (-math.inf, 1.0)
    assert "99.9" not in str(found.guarantee)
    assert "95 %" in str(found.guarantee)
    assert Threshold.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False))) == found
    hopeless = threshold_for_risk(np.arange(500), np.ones(500), 0.01)
    assert hopeless.needed is None
    assert "improve the model" in str(hopeless.reason)
    errors = np.arange(500) % 60 == 0
    near = threshold_for_risk(np.zeros(500), errors, 0.02, method="sgr")
    assert near.needed is not None
    assert threshold_for_risk(
        np.zeros(near.needed * 2), np.arange(near.needed * 2) % 60 == 0, 0.02, method="sgr"
    ).value is not None  # fmt: skip
    for risk, errors in ((0.0, [0, 1]), (1.5, [0, 1]), (0.1, [0, 0.5])):
        with pytest.raises(LevelheadError):
            threshold_for_risk([1, 2], errors, risk)


def test_threshold_keeps_whole_ties() -> None:
    """Else the threshold would keep other examples than those it was tested on."""
    sure = np.repeat([math.inf, 3.0, 1.0], [400, 300, 300])
    errors = np.concatenate((np.zeros(700), np.ones(300)))
    for method in ("ltt", "sgr"):
        found = threshold_for_risk(sure, errors, 0.02, method=method)  # type: ignore[arg-type]
        assert (found.n_kept, found.errors_kept) == (700, 0)
        assert (sure >= found.value).sum() == 700
        assert found.value is not None
        assert 1 < found.value < 1 + 1e-9


def test_apply_threshold_counts() -> None:
    """Else the coverage and risk on test would not be those of the rule that was set."""
    validation, test = (
        truthful(3000, seed=1, scale=2.0, dtype=np.float32),
        truthful(3000, seed=2, scale=2.0, dtype=np.float32),
    )
    errors = 1 - validation.rows.correct
    found = threshold_for_risk(SCORES["msp"].of(validation), errors, 0.1)
    assert found.confidence is not None
    keep = test.rows.confidence > found.confidence
    result = apply_threshold(found, test)
    assert result["n_kept"] == int(keep.sum()) > 300
    assert result["risk"]["value"] == pytest.approx(1 - float(test.rows.correct[keep].mean()))
    assert result["risk"]["low"] < 0.1
    assert result["coverage"]["low"] < found.coverage < result["coverage"]["high"]
    none = apply_threshold(threshold_for_risk([1.0], [0], 0.01), test)
    assert none["risk"]["value"] is None
    strict = threshold_for_risk(np.arange(100.0), np.arange(100) < 50, 0.2)
    assert apply_threshold(strict, test)["risk"]["reason"] == "nothing is kept"


def test_what_is_best_is_best() -> None:
    """ "At best" would be said of a cut that another beats."""
    rng = np.random.default_rng(0)
    refusals = 0
    for seed in range(40):
        certainty = rng.normal(size=400).round(1 if seed % 2 else 9)
        errors = (rng.random(400) < 0.15 / (1 + np.exp(certainty))).astype(float)
        chosen = threshold_for_risk(certainty, errors, 0.01)
        if chosen.value is not None:
            continue
        refusals += 1
        match = re.search(
            r"it takes ([\d,]+) kept .* at best (\d+) of (\d+) are", chosen.reason or ""
        )
        assert match is not None, chosen.reason
        fewest, wrong, kept = (int(part.replace(",", "")) for part in match.groups())
        bounds = {}
        for cut in np.unique(certainty):
            keep = certainty >= cut
            if keep.sum() >= fewest:
                bounds[int(keep.sum())] = (upper_bound(errors[keep].sum(), keep.sum(), 0.05), keep)
        best = min(bounds, key=lambda n: float(bounds[n][0]))
        assert errors[bounds[best][1]].sum() / best == pytest.approx(wrong / kept, abs=0.02)
    assert refusals > 5
