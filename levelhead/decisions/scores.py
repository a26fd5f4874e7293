"""Scores of certainty: how sure a classifier is of its answer, one number an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from levelhead.decisions.plain import plain
from levelhead.decisions.selective import risk_coverage
from levelhead.errors import LevelheadError, nearest
from levelhead.outputs import Outputs

POWERS = range(1, 11)  # exponents that `fit_pnorm` tries, as Cattelan and Silva do


@dataclass(frozen=True)
class Score:
    """A certainty: `of(outputs)` is float64 [N], higher where the classifier is surer."""

    name: str
    title: str
    source: str
    needs: Literal["confidence", "probabilities", "logits"]
    compute: Callable[[Outputs], Tensor]

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
    """What `fit_pnorm` found: the exponent, None where the top softmax (msp) ranked no worse."""

    p: int | None
    aurc: float  # on the examples it was fitted on
    aurc_msp: float
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


def fit_pnorm(validation: Outputs) -> PNorm:
    """The exponent in `POWERS` with the least AURC, or none where msp's is no larger.

    Fit it on half A of validation (`halves`): thresholds are set on other examples. Raises
    LevelheadError for outputs that are no logits.
    """
    if reason := SCORES["pnorm"].missing(validation):
        raise LevelheadError(reason)
    ranked = [SCORES["msp"].of(validation), *_pnorms(validation, POWERS).T]
    areas = [risk_coverage(sure, 1 - validation.rows.correct).aurc for sure in ranked]
    best = areas.index(min(areas))  # the first of equals: msp, then small p
    return PNorm(POWERS[best - 1] if best else None, areas[best], areas[0], len(validation))


def pnorm(p: int = 2) -> Score:
    """Score max_k v_k / ‖v‖_p of the mean-centred logits v; 0 where all logits are equal."""
    return Score(
        name=f"pnorm{p}",
        title=f"{p}-norm of the logits",
        source="Cattelan and Silva 2023; the remedy for smoothed models in Xia et al. 2025",
        needs="logits",
        compute=lambda outputs: _pnorms(outputs, (p,))[:, 0],
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
    ),
    "margin": Score(
        "margin", "Margin of the top two", "−log(1 − (p₁ − p₂))", "probabilities", _margin
    ),
    "entropy": Score(
        "entropy",
        "Negative entropy",
        "Σ_k p_k log p_k, nats",
        "probabilities",
        lambda outputs: -outputs.rows.entropy,
    ),
    "pnorm": pnorm(),
    "energy": Score(
        "energy", "Negative energy", "log Σ_k exp(logit_k) (Liu et al. 2020)", "logits", _energy
    ),
    "max_logit": Score(
        "max_logit", "Largest logit", "max_k logit_k (Hendrycks et al. 2022)", "logits", _max_logit
    ),
}
"""By name; `pnorm` stands here with p = 2, `fit_pnorm` chooses."""
