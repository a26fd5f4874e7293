"""Shares of the classes among unlabelled examples, from calibrated probabilities."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
MOST = 5_000
"""Examples of a side from which intervals are made."""


def class_shares(probabilities: Array, prior: Array, steps: int = 1000) -> Array:
    """Shares [K] under which calibrated probabilities [N, K] are likeliest (Saerens et al. 2002).

    `prior` [K]: the shares among the examples that calibrated them. Expectation maximisation; it
    holds where the shares alone have changed, not how the images of a class look. A class that had
    a share of 0 keeps it.
    """
    ratio = np.divide(probabilities, prior, out=np.zeros_like(probabilities), where=prior > 0)
    shares = prior.astype(np.float64)
    for _ in range(steps):
        joint = ratio * shares
        new = (joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)).mean(0)
        if np.abs(new - shares).max() < 1e-7:
            return np.asarray(new)
        shares = new
    return shares


def adjusted_count(probabilities: Array, labels: Array, new: Array) -> Array:
    """Shares [K] of which the mean probabilities of labelled examples, class by class, mix to the
    mean of new ones (Bella et al. 2010): noisier than `class_shares`, but needs no calibration."""
    from scipy.optimize import nnls

    k = new.shape[1]
    rows = [probabilities[labels == c] for c in range(k)]
    means = np.stack([r.mean(0) if len(r) else np.eye(k)[c] for c, r in enumerate(rows)], 1)
    heavy = 10.0  # the shares add up to 1
    solution = nnls(np.vstack([means, np.full(k, heavy)]), np.append(new.mean(0), heavy))[0]
    return np.asarray(solution / max(solution.sum(), 1e-12))


def share_intervals(
    probabilities: Array,
    labels: Array,
    new: Array,
    *,
    level: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """Shares of new probabilities [M, K] with intervals: (value, low, high), each [K].

    `probabilities` [N, K] with `labels` [N] are those of labelled examples before. The value is
    `class_shares`, of probabilities weighted so that before they add up to the labels' counts.
    The interval is the hull of its bootstrap, of that of `adjusted_count` (both sides drawn again),
    and of what a share may be of which none was seen (Clopper and Pearson). Of either side at most
    `MOST` examples are taken.
    """
    rng, k = np.random.default_rng(seed), new.shape[1]
    some = np.sort(rng.permutation(len(labels))[:MOST])
    probabilities, labels = probabilities[some], labels[some]
    new = new[np.sort(rng.permutation(len(new))[:MOST])]
    n, m = len(labels), len(new)
    tail = (1 - level) / 2

    def both(old: Array, fresh: Array) -> tuple[Array, Array]:
        p, y, q = probabilities[old], labels[old], new[fresh]
        counts = np.bincount(y, minlength=k) + 0.5
        prior = counts / counts.sum()
        weights = _weights(p, prior)
        weighted = q * weights
        weighted = weighted / weighted.sum(1, keepdims=True)
        return class_shares(weighted, prior, 200), adjusted_count(p, y, q)

    value, _ = both(np.arange(n), np.arange(m))
    drawn = np.stack([both(rng.integers(0, n, n), rng.integers(0, m, m)) for _ in range(draws)])
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    unseen = 1 - tail ** (1 / m)
    return (
        value,
        np.minimum(low.min(0), value),
        np.maximum(np.maximum(high.max(0), value), unseen),
    )


def _weights(probabilities: Array, prior: Array) -> Array:
    """Weights [K] of the classes with which probabilities have the prior as their mean."""
    weights = np.ones(len(prior))
    for _ in range(50):
        weighted = probabilities * weights
        mean = (weighted / weighted.sum(1, keepdims=True)).mean(0)
        weights = weights * prior / np.maximum(mean, 1e-12)
    return weights
