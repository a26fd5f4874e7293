"""Mutual information: the paper's formula, known truths, and the interval."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.figures import information_plane
from levelhead.figures.canvas import _painted, to_svg
from levelhead.representation.mutual_information import (
    Information,
    bias_check,
    integrated,
    mutual_information,
)


def channel(n: int, signal: float, draws: int = 5, seed: int = 0) -> tuple[Any, Any]:
    """Means of a Gaussian, and noise of deviation 1: L draws and a fresh one."""
    draw = np.random.default_rng(seed)
    y = signal * draw.normal(size=(n, 1)) + draw.normal(size=(n, draws + 1))
    return y[:, 1:], y[:, 0]


def literally(draws: Any, fresh: Any, weights: Any = None) -> float:
    """FACTS' formula, with loops; examples weigh as `weights` say (adding up to 1)."""
    n = len(fresh)
    w = np.full(n, 1 / n) if weights is None else weights
    mu = draws.mean(1)
    sigma2 = sum(w[i] * (fresh[i] - mu[i]) ** 2 for i in range(n))
    total = 0.0
    for i in range(n):
        mixture = sum(w[j] * math.exp(-((fresh[i] - mu[j]) ** 2) / (2 * sigma2)) for j in range(n))
        total += w[i] * (-((fresh[i] - mu[i]) ** 2) / (2 * sigma2) - math.log(mixture))
    return total


