"""Whether new images are as the test images were: features, confidence, answers and looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from levelhead.data.appearance import LOOKS
from levelhead.data.entries import Array
from levelhead.decisions.policy import KINDS
from levelhead.statistics.examples import share_interval
from levelhead.statistics.permutation import (
    Statistic,
    adjusted,
    kolmogorov_smirnov,
    mean_discrepancy,
    shares_apart,
)
from levelhead.watching.sample import Sample

MOST = 2_000
"""Images of either side that are compared: of more, so many, drawn by the seed."""


@dataclass(frozen=True)
class Change:
    """One thing that was compared: p adjusted for all of them, and its middle on either side.

    `before` and `after`: medians, of shares the shares with 95 % intervals; None of what has no
    middle (features, predicted classes).
    """

    name: str
    p: float
    before: float | None = None
    after: float | None = None
    intervals: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def medians(self) -> tuple[str, str]:
        """Before and after, as a person reads them."""
        before, after = (f"{x:.3g}".replace("-", "−") for x in (self.before, self.after))
        return before, after


def drift(
    reference: Sample, new: Sample, *, draws: int = 1000, seed: int = 0
) -> tuple[Change, ...]:
    """What was compared; the least p is at most α with probability α where nothing has changed.

    That is for one look at images that are drawn independently: not at bursts of one scene.
    """
    rng = np.random.default_rng(seed)
    a, b = (_some(sample, rng) for sample in (reference, new))
    columns = _columns(a, b)
    statistics: dict[str, Statistic] = {
        name: kolmogorov_smirnov(np.concatenate(pair)) for name, pair in columns.items()
    }
    best = np.concatenate([sample.answers.best.numpy() for sample in (a, b)])
    classes = len(a.answers.policy.class_names)
    statistics["predicted classes"] = shares_apart(best, classes)
    if a.features is not None and b.features is not None:
        statistics["features"] = mean_discrepancy(np.concatenate([a.features, b.features]))
    p = adjusted(statistics, len(a), len(b), draws, seed)
    whole = _columns(reference, new)
    return tuple(_change(name, value, whole.get(name)) for name, value in p.items())


def _columns(a: Sample, b: Sample) -> dict[str, tuple[Array, Array]]:
    """What is a number an image, on either side; of shares 0 or 1."""
    sides = a.answers, b.answers
    columns = {
        "confidence": tuple(answers.confidence.numpy() for answers in sides),
        "answered": tuple((answers.kind == 0).double().numpy() for answers in sides),
    }
    known = [answers.known for answers in sides]
    if known[0] is not None and known[1] is not None:
        columns["likeness"] = tuple(values.numpy() for values in known if values is not None)
        foreign = KINDS.index("none")
        columns["none of mine"] = tuple((s.kind == foreign).double().numpy() for s in sides)
    if a.looks is not None and b.looks is not None:
        columns |= {name: (a.looks[name], b.looks[name]) for name in LOOKS}
    return {name: (pair[0], pair[1]) for name, pair in columns.items()}


SHARES = ("answered", "none of mine")
"""Columns of 0 and 1."""


def _change(name: str, p: float, pair: tuple[Array, Array] | None) -> Change:
    if pair is None:
        return Change(name, p)
    if name not in SHARES:
        return Change(name, p, float(np.median(pair[0])), float(np.median(pair[1])))
    first, second = (share_interval(torch.from_numpy(column)) for column in pair)
    return Change(name, p, float(pair[0].mean()), float(pair[1].mean()), (first, second))


def _some(sample: Sample, rng: np.random.Generator) -> Sample:
    if len(sample) <= MOST:
        return sample
    return sample.take(np.sort(rng.permutation(len(sample))[:MOST]))
