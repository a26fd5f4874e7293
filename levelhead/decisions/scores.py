"""Scores of certainty: how sure a classifier is of its answer, one number an example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from levelhead.decisions.plain import plain
from levelhead.errors import LevelheadError, nearest
from levelhead.metrics.aurc import area, influence, ranked_by
from levelhead.outputs import Outputs
from levelhead.statistics.examples import normal_interval
from levelhead.statistics.folds import random_folds

POWERS = range(1, 11)  # exponents that `fit_pnorm` tries, as Cattelan and Silva do


@dataclass(frozen=True)
class Score:
    """A certainty: `of(outputs)` is float64 [N], higher where the classifier is surer."""

    name: str
    title: str
    source: str
    needs: Literal["confidence", "probabilities", "logits"]
    compute: Callable[[Outputs], Tensor]
    at_least: Callable[[float], str]  # a threshold in the unit that a user computes, as words

    def missing(self, outputs: Outputs) -> str | None:
        """Why these outputs have no such score, or None."""
        if outputs.kind == "logits" or self.needs in ("confidence", outputs.kind):
            return None
        return f"{self.title} needs {self.needs}; these outputs are of kind {outputs.kind!r}"

    def of(self, outputs: Outputs) -> Tensor:
        """The certainty of each example, float64 [N]. Raises LevelheadError where it is missing."""
        if reason := self.missing(outputs):
            raise LevelheadError(f"{reason}: give {self.needs}, or rank by msp")
        return self.compute(outputs)


@dataclass(frozen=True)
class PNorm:
    """What `fit_pnorm` found: the exponent, None where none ranked better than the top probability.

    `gain` is the AURC of the best p-norm minus that of msp, on examples that did not choose p.
    """

    p: int | None
    best: int  # the exponent with the least AURC on all examples
    gain: float
    low: float
    high: float
    n: int

    @property
    def score(self) -> Score:
        """The score to use: pnorm with this exponent, or msp."""
        return SCORES["msp"] if self.p is None else pnorm(self.p)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"score": self.score.name, **plain(self)}


def find_score(name: str) -> Score:
    """The score of that name; "pnorm" is p = 2, "pnorm5" p = 5. Raises LevelheadError."""
    power = name.removeprefix("pnorm")
    if name in SCORES:
        return SCORES[name]
    if name.startswith("pnorm") and power.isdecimal() and int(power) > 0:
        return pnorm(int(power))
    raise LevelheadError(f"score {name!r}: {nearest(name, list(SCORES))}")


def fit_pnorm(validation: Outputs, *, folds: int = 5, seed: int = 0, level: float = 0.95) -> PNorm:
    """The exponent in `POWERS` that ranks answers better than the top probability, if one does.

    1. On each of some folds both scores are judged, the exponent chosen on the other folds.
    2. A p-norm is taken where the interval of the paired difference of the AURC (mean over folds;
       from its influence values) lies below 0. The least of 11 areas on the same examples is not
       evidence: on a test set such a choice was worse 143 times of 143.

    Fit it on half A of validation (`halves`): thresholds are set on other examples. Raises
    LevelheadError for outputs that are no logits.
    """
    if reason := SCORES["pnorm"].missing(validation):
        raise LevelheadError(reason)
    certainties = [SCORES["msp"].of(validation), *_pnorms(validation, POWERS).T]
    correct, units, n = validation.rows.correct, validation.units, len(validation)

    def areas(rows: Tensor) -> list[float]:
        return [area(ranked_by(sure[rows], correct[rows])) for sure in certainties]

    every = areas(torch.arange(n))[1:]
    best = POWERS[every.index(min(every))]  # the first of equals
    if n < 2 * folds:
        return PNorm(None, best, math.nan, math.nan, math.nan, n)
    fold = random_folds(n, folds, seed, units)
    gains, added = [], torch.zeros(n, dtype=torch.float64)
    for f in fold.unique():
        part, rest = (fold == f).nonzero()[:, 0], (fold != f).nonzero()[:, 0]
        inside = areas(rest)[1:]
        chosen = certainties[1 + inside.index(min(inside))]
        both = [ranked_by(sure[part], correct[part]) for sure in (chosen, certainties[0])]
        gains.append((area(both[0]) - area(both[1])) * len(part) / n)
        added[part] = influence(both[0]) - influence(both[1])
    gain = sum(gains)
    interval = normal_interval(gain, added, level, units)
    proven = interval.high < 0
    return PNorm(best if proven else None, best, gain, interval.low, interval.high, n)


def pnorm(p: int = 2) -> Score:
    """Score max_k v_k / ‖v‖_p of the mean-centred logits v; 0 where all logits are equal."""
    return Score(
        name=f"pnorm{p}",
        title=f"{p}-norm of the logits",
        source="Cattelan and Silva 2023; the remedy for smoothed models in Xia et al. 2025",
        needs="logits",
        compute=lambda outputs: _pnorms(outputs, (p,))[:, 0],
        at_least=lambda value: (
            f"max v / ‖v‖ is at least {value:.4g}, v the logits less their mean, ‖v‖ their {p}-norm"
        ),
    )


def _pnorms(outputs: Outputs, powers: Sequence[int]) -> Tensor:
    """max v / ‖v‖_p for each of some powers, float64 [N, P]."""
    columns = []
    for scores, _ in outputs.pieces():
        v = scores.double() - scores.amax(1, keepdim=True)  # equal logits stay exactly equal
        v -= v.mean(1, keepdim=True)
        top, size = v.amax(1), v.abs()
        most = size.amax(1).clamp_min(1e-300)
        size /= most[:, None]  # at most 1: no power overflows
        norms, product = [], torch.ones_like(size)
        for p in range(1, max(powers) + 1):
            product *= size
            if p in powers:
                norms.append(product.sum(1).pow(1 / p))
        norm = torch.stack(norms, 1)
        columns.append(torch.where(norm > 0, (top / most)[:, None] / norm, 0.0))
    return torch.cat(columns)


def sharp(certainty: float) -> str:
    """The confidence 1 − e^(−certainty) with as many digits as tell it from 1.

    >>> sharp(2.0), sharp(14.0)
    ('0.8647', '0.9999991685')
    """
    digits = 3 + max(1, math.ceil(certainty / math.log(10)))
    return f"{-math.expm1(-certainty):.{min(digits, 17)}f}"


def _energy(outputs: Outputs) -> Tensor:
    return torch.cat([scores.double().logsumexp(1) for scores, _ in outputs.pieces()])


def _max_logit(outputs: Outputs) -> Tensor:
    return outputs.scores.amax(1).double()


def _margin(outputs: Outputs) -> Tensor:
    """−log(1 − (p₁ − p₂)) = −log(rest + p₂), with rest = 1 − p₁ the sum of all others."""
    areas = []
    for scores, _ in outputs.pieces():
        z = scores.double()
        top, where = z.max(1, keepdim=True)
        if outputs.kind == "logits":
            z, top = (z - top).exp(), torch.ones_like(top)
        z = z.scatter(1, where, 0.0)
        rest = z.sum(1)
        areas.append((top[:, 0] + rest).log() - (rest + z.amax(1)).log())
    return torch.cat(areas)


SCORES: dict[str, Score] = {
    "msp": Score(
        "msp",
        "Top probability",
        "−log(1 − p₁), in which rounding makes none near 1 equal (Hendrycks and Gimpel 2017)",
        "confidence",
        lambda outputs: -outputs.rows.log_rest,
        lambda value: f"the confidence is at least {sharp(value)}",
    ),
    "margin": Score(
        "margin",
        "Margin of the top two",
        "−log(1 − (p₁ − p₂))",
        "probabilities",
        _margin,
        lambda value: f"the top two probabilities are at least {sharp(value)} apart",
    ),
    "entropy": Score(
        "entropy",
        "Negative entropy",
        "Σ_k p_k log p_k, nats",
        "probabilities",
        lambda outputs: -outputs.rows.entropy,
        lambda value: f"the entropy is at most {-value:.4g} nats",
    ),
    "pnorm": pnorm(),
    "energy": Score(
        "energy",
        "Negative energy",
        "log Σ_k exp(logit_k) (Liu et al. 2020)",
        "logits",
        _energy,
        lambda value: f"log Σ exp(logit) is at least {value:.4g}",
    ),
    "max_logit": Score(
        "max_logit",
        "Largest logit",
        "max_k logit_k (Hendrycks et al. 2022)",
        "logits",
        _max_logit,
        lambda value: f"the largest logit is at least {value:.4g}",
    ),
}
"""By name; `pnorm` stands here with p = 2, `fit_pnorm` chooses."""
