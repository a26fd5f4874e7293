"""Two models on the same examples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from levelhead import versus
from levelhead.errors import LevelheadError
from levelhead.judging.versus import paired
from levelhead.outputs import Outputs
from levelhead.report import write_judgement


def models(n=600, seed=0, noise=1.0):
    """The truth's own logits, and the same with noise or another scale."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, 5))
    labels = (z + rng.gumbel(size=z.shape)).argmax(1)
    ids = [f"x{i}" for i in range(n)]
    make = lambda scores: Outputs.from_logits(scores, labels, ids=ids)  # noqa: E731
    return make(z), make(z + noise * rng.normal(size=z.shape)), make(2 * z)


def test_the_difference_is_paired(quick_judging):
    """The interval would be that of two samples, several times as wide."""
    good, noisy, _ = models()
    result = versus(good, noisy, names=("good", "noisy"))
    nll = result.differences["nll"]
    change = noisy.rows.nll - good.rows.nll
    assert nll.value == pytest.approx(float(change.mean()))
    half = 1.96 * float(change.std()) / len(change) ** 0.5
    assert nll.high - nll.value == pytest.approx(half, rel=0.1)
    assert nll.verdict == "worse"
    assert any(line.startswith("noisy is worse than good in") for line in result.words)


def test_equal_refinement_asks_for_a_calibrator(quick_judging):
    """A model would be dropped for what one temperature mends."""
    good, _, sharp = models()
    result = versus(good, sharp)
    assert result.differences["nll"].verdict == "worse"
    assert result.differences["accuracy"].verdict == "cannot tell"
    assert result.differences["nll_refinement"].value == pytest.approx(0, abs=1e-6)
    assert "one temperature would mend more of the second" in result.words[-1]


def test_a_model_is_as_good_as_itself(quick_judging):
    """Two equal files would be told apart."""
    good, *_ = models(200)
    result = versus(good, good)
    assert {one.verdict for one in result.differences.values()} == {"cannot tell"}


def test_pairs_are_found_by_id_and_refused_where_they_are_none():
    """Row 7 of one file would be held against row 7 of other images."""
    good, noisy, _ = models(50)
    order = list(range(49, 9, -1))
    first, second = paired(good, noisy.take(order))
    assert first.ids == second.ids == tuple(f"x{i}" for i in range(10, 50))
    bare = noisy.bare()
    with pytest.raises(LevelheadError, match="50 and 40 examples without ids"):
        paired(good.bare(), bare.take(order))
    with pytest.raises(LevelheadError, match="the labels differ"):
        paired(good.bare(), bare.take(list(range(49, -1, -1))))
    with pytest.raises(LevelheadError, match="other classes"):
        paired(good, Outputs.from_logits(np.eye(3), [0, 1, 2]))


def test_it_is_saved_and_has_a_page(tmp_path, quick_judging):
    """The result would stay behind in memory."""
    good, noisy, _ = models(100)
    result = versus(good, noisy, names=("a.npz", "<b>.npz"))
    result.save(tmp_path)
    assert json.loads((tmp_path / "findings.json").read_text())["names"] == ["a.npz", "<b>.npz"]
    page = write_judgement(result, tmp_path).read_text(encoding="utf-8")
    assert "second − first" in page
    assert "<b>.npz" not in page
