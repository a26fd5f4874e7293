"""Decisions: conformal sets, costs, and telling examples of the task from others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from levelhead.decisions import conformal, costs, separate, separation
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from worlds import truthful

NAMES = ("cat", "dog", "cow")


def literal_score(method: str, p: np.ndarray, k: int, u: float) -> float:
    """The score of class k of one example, as the papers write it."""
    if method == "lac":
        return -math.log(p[k])
    order = sorted(range(len(p)), key=lambda j: -p[j])
    rank = order.index(k) + 1
    score = sum(p[j] for j in order[: rank - 1]) + u * p[k]
    return score + (0.1 * max(0, rank - 2) if method == "raps" else 0.0)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_are_those_of_a_literal_transcription(method: Any, by_class: bool) -> None:
    """Else the sets would not be the method's, and its theorem would not speak of them."""
    first, second = truthful(120, seed=1), truthful(50, seed=2)
    found = conformal.fit(first, 0.2, method, 7, by_class=by_class, penalty=0.1, k_reg=2)
    scores = []
    for outputs, use in ((first, 0), (second, 1)):
        # 1 − u: as likely, and drawn for each example in turn.
        u = 1 - np.random.default_rng([7, use]).random(len(outputs))
        p = outputs.probabilities().numpy()
        scores.append(
            np.array(
                [
                    [literal_score(method, row, k, v) for k in range(5)]
                    for row, v in zip(p, u, strict=True)
                ]
            )
        )
    own, labels = scores[0][np.arange(120), first.labels], first.labels.numpy()
    limits = []
    for part in [own[labels == k] for k in range(5)] if by_class else [own]:
        rank = math.ceil((len(part) + 1) * 0.8)
        limits.append(math.inf if rank > len(part) else sorted(part)[rank - 1])
    np.testing.assert_allclose(found.quantile, limits, rtol=1e-12)
    wanted = scores[1] <= np.array(limits)
    inside = conformal.sets(found, second)
    assert torch.equal(inside, torch.from_numpy(wanted))
    result = conformal.evaluate(found, second)
    hits = wanted[np.arange(50), second.labels]
    assert result["coverage"]["value"] == pytest.approx(hits.mean())
    assert result["size"]["value"] == pytest.approx(wanted.sum(1).mean())
    assert result["empty"] == pytest.approx((wanted.sum(1) == 0).mean())
    for k, row in enumerate(result["by_class"]):
        here = second.labels.numpy() == k
        assert row["n"] == here.sum()
        assert row["coverage"]["value"] == pytest.approx(hits[here].mean())
        assert row["size"] == pytest.approx(wanted[here].sum(1).mean())
    assert sum(row["n"] for row in result["by_size"]) == 50
    assert all(r["coverage"]["value"] == 0 for r in result["by_size"] if r["name"] == "0")
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_coverage_is_as_promised(method: Any) -> None:
    """Else sets would hold the truth less often than promised, of an overconfident model too."""
    found, n = [], 99
    for seed in range(200):
        outputs = truthful(n + 100, seed=seed, scale=3.0)
        fitted = conformal.fit(outputs.take(range(n)), 0.1, method, seed)
        test = outputs.take(range(n, n + 100))
        inside = conformal.sets(fitted, test)
        found.append(float(inside[torch.arange(100), test.labels].double().mean()))
    error = np.std(found) / math.sqrt(len(found))
    low, high = fitted.coverage_range()
    # Each seed's coverage is itself estimated from 100: within the range of an infinite test set.
    slack = 2 * math.sqrt(0.9 * 0.1 / 100)
    assert np.mean([low - slack <= f <= high + slack for f in found]) >= 0.9
    assert high - low == pytest.approx(4 * math.sqrt(0.9 * 0.1 / 101), rel=0.1)
    assert 0.9 - 3 * error < np.mean(found) < 0.9 + 1 / (n + 1) + 3 * error


def test_each_class_is_covered_by_class() -> None:
    """Else a rare or hard class would be left out as if the others' coverage were its own."""
    outputs = truthful(6000, k=3, scale=2.0)
    hard = Outputs.from_logits(outputs.scores + torch.tensor([2.0, 0.0, 0.0]), outputs.labels)
    first, second = hard.take(range(3000)), hard.take(range(3000, 6000))
    plain, mondrian = (
        conformal.evaluate(conformal.fit(first, 0.1, by_class=b), second) for b in (False, True)
    )
    assert plain["worst_class"]["coverage"]["high"] < 0.9
    assert mondrian["worst_class"]["coverage"]["high"] > 0.9


