"""Decisions on examples that come in groups: promises that hold for new groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levelhead import decide
from levelhead.decisions import SCORES, apply_threshold, conformal, halves, threshold_for_risk
from levelhead.outputs import Outputs
from levelhead.statistics.examples import wilson


def clustered(n: int, per: int, seed: int) -> tuple[Outputs, np.ndarray]:
    """Groups share their class, most noise, and how wrong the model is; true error chances too."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) // per
    label = rng.integers(0, 10, n // per)[group]
    noise = np.sqrt(0.6) * rng.normal(size=(n // per, 10))[group]
    noise += np.sqrt(0.4) * rng.normal(size=(n, 10))
    z = 1.7 * (3 * np.eye(10)[label] + noise)
    true = z * np.exp(0.5 * rng.normal(size=n // per))[group][:, None]
    p = np.exp(true - true.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    labels = (rng.random((n, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    outputs = Outputs.from_logits(z, labels, groups=[str(g) for g in group])
    return outputs, 1 - p[np.arange(n), z.argmax(1)]


def test_a_threshold_keeps_its_promise_for_new_groups():
    """With 50 in a group, 15 % of the guarantees at 95 % were broken."""
    world, chance = clustered(100_000, 50, 99)
    sure_there = SCORES["msp"].of(world).numpy()
    broken = {"groups": 0, "alone": 0}
    for seed in range(60):
        outputs, _ = clustered(1000, 50, seed)
        sure, errors = SCORES["msp"].of(outputs), 1 - outputs.rows.correct
        for name, units in (("groups", outputs.units), ("alone", None)):
            threshold = threshold_for_risk(sure, errors, 0.2, units=units)
            if threshold.value is not None:
                kept = sure_there >= threshold.value
                broken[name] += kept.any() and chance[kept].mean() > 0.2
    assert broken["alone"] > 8, "the world is no trap"
    assert broken["groups"] <= 4, broken


def test_units_of_one_are_no_units():
    """Groups that group nothing would cost coverage."""
    outputs, _ = clustered(400, 10, 0)
    sure, errors = SCORES["msp"].of(outputs), 1 - outputs.rows.correct
    one = threshold_for_risk(sure, errors, 0.2)
    same = threshold_for_risk(sure, errors, 0.2, units=torch.arange(400))
    assert one == same


def test_the_quantile_gives_each_group_the_same_mass():
    """A patient with a hundred images would speak louder than one with two."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 60)
    group = np.repeat(np.arange(60), sizes)
    z = 2 * rng.normal(size=(len(group), 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(1)
    outputs = Outputs.from_logits(z, labels, groups=[str(g) for g in group])
    fitted = conformal.fit(outputs, 0.1)
    own = outputs.rows.nll.numpy()
    candidates = np.sort(own)
    mass = [sum((own[group == g] <= q).mean() for g in range(60)) / 61 for q in candidates]
    wanted = candidates[np.flatnonzero(np.array(mass) >= 0.9 - 1e-9)[0]]
    assert fitted.quantile == (pytest.approx(wanted),)
    assert fitted.groups == 60
    assert "from a new group" in fitted.guarantee()
    assert conformal.Conformal.from_json(fitted.to_json()) == fitted
    few = outputs.take(np.flatnonzero(group < 5))
    assert conformal.fit(few, 0.1).quantile == (np.inf,), "five groups cannot promise 90 %"


def test_halves_and_findings_keep_groups_whole():
    """A calibrator would vouch for the patients it was fitted on."""
    outputs, _ = clustered(600, 10, 1)
    test, _ = clustered(600, 10, 2)
    first, second = halves(outputs)
    assert not set(first.groups) & set(second.groups)
    found = decide(outputs, test, risk=0.2).findings
    for way in ("lac", "aps"):
        coverage = found["conformal"][way]["test"]["coverage"]
        low, high = wilson(coverage["value"] * 600, 600)
        assert coverage["high"] - coverage["low"] > 1.05 * (high - low)


def test_the_risk_on_test_has_a_wider_interval():
    """A promise would be called kept, or broken, on the word of three patients."""
    outputs, _ = clustered(500, 50, 3)
    threshold = threshold_for_risk(SCORES["msp"].of(outputs), 1 - outputs.rows.correct, 0.3)
    grouped = apply_threshold(threshold, outputs)["risk"]
    alone = apply_threshold(threshold, Outputs.from_logits(outputs.scores, outputs.labels))["risk"]
    assert grouped["value"] == alone["value"]
    assert grouped["high"] - grouped["low"] > 1.3 * (alone["high"] - alone["low"])


def test_decide_names_whose_confidence_it_cuts():
    """Cut on the raw confidence by the threshold of the calibrated one, 3 % were wrong where 1 %
    was promised."""
    rng = np.random.default_rng(5)
    z = 2 * rng.normal(size=(4000, 5))
    labels = (z + rng.gumbel(size=z.shape)).argmax(1)
    validation, test = (
        Outputs.from_logits(3 * z[part], labels[part])
        for part in (slice(0, 2000), slice(2000, 4000))
    )
    decided = decide(validation, test, risk=0.1)
    found = decided.findings
    assert (found["score"], found["confidence"]) == ("msp", "calibrated")
    assert found["pnorm"]["p"] is None, "the top probability, unless another wins"
    said = " ".join(decided.words)
    assert "the calibrated confidence is at least" in said
    assert "the model's own confidence is at least" in said
    raw = found["raw_threshold"]
    kept = test.rows.confidence >= raw["set"]["confidence"]
    wrong = float((1 - test.rows.correct)[kept].mean())
    assert wrong == pytest.approx(raw["test"]["risk"]["value"], abs=2e-3)
    sizes = {way: found["conformal"][way]["test"]["size"]["value"] for way in found["conformal"]}
    assert found["sets"] in sizes
    fine = decide(
        *(Outputs.from_logits(o.scores / 3, o.labels) for o in (validation, test)), risk=0.1
    )
    assert (fine.findings["confidence"], fine.findings["raw_threshold"]) == ("raw", None)


def test_every_score_prints_in_its_own_unit():
    """A p-norm of 0.92 was printed as a confidence of 0.60, and who acted on it was misled."""
    for name, part in (
        ("msp", "the confidence is at least 0.8647"),
        ("margin", "apart"),
        ("entropy", "entropy is at most"),
        ("pnorm", "max v / ‖v‖ is at least 2"),
        ("energy", "log Σ exp(logit) is at least 2"),
        ("max_logit", "the largest logit is at least 2"),
    ):
        assert part in SCORES[name].at_least(-2.0 if name == "entropy" else 2.0)
