"""None of my classes: whether an image is as like the own ones as nearly all of these are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from levelhead.decisions.conformal import quantile
from levelhead.decisions.plain import HAIR, plain
from levelhead.decisions.scores import find_score
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs

SHRINKAGE = 0.1
"""Share of the covariance that is a multiple of the identity: features outnumber images."""
DISTANCE = "distance"
PIECE = 4096  # rows at a time


@dataclass(frozen=True, eq=False)
class Reference:
    """The training features that distances are measured from.

    `whitening` [D, D] turns the covariance within classes into the identity; `means` [K, D] are
    those of the classes, whitened (a class without examples: infinitely far). Of more than D
    features the first D count: where blocks were tuned, those of the body as it was.
    """

    whitening: Tensor  # float32
    means: Tensor  # float32

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> Reference:
        """From the training split: features [N, D], labels [N]."""
        x, d = features.double(), features.shape[1]
        counts = torch.bincount(labels, minlength=classes).double()
        sums = torch.zeros((classes, d), dtype=torch.float64).index_add_(0, labels, x)
        means = sums / counts[:, None]
        inside = x - means[labels]
        covariance = inside.T @ inside / len(x)
        level = float(covariance.diagonal().mean()) or 1.0
        covariance.mul_(1 - SHRINKAGE).diagonal().add_(SHRINKAGE * level)
        values, vectors = torch.linalg.eigh(covariance)
        whitening = (vectors / values.clamp_min(1e-12 * level).sqrt()) @ vectors.T
        return cls(whitening.float(), (means @ whitening).nan_to_num(1e18).float())

    def nearness(self, features: Tensor) -> Tensor:
        """Minus the least Mahalanobis distance to a class, float64 [N] (Lee et al. 2018)."""
        rows = [
            -torch.cdist(
                part[:, : len(self.whitening)].float() @ self.whitening,
                self.means,
                compute_mode="donot_use_mm_for_euclid_dist",
            ).amin(1)
            for part in features.split(PIECE)
        ]
        return torch.cat(rows).double()


@dataclass(frozen=True, eq=False)
class Unknown:
    """An image is none of mine where its score lies below `quantile` (−∞: never).

    `score`: "distance" (`Reference.nearness`), "energy" or "max_logit" of the raw logits.
    """

    score: str
    quantile: float
    false_alarms: float  # at most so many own images are taken for others
    n: int  # examples the quantile rests on
    reason: str  # why this score
    reference: Reference | None = None

    def missing(self, outputs: Outputs) -> str | None:
        """Why it cannot be told for these outputs, or None."""
        if self.score != DISTANCE:
            return find_score(self.score).missing(outputs)
        return None if outputs.features is not None else "these outputs hold no features"

    def of(self, outputs: Outputs) -> Tensor:
        """How like the own images each is, float64 [N], higher for own ones."""
        if why := self.missing(outputs):
            raise LevelheadError(f"none of mine: {why}; add them, or decide with --unknown 0")
        return likeness(self.score, outputs, self.reference)

    def flags(self, outputs: Outputs) -> Tensor:
        """Which are none of mine, bool [N]."""
        return self.of(outputs) < self.quantile

    def promise(self) -> str:
        """What holds for own images."""
        if math.isinf(self.quantile):
            least = math.ceil(1 / self.false_alarms - 1e-9) - 1
            return (
                f"None of mine: never said; {self.n:,} examples are too few for a rate of "
                f"{self.false_alarms * 100:.4g} %, it takes {least:,}."
            )
        return (
            f"None of mine ({self.score.replace('_', ' ')}): said of an image of the own classes "
            f"with probability at most {self.false_alarms * 100:.4g} %, if it is drawn as the "
            f"{self.n:,} were that this rests on. How many foreign images it finds, no data here "
            "can promise."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; a quantile of null is −∞. The reference is kept apart (`tensors`)."""
        fields: dict[str, Any] = {
            name: plain(getattr(self, name))
            for name in ("score", "quantile", "false_alarms", "n", "reason")
        }
        return fields

    @classmethod
    def from_json(cls, content: Mapping[str, Any], reference: Reference | None) -> Unknown:
        """Read what `to_json` gave. Raises LevelheadError where the reference is missing."""
        if content["score"] == DISTANCE and reference is None:
            raise LevelheadError("the features of 'none of mine' are missing")
        at = content["quantile"]
        return cls(
            str(content["score"]), -math.inf if at is None else float(at),
            float(content["false_alarms"]), int(content["n"]), str(content["reason"]), reference,
        )  # fmt: skip


def likeness(score: str, outputs: Outputs, reference: Reference | None) -> Tensor:
    """How like the own images each is by a score, float64 [N]."""
    if score != DISTANCE:
        return find_score(score).of(outputs)
    assert reference is not None
    assert outputs.features is not None
    return reference.nearness(outputs.features)


def fit_unknown(
    outputs: Outputs, false_alarms: float = 0.05, reference: Reference | None = None
) -> Unknown | None:
    """The quantile of own images below which one is none of mine; None where no score can be had.

    The rule that chooses the score looks at no label and at no foreign image: the distance in the
    features where they are those of a body that was not trained on these classes (`reference`),
    else the energy. What it rests on (docs/findings.md) was measured with foreign images. Of n
    examples the ⌊(n + 1) · false_alarms⌋-th least score: a new one lies below with at most that
    probability (conformal; Vovk, Gammerman and Shafer 2005). Raises LevelheadError for a rate
    outside (0, 1).
    """
    if not 0 < false_alarms < 1:
        raise LevelheadError(f"unknown {false_alarms}: must be between 0 and 1, for example 0.05")
    if reference is not None and outputs.features is not None:
        score, reason = DISTANCE, "the features are those of a pretrained body that stood still"
    elif outputs.kind == "logits":
        score, reason, reference = "energy", "the logits alone are there", None
    else:
        return None
    own = likeness(score, outputs, reference)
    limit = -quantile(-own, false_alarms, outputs.units)
    limit -= HAIR * max(1.0, abs(limit)) if math.isfinite(limit) else 0.0
    return Unknown(score, limit, false_alarms, len(outputs), reason, reference)