def test_too_few_examples_give_all_classes() -> None:
    """Else a promise would be made that so few examples cannot keep."""
    few = conformal.fit(truthful(8), 0.1)
    assert few.quantile == (math.inf,)
    assert conformal.sets(few, truthful(20)).all()
    assert "all classes are in every set" in few.guarantee()
    assert few.coverage_range() == (0.9, 1)
    assert conformal.fit(truthful(9), 0.1).quantile[0] < math.inf
    assert conformal.evaluate(few, truthful(20))["all"] == 1
    again = conformal.Conformal.from_json(json.loads(json.dumps(few.to_json(), allow_nan=False)))
    assert again == few
    one = Outputs.from_logits([[1000.0, 0.0]], [1])
    assert conformal.sets(conformal.fit(one, 0.5), one).all()
    for alpha, method in ((0.0, "lac"), (1.0, "aps"), (0.1, "best")):
        with pytest.raises(LevelheadError):
            conformal.fit(truthful(9), alpha, method)  # type: ignore[arg-type]
    with pytest.raises(LevelheadError, match="fit anew"):
        conformal.sets(few, truthful(5, k=4))
    with pytest.raises(LevelheadError, match="confidence"):
        conformal.fit(Outputs.from_confidence([0.9], [0], [0]))


def table(tmp_path: Path, text: str) -> Path:
    """A file of costs."""
    path = tmp_path / "costs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_costs_are_read_by_name(tmp_path: Path) -> None:
    """Else a table in another order than the classes would price the wrong mistakes."""
    text = "true,dog,cat,abstain,cow\ncow,1,2,3,0\ncat,4,0,5,6\n\ndog,0,8,9,7\n"
    for path in (table(tmp_path, text), table(tmp_path, text.replace(",", ";"))):
        found = costs.read_costs(path, NAMES)
        assert found.matrix.tolist() == [[0, 4, 6], [8, 0, 7], [2, 1, 0]]
        assert found.abstain is not None
        assert found.abstain.tolist() == [5, 9, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'cat' is missing"),
        ("t,cat,dog\n", "'cow' is missing"),
        ("t,cat,dog,cow\ncat,0,1,1\ndog,1,0,1\n", "first column: 'cow' is missing"),
        ("t,cat,dog,cwo\n", "did you mean 'cow'"),
        ("t,cat,dog,cow,cow\n", "occurs twice"),
        ("t,cat,dog,cow\ncat,0,1,1\ndog,x,0,1\ncow,1,1,0\n", "line 3, column cat: 'x'"),
        ("t,cat,dog,cow\ncat,0,1,inf\ndog,1,0,1\ncow,1,1,0\n", "line 2, column cow"),
        ("t,cat,dog,cow\ncat,0,1\ndog,1,0,1\ncow,1,1,0\n", "line 2: 2 costs"),
    ],
)
def test_bad_costs_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """Else a slip in the table would silently change every decision."""
    with pytest.raises(LevelheadError, match=words):
        costs.read_costs(table(tmp_path, text), NAMES)
    with pytest.raises(LevelheadError, match="cannot be read"):
        costs.read_costs(tmp_path / "none.csv", NAMES)


def test_decisions_cost_least() -> None:
    """Else another choice would be cheaper by the model's own probabilities."""
    outputs = truthful(300, k=3)
    rng = np.random.default_rng(0)
    matrix = torch.tensor(rng.uniform(-1, 5, (3, 3)))
    price = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64)
    found = costs.decide(outputs, costs.Costs(matrix, outputs.class_names, price))
    for p, choice, expected in zip(
        outputs.probabilities(), found.choice, found.expected, strict=True
    ):
        all_of = [float(p @ matrix[:, k]) for k in range(3)] + [float(p @ price)]
        assert expected == pytest.approx(min(all_of))
        assert all_of[int(choice)] == pytest.approx(min(all_of))
    assert {-1, 0, 1, 2} >= set(found.choice.tolist()) > {-1}
    zero_one = costs.Costs(1 - torch.eye(3).double(), outputs.class_names)
    assert torch.equal(costs.decide(outputs, zero_one).choice, outputs.predictions())
    # Chow's rule: with 0/1 costs abstain where the top probability is below 1 − price.
    chow = costs.decide(outputs, zero_one, 0.3)
    assert torch.equal(chow.choice == -1, outputs.rows.confidence < 0.7)
    with pytest.raises(LevelheadError, match="other classes"):
        costs.decide(truthful(3), zero_one)
    with pytest.raises(LevelheadError, match="finite"):
        costs.decide(outputs, zero_one, math.nan)


