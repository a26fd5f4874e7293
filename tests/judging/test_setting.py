"""Setting policies: whether they keep their promises, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from levelhead.errors import LevelheadError
from levelhead.judging import Wishes, judged_policy, set_policy
from levelhead.judging.setting import read_risks
from worlds import sampled

NAMES = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(risk=0.1),
        Wishes(risk_by_class=dict.fromkeys(NAMES, 0.15)),
        Wishes(),
    ],
    ids=["risk", "by class", "unasked"],
)
def test_promises_are_kept(wishes: Wishes) -> None:
    """The risk would be broken more often than in 5 % of draws, or sets and alarms miss."""
    broken, answered, covered, alarms = 0, [], [], []
    for seed in range(100):
        every = sampled(6000, 4, 1.5, seed=1000 + seed, scale=7.0)
        policy = set_policy(every.take(np.arange(600)), wishes, methods=["temperature"], seed=seed)
        found = judged_policy(policy, every.take(np.arange(600, 6000)))
        if wishes.risk_by_class is None:
            limit = policy.thresholds[0].risk_wanted if policy.thresholds else 1.0
            broken += (found["risk"]["value"] or 0) > limit
        else:
            broken += any((row["risk"]["value"] or 0) > 0.15 for row in found["by_class"])
        answered.append(found["shares"]["class"])
        covered.append(found["sets"]["coverage"]["value"])
        alarms.append(found["false_alarms"]["value"])
    assert broken <= 9  # of 100 with 5 % each: more in 3 % of such tests
    assert np.mean(answered) > 0.2, "promises are kept by answering nothing"
    assert np.mean(covered) >= 0.895
    assert np.mean(alarms) <= 0.052


def test_what_cannot_be_promised() -> None:
    """A policy would promise what its examples cannot show, or not say how many would."""
    few = sampled(60, seed=2)
    policy = set_policy(few, Wishes(risk=0.01))
    assert policy.thresholds[0].value is None
    assert "examples" in policy.answers_promise()
    assert "class" not in policy.answers(sampled(50)).kinds
    free = set_policy(few, Wishes())
    if not free.thresholds:
        assert "No risk up to 10 % can be promised" in free.note
        assert "without a promise" in free.answers_promise()
    for one in (sampled(1), sampled(6, groups=["a"] * 6)):
        alone = set_policy(one)
        assert alone.answers(sampled(5)).kinds == ["class"] * 5
        assert "sets nothing" in alone.note


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(coverage=1.5), "coverage 1.5"),
        (Wishes(coverage=0.5, risk_by_class={"0": 0.1}), "give one of them"),
        (Wishes(risk=2.0), "risk 2.0"),
        (Wishes(unknown=1.0), "unknown 1.0"),
        (Wishes(alpha=0.0), "alpha 0.0"),
    ],
)
def test_wishes_that_cannot_be(wishes: Wishes, words: str) -> None:
    """A slip of the keyboard would become a policy."""
    with pytest.raises(LevelheadError, match=words):
        set_policy(sampled(100), wishes)


def test_coverage() -> None:
    """Asked to answer 70 %, a policy would answer another share."""
    policy = set_policy(sampled(2000), Wishes(coverage=0.7, unknown=None), methods=["none"])
    found = judged_policy(policy, sampled(5000, seed=1))
    assert abs(found["shares"]["class"] - 0.7) < 0.05
    assert found["risk"]["value"] <= policy.thresholds[0].risk_wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class,risk\ncat,0.1\n", None),
        ("cat;0.1\n", None),
        ("cat,0.1\ncat,0.2\n", "line 2: 'cat' occurs twice"),
        ("cat,0.1\ndgo,0.2\n", "line 2: 'dgo' is no class; did you mean 'dog'"),
        ("cat,1.5\n", "line 1: '1.5' is no risk"),
        ("cat\n", "no risk"),
        ("", "holds no risk"),
    ],
)
def test_risks_by_class(tmp_path: Path, text: str, words: str | None) -> None:
    """A risk would be read for another class, or a mistake be left out silently."""
    path = tmp_path / "risks.csv"
    path.write_text(text)
    if words is None:
        assert read_risks(path, ("cat", "dog")) == {"cat": 0.1}
        return
    with pytest.raises(LevelheadError, match=words):
        read_risks(path, ("cat", "dog"))
