"""The policy: its order of answers, its file, and what it is made of."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.calibrators import CALIBRATORS
from levelhead.decisions.costs import decide as cheapest
from levelhead.decisions.costs import of_errors
from levelhead.decisions.policy import KINDS, Policy, joined, read_policy, threshold_at
from levelhead.decisions.unknown import SHRINKAGE, Reference, Unknown, fit_unknown
from levelhead.errors import LevelheadError
from levelhead.judging import Wishes, set_policy
from levelhead.outputs import Outputs
from worlds import sampled

WISHES = {
    "unasked": Wishes(),
    "risk": Wishes(risk=0.2),
    "by class": Wishes(risk=0.4, risk_by_class={"0": 0.3}),
    "coverage": Wishes(coverage=0.7, unknown=None),
    "costs": Wishes(costs=of_errors(("0", "1", "2", "3")), abstain_price=0.3),
}


def with_features(outputs: Outputs, seed: int = 0) -> Outputs:
    """Features that are near a point of each class."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(outputs.classes, 6, generator=torch.Generator().manual_seed(99)) * 4
    features = centres[outputs.labels] + torch.randn(len(outputs), 6, generator=draw)
    return dataclasses.replace(outputs, features=features)


def reference() -> Reference:
    train = with_features(sampled(400, seed=7), 7)
    assert train.features is not None
    return Reference.of(train.features, train.labels, 4)


@pytest.mark.parametrize("method", CALIBRATORS)
def test_a_layer_is_its_calibrator(method: str) -> None:
    """An exported file would give other probabilities than the run."""
    entry = CALIBRATORS[method]
    for k in (2, 5):
        if entry.only not in (None, k):
            continue
        fitted = entry.fit_outputs(sampled(1200, k, 2.0))
        new = sampled(300, k, seed=5, scale=8.0)
        log_p = fitted.layer()(new.scores)
        np.testing.assert_allclose(log_p.exp(), fitted.apply(new).probabilities(), atol=1e-12)


@pytest.mark.parametrize("name", WISHES)
def test_a_policy_survives_its_file(name: str, tmp_path: Path) -> None:
    """A run opened again would decide otherwise than the one that was trained."""
    validation, new = (with_features(sampled(600, seed=s), s) for s in (0, 1))
    policy = set_policy(validation, WISHES[name], reference=reference(), model="ab")
    policy.save(tmp_path)
    again = read_policy(tmp_path)
    assert again.to_json() == policy.to_json()
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)
    before, after = policy.answers(new), again.answers(new)
    assert torch.equal(before.kind, after.kind)
    assert torch.equal(before.choice, after.choice)
    assert (before.reasons, before.set_names) == (after.reasons, after.set_names)
    parts = joined([policy.answers(new.take(np.arange(i, i + 100))) for i in range(0, 600, 100)])
    assert parts.decisions == before.decisions, "batches are decided otherwise than the whole"
    assert parts.reasons == before.reasons


def test_the_order_of_answers() -> None:
    """An image of no class would be answered, or a set of one be given where nothing is sure."""
    z = [[9.0, 0, 0], [2.0, 1.9, -5], [0.1, 0, 0], [9.0, 0, 0], [3.0, 0, 0]]
    new = Outputs.from_logits(z, [0] * 5)
    calibration = sampled(500, 3, seed=3)
    policy = set_policy(calibration, Wishes(risk=0.05, unknown=None), methods=["none"])
    (one,) = policy.thresholds
    assert policy.sets is not None
    policy = dataclasses.replace(
        policy,
        thresholds=(dataclasses.replace(one, value=-math.log(1 - 0.95)),),
        sets=dataclasses.replace(policy.sets, quantile=(-math.log(0.2),)),
        unknown=Unknown("energy", 0.0, 0.05, 500, ""),
    )
    answers = policy.answers(new)
    assert answers.kinds == ["class", "set", "ask", "class", "ask"]
    assert answers.set_names[1] == ("0", "1")
    assert answers.decisions[:3] == ["0", "one of a set", "ask a person"]
    assert answers.reasons[1] == "confidence 0.5247 is below 0.95000"
    strict = dataclasses.replace(policy, unknown=Unknown("energy", 5.0, 0.05, 500, ""))
    assert strict.answers(new).kinds == ["class", "none", "none", "class", "none"]
    assert strict.answers(new).reasons[1] == "energy 2.645 is below 5"
    nothing = dataclasses.replace(policy, thresholds=(dataclasses.replace(one, value=None),))
    assert "class" not in nothing.answers(new).kinds


