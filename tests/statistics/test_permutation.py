"""Two samples by many statistics: each is what books say, and together they keep their level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from levelhead.statistics.anytime import bounds, evidence
from levelhead.statistics.permutation import (
    adjusted,
    kolmogorov_smirnov,
    mean_discrepancy,
    shares_apart,
)


def one_look(n: int, m: int) -> np.ndarray:
    """The weights of the samples as they are."""
    return np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])[None]


@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 30), st.sampled_from([2, 1000]))
@settings(max_examples=60, deadline=None)
def test_statistics_are_the_books(seed: int, n: int, m: int, values: int) -> None:
    """A wrong statistic still gives honest p-values, but would see nothing."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, values, n), rng.integers(0, values, m)
    pooled, weights = np.concatenate([x, y]).astype(float), one_look(n, m)
    points = np.unique(pooled)
    wanted = max(abs((x <= at).mean() - (y <= at).mean()) for at in points)
    assert kolmogorov_smirnov(pooled)(weights)[0] == pytest.approx(wanted, abs=1e-9)
    rows = rng.normal(size=(n + m, 3))
    apart = ((rows[:, None] - rows[None]) ** 2).sum(2)
    kernel = np.exp(-apart / (2 * np.median(apart[np.triu_indices(n + m, 1)])))
    naive = kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
    assert mean_discrepancy(rows)(weights)[0] == pytest.approx(naive, abs=1e-9)
    places = rng.integers(0, 4, n + m)
    counts = np.stack([np.bincount(part, minlength=4) for part in (places[:n], places[n:])])
    used = counts.sum(0) > 0
    chi = stats.chi2_contingency(counts[:, used], correction=False)[0]
    ours = shares_apart(places, 4)(weights)[0] * n * m / (n + m)
    assert ours == pytest.approx(chi, abs=1e-6)


def test_one_statistic_has_its_permutation_p() -> None:
    """The p-values would not be those of a permutation test at all."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=12), rng.normal(0.8, 1, 15)
    ours = adjusted({"ks": kolmogorov_smirnov(np.concatenate([x, y]))}, 12, 15, 4000)["ks"]

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        points = np.concatenate([a, b])
        return max(abs((a <= at).mean() - (b <= at).mean()) for at in points)

    theirs = stats.permutation_test(
        (x, y), statistic, n_resamples=2000, random_state=2, alternative="greater"
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.03)


def test_equal_values_are_equal() -> None:
    """One odd image among 205 would be a change: sums in another order differ by 1e-17."""
    for odd in (0, 104, 105, 204):
        column = np.zeros(205)
        column[odd] = 1
        assert adjusted({"odd": kolmogorov_smirnov(column)}, 105, 100)["odd"] > 0.3
    assert adjusted({"same": kolmogorov_smirnov(np.ones(30))}, 10, 20)["same"] == 1
    assert adjusted({"same": mean_discrepancy(np.ones((30, 4)))}, 10, 20)["same"] == 1


def test_together_they_keep_their_level() -> None:
    """Six statistics at 5 % each would raise an alarm at one look in four."""
    rng, false, seen = np.random.default_rng(0), 0, 0
    for seed in range(400):
        for shift in (0.0, 1.5):
            x = np.concatenate([rng.normal(size=25), rng.normal(shift, 1, 25)])
            columns = {f"{i}": kolmogorov_smirnov(rng.normal(size=50)) for i in range(4)}
            columns |= {"x": kolmogorov_smirnov(x), "sign": kolmogorov_smirnov(np.sign(x))}
            p = adjusted(columns, 25, 25, 199, seed)
            if shift:
                seen += p["x"] <= 0.05
                assert min(p.values()) == p["x"] or p["x"] > 0.005
            else:
                false += min(p.values()) <= 0.05
    assert false <= stats.binom.ppf(0.999, 400, 0.05)
    assert seen > 360


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.01, 0.9))
@settings(max_examples=60, deadline=None)
def test_evidence_is_the_mixture(errors: list[bool], rate: float) -> None:
    """Another mixture might not be a martingale, and its limit no limit."""
    k, n = sum(errors), len(errors)

    def ratio(q: float) -> float:
        return (q / rate) ** k * ((1 - q) / (1 - rate)) ** (n - k) / (1 - rate)

    wanted = integrate.quad(ratio, rate, 1, points=[min(max(k / n, rate), 1)], limit=200)[0]
    ours = evidence(np.array(errors, int), rate)[-1]
    assert ours == pytest.approx(wanted, rel=1e-4)


def test_any_time() -> None:
    """Who looks every day would call a kept promise broken sooner or later."""
    rng, streams, n = np.random.default_rng(0), 1000, 400
    false = outside = 0
    for _ in range(streams):
        errors = (rng.random(n) < 0.1).astype(int)
        false += bool(evidence(errors, 0.1).max() >= 20)
        counts = errors.cumsum()
        held = [bounds(int(counts[i - 1]), i) for i in (1, 3, 10, 30, 100, 200, 400)]
        outside += not all(low <= 0.1 <= high for low, high in held)
    most = stats.binom.ppf(0.999, streams, 0.05)
    assert false <= most
    assert outside <= most
    assert evidence((rng.random(n) < 0.2).astype(int), 0.1).max() >= 20
    assert bounds(0, 0) == (0.0, 1.0)
    low, high = bounds(3, 3)
    assert (high, low > 0.1) == (1.0, True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        evidence([1], 1.0)