@given(n=st.integers(2, 30), draws=st.integers(1, 6), signal=st.floats(0, 30))
@settings(max_examples=25, deadline=None)
def test_the_paper_s_formula(n: int, draws: int, signal: float) -> None:
    """The curve would not be comparable with the paper's."""
    some, fresh = channel(n, signal, draws, seed=n)
    found = mutual_information(some, fresh)
    assert found.value == pytest.approx(literally(some, fresh), abs=1e-10)
    assert found.sigma2 == pytest.approx(((fresh - some.mean(1)) ** 2).mean())
    assert found.value <= found.high + 1e-12 == math.log(n) + 1e-12
    assert found.low == 0


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More examples than one piece holds would be counted wrongly."""
    some, fresh = channel(70, 3.0)
    whole = mutual_information(some, fresh)
    monkeypatch.setattr("levelhead.representation.mutual_information._PIECE", 500)
    parts = mutual_information(some, fresh)
    assert parts.value == pytest.approx(whole.value, abs=1e-12)
    torch.testing.assert_close(parts.influence, whole.influence)


def test_influence_is_the_derivative() -> None:
    """The interval would be of some other number."""
    some, fresh = channel(20, 2.0)
    found, step = mutual_information(some, fresh), 1e-5
    for i in (0, 7, 19):
        ends = []
        for side in (step, -step):
            weights = np.full(20, (1 - side) / 20)
            weights[i] += side
            ends.append(literally(some, fresh, weights))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(found.influence[i]) == pytest.approx(slope, abs=1e-6)


def test_interval_holds_other_samples() -> None:
    """Error bars of a run would be too short or too long to compare two runs."""
    found = [mutual_information(*channel(150, 2.0, seed=s)) for s in range(150)]
    expected = np.mean([one.value for one in found])
    ends = [one.interval() for one in found]
    held = np.mean([end.low <= expected <= end.high for end in ends])
    assert 0.88 <= held <= 1.0
    spread = np.std([one.value for one in found])
    half = np.mean([(end.high - end.low) / 2 for end in ends])
    assert half == pytest.approx(1.96 * spread, rel=0.2)


def test_integrated_truths() -> None:
    """The truth that the estimator is checked against would itself be wrong."""
    assert integrated([0.0, 0.0, 0.0], 1.0) == pytest.approx(0, abs=1e-9)
    assert integrated([0.0, 50.0], 1.0) == pytest.approx(math.log(2), abs=1e-9)
    assert integrated(40.0 * np.arange(30), 1.0) == pytest.approx(math.log(30), abs=1e-6)
    normal = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    assert integrated(2 * normal, 1.0) == pytest.approx(0.5 * math.log(5), abs=2e-3)
    some = np.array([0.0, 1.0, 3.0])
    assert integrated(some, 2.0) == pytest.approx(integrated(some / 2, 1.0), abs=1e-9)


def test_estimates_are_near_known_truths() -> None:
    """Nobody would know what the estimator gets wrong: 0.06 to 0.09 nats too little with L = 5."""
    rows = {row["case"]: row for row in bias_check(n=300, repeats=6)}
    assert rows["all equal"]["truth"] == 0
    assert rows["two clusters"]["truth"] == pytest.approx(math.log(2))
    assert rows["all distinct"]["estimate"] == pytest.approx(math.log(300))
    for row in rows.values():
        assert -0.12 < row["bias"] < 0.01, row
    # The noise of the means is what is missing: with many draws the bias goes.
    for row in bias_check(n=300, draws=100, repeats=6):
        assert abs(row["bias"]) < 0.02, row


def test_the_fresh_draw_must_be_fresh() -> None:
    """Were f one of the L draws, mere noise would seem to tell which example it was."""
    draws, fresh = channel(200, 0.0)
    honest = mutual_information(draws, fresh).value
    assert mutual_information(draws, draws[:, 0]).value > honest + 0.1


def test_no_noise_at_all() -> None:
    """A network whose logits do not feel augmentation would give NaN."""
    f = torch.tensor([1.0, 1.0, 2.0, 5.0])
    found = mutual_information(f[:, None].expand(4, 5), f)
    assert found.sigma2 == 0
    assert found.value == pytest.approx(math.log(4) - math.log(2) / 2)
    assert found.influence.isfinite().all()


def test_what_cannot_be_used_is_named() -> None:
    """A mistake in the arrays would end in a traceback, or in a wrong number."""
    some, fresh = channel(5, 1.0)
    broken = some.copy()
    broken[3, 1] = math.nan
    mistakes: list[tuple[str, Any]] = [
        ("must be [N, L] and [N]", lambda: mutual_information(fresh, fresh)),
        ("must be [N, L] and [N]", lambda: mutual_information(some[:4], fresh)),
        ("must be [N, L] and [N]", lambda: mutual_information(some[:1], fresh[:1])),
        ("must be [N, L] and [N]", lambda: mutual_information(some[:, :0], fresh)),
        ("draws: row 3", lambda: mutual_information(broken, fresh)),
        ("fresh: row 1", lambda: mutual_information(some, np.array([0, math.inf, 0, 0, 0]))),
        ("as many", lambda: information_plane.data({"a": {1: found(10)}, "b": {1: found(11)}})),
        ("as many", lambda: information_plane.data({})),
    ]
    for text, call in mistakes:
        with pytest.raises(LevelheadError, match=re.escape(text)):
            call()


def found(n: int, signal: float = 1.0) -> Information:
    """The estimate of a channel."""
    return mutual_information(*channel(n, signal))


def test_the_figure_says_its_bounds() -> None:
    """A curve without 0, log 2 and log n in sight cannot be read."""
    runs = {"hard": {8: found(60, 9.0), 4: found(60, 3.0)}, "smoothed": {4: found(60, 0.0)}}
    (panel,) = information_plane.data(runs)
    assert panel.steps[0].tolist() == [4, 8]
    assert panel.low[0][0] < panel.values[0][0] < panel.high[0][0]
    assert "n = 60" in panel.label
    svg = to_svg(panel, information_plane.draw, "i")
    assert all(text in svg for text in ("log 60", "log 2", "0: nothing", "hard, step 8"))
    with _painted(panel, information_plane.draw) as drawn:
        low, high = drawn.axes[0].get_ylim()
    assert low < 0
    assert high > math.log(60)
