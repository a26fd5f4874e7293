"""Shares of the classes among unlabelled examples, from calibrated probabilities."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


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


def share_intervals(
    labels: Array,
    new: Array,
    *,
    level: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """`class_shares` of new probabilities [M, K] with its interval: (value, low, high), each [K].

    `labels` [N] of the examples before give the prior; both sides are drawn again
    (percentile bootstrap). The prior's shares get half an example more a class.
    """
    rng, k = np.random.default_rng(seed), new.shape[1]

    def prior(index: Array) -> Array:
        counts = np.bincount(labels[index], minlength=k) + 0.5
        return np.asarray(counts / counts.sum())

    value = class_shares(new, prior(np.arange(len(labels))))
    drawn = [
        class_shares(new[rng.integers(0, len(new), len(new))],
                     prior(rng.integers(0, len(labels), len(labels))), 300)
        for _ in range(draws)
    ]  # fmt: skip
    tail = (1 - level) / 2
    low, high = np.quantile(np.stack(drawn), [tail, 1 - tail], axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)