def test_costs_decide() -> None:
    """A table of costs would be kept in the policy and not be obeyed."""
    validation, new = sampled(600), sampled(300, seed=1)
    wishes = dataclasses.replace(WISHES["costs"], unknown=None)
    policy = set_policy(validation, wishes, methods=["none"])
    answers = policy.answers(new)
    assert policy.costs is not None
    choice = cheapest(new, policy.costs).choice
    assert torch.equal(answers.choice, choice)
    assert set(answers.kinds) <= {"class", "set", "ask"}
    assert answers.reasons[0].startswith(("cheapest: expected", "asking is cheapest"))


def test_nearness_is_the_mahalanobis_distance() -> None:
    """Foreign images would be measured by another distance than the docs say."""
    from scipy.spatial.distance import cdist

    train = with_features(sampled(400, seed=7), 7)
    new = with_features(sampled(50, seed=8), 8)
    assert train.features is not None
    assert new.features is not None
    x, y = train.features.double().numpy(), train.labels.numpy()
    means = np.stack([x[y == k].mean(0) for k in range(4)])
    inside = x - means[y]
    covariance = inside.T @ inside / len(x)
    level = np.diag(covariance).mean()
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(6)
    wanted = -cdist(new.features.numpy(), means, "mahalanobis", VI=np.linalg.inv(covariance)).min(1)
    np.testing.assert_allclose(reference().nearness(new.features), wanted, rtol=1e-4)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Own images would be sent away more often than the policy says."""
    rates = []
    for seed in range(200):
        every = sampled(1100, seed=seed)
        flag = fit_unknown(every.take(np.arange(100)), 0.05)
        assert flag is not None
        rates.append(float(flag.flags(every.take(np.arange(100, 1100))).double().mean()))
    # ⌊101 · 0.05⌋ / 101 = 0.0495 is expected, and the mean of 200 is within 0.0045 of it.
    assert 0.045 < float(np.mean(rates)) < 0.054
    few = fit_unknown(sampled(10), 0.05)
    assert few is not None
    assert few.quantile == -math.inf
    assert "it takes 19" in few.promise()
    with pytest.raises(LevelheadError, match="between 0 and 1"):
        fit_unknown(sampled(10), 1.5)


@given(st.sampled_from(["schema", "class_names", "thresholds", "sets", "n", "score", "unknown"]),
       st.sampled_from([None, "x", 7, [], [1], {}, True]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_damaged_policies_are_refused(key: str, value: object) -> None:
    """A damaged policy.json would end in a traceback, or decide by halves."""
    content = set_policy(sampled(200), Wishes(risk=0.2), methods=["none"]).to_json()
    if content[key] == value:
        return
    try:
        policy = Policy.from_json(content | {key: value})
    except LevelheadError:
        pass
    else:
        assert key in ("thresholds", "sets", "unknown"), "was read although it is damaged"
        assert policy.answers(sampled(5)).kinds


def test_a_newer_policy_is_refused() -> None:
    """A policy with parts that this version does not know would be obeyed by halves."""
    content = set_policy(sampled(200), Wishes(risk=0.2), methods=["none"]).to_json()
    with pytest.raises(LevelheadError, match="schema 2, this version reads 1; update levelhead"):
        Policy.from_json(content | {"schema": 2})
    with pytest.raises(LevelheadError, match="these outputs have others"):
        Policy.from_json(content).answers(sampled(5, 3))


def test_a_threshold_that_was_given() -> None:
    """`--abstain-below 1` would answer nothing, or `0` abstain."""
    new = Outputs.from_logits([[200.0, 0], [3.0, 0]], [0, 0])
    for confidence, kinds in ((0.0, [0, 0]), (0.99, [0, 2]), (1.0, [0, 2])):
        policy = threshold_at(confidence, new.class_names, None)
        assert policy.answers(new).kind.tolist() == kinds
    assert KINDS == ("class", "set", "ask", "none")