def test_expected_costs_are_believed_only_of_a_calibrated_model() -> None:
    """Else an overconfident model's promise of low costs would be passed on."""
    matrix = torch.tensor([[0.0, 10, 1], [1, 0, 1], [1, 1, 0]]).double()
    for scale, believable in ((1.0, True), (4.0, False)):
        outputs = truthful(5000, k=3, scale=scale, seed=3)
        found = costs.evaluate(outputs, costs.Costs(matrix, outputs.class_names), 0.6)
        assert found["believable"] == believable
        choice = costs.decide(outputs, costs.Costs(matrix, outputs.class_names), 0.6).choice
        paid = [
            0.6 if c < 0 else float(matrix[y, c])
            for y, c in zip(outputs.labels, choice, strict=True)
        ]
        assert found["cost"]["value"] == pytest.approx(np.mean(paid))
        if believable:
            assert found["saved"]["low"] > 0
        json.dumps(found, allow_nan=False)


def literal_delong(x: np.ndarray, y: np.ndarray) -> float:
    """Variance of the AUROC from its structural components, pair by pair."""
    order = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return float(order.mean(1).var(ddof=1) / len(x) + order.mean(0).var(ddof=1) / len(y))


def test_separation_is_scikit_learns() -> None:
    """Else AUROC and FPR would not compare with published ones."""
    rng = np.random.default_rng(0)
    for step in (0.0, 0.5):
        x, y = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
        if step:
            x, y = np.round(x / step), np.round(y / step)
        found = separation(x, y)
        labels, all_of = np.repeat([1, 0], [300, 200]), np.append(x, y)
        area = roc_auc_score(labels, all_of)
        assert found["auroc"]["value"] == pytest.approx(area, abs=1e-12)
        false, true, _ = roc_curve(labels, all_of, drop_intermediate=False)
        assert found["fpr_at_95_tpr"]["value"] == pytest.approx(false[true >= 0.95].min())
        half = 1.959964 * math.sqrt(literal_delong(x, y)) / (area * (1 - area))
        logit = math.log(found["auroc"]["high"] / (1 - found["auroc"]["high"]))
        assert logit == pytest.approx(math.log(area / (1 - area)) + half, rel=1e-6)


def test_auroc_interval_covers() -> None:
    """Else "these are told apart" would be said too surely."""
    rng, truth, hits = np.random.default_rng(0), 0.92135, 0  # Φ(2/√2)
    for _ in range(400):
        found = separation(rng.normal(2, 1, 80), rng.normal(0, 1, 60))["auroc"]
        hits += found["low"] <= truth <= found["high"]
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 30), (30, 30)])
def test_auroc_interval_where_there_is_no_variance(m: int, n: int) -> None:
    """Else thirty examples apart would be reported as 1 with certainty."""
    apart = separation(np.arange(m) + 100.0, np.arange(n))["auroc"]
    assert (apart["value"], apart["high"]) == (1, 1)
    assert apart["low"] < 0.95
    inverse = separation(np.arange(m), np.arange(n) + 100.0)["auroc"]
    assert inverse["high"] == pytest.approx(1 - apart["low"], abs=2e-3)
    equal = separation(np.zeros(m), np.zeros(n))
    assert equal["auroc"]["low"] < 0.5 < equal["auroc"]["high"]
    assert equal["fpr_at_95_tpr"]["value"] == 1


def test_separate_by_each_score() -> None:
    """Else a score that the outputs lack would stop the others, or labels would be used."""
    inside, outside = truthful(200), truthful(100, scale=0.1, seed=1)
    found = separate(inside, outside, ("msp", "energy", "max_logit", "pnorm3"))
    assert all(found[name]["auroc"]["low"] > 0.6 for name in ("msp", "energy", "max_logit"))
    assert 0.4 < found["pnorm3"]["auroc"]["value"] < 0.6  # these differ in scale alone
    assert separate(inside, outside.scores)["energy"] == found["energy"]
    p = Outputs.from_probabilities(outside.probabilities(), outside.labels)
    mixed = separate(inside, p)
    assert mixed["energy"]["auroc"]["value"] is None
    assert "needs logits" in mixed["energy"]["auroc"]["reason"]
    assert mixed["msp"]["auroc"]["value"] == pytest.approx(found["msp"]["auroc"]["value"])
    with pytest.raises(LevelheadError, match="one network"):
        separate(inside, truthful(10, k=4))
