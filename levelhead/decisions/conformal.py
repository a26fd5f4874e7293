"""Conformal sets: classes that hold the true one as often as promised, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from levelhead.decisions.plain import mean, plain, share
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs, log_probabilities, probabilities

Method = Literal["lac", "aps", "raps"]
SIZES = ((0, 0), (1, 1), (2, 3), (4, 10), (11, 100), (101, 1 << 31))


@dataclass(frozen=True)
class Conformal:
    """A fitted set predictor: class k is in the set where its score is at most `quantile`.

    Scores: "lac" −log p_k, which orders as 1 − p_k (Sadinle, Lei, Wasserman 2019); "aps" the mass
    of likelier classes + u p_k with one uniform u an example (Romano, Sesia, Candès 2020); "raps"
    that + penalty · max(0, rank − k_reg), rank from 1 (Angelopoulos et al. 2021).
    """

    method: Method
    alpha: float
    quantile: tuple[float, ...]  # one, or with `by_class` one a class; infinite: always in the set
    n: int
    by_class: bool
    seed: int  # of u; fitting and predicting draw apart
    penalty: float
    k_reg: int
    classes: int
    groups: int | None = None  # of the n examples, where they come in groups

    def guarantee(self) -> str:
        """What is promised, over the draw of the examples fitted on and of the one to come."""
        text = (
            f"A set holds the true class of a new example{' of each class' * self.by_class} with "
            f"probability at least {(1 - self.alpha) * 100:.4g} %, if it is drawn as the "
            f"{self.n:,} fitted on were{'' if self.groups is None else ', from a new group'}."
        )
        if endless := sum(map(math.isinf, self.quantile)):
            which = f"{endless} classes" if self.by_class else "all classes"
            text += f" With so few examples {which} are in every set."
        return text

    def coverage_range(self, level: float = 0.95) -> tuple[float, float]:
        """Where coverage lies for `level` of the draws of n examples fitted on: Beta (Vovk 2012).

        For scores without ties; (1 − alpha, 1) with `by_class` or an infinite quantile.
        """
        from scipy.special import betaincinv

        n = self.n if self.groups is None else self.groups
        out = math.floor((n + 1) * self.alpha + 1e-9)
        if self.by_class or math.isinf(self.quantile[0]) or not out:
            return 1 - self.alpha, 1.0
        low, high = betaincinv(n + 1 - out, out, np.array([1 - level, 1 + level]) / 2).tolist()
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the guarantee; a quantile of null is infinite."""
        return {**plain(self), "guarantee": self.guarantee()}

    as_json = to_json

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Conformal:
        """Read what `to_json` gave."""
        fields: dict[str, Any] = {name: content.get(name) for name in cls.__dataclass_fields__}
        fields["quantile"] = tuple(math.inf if q is None else q for q in fields["quantile"])
        return cls(**fields)


def fit(
    outputs: Outputs,
    alpha: float = 0.1,
    method: Method = "lac",
    seed: int = 0,
    *,
    by_class: bool = False,
    penalty: float = 0.01,
    k_reg: int = 5,
) -> Conformal:
    """Split conformal prediction: the ⌈(n+1)(1−alpha)⌉-th smallest score of the true class.

    Fit on examples that trained and calibrated nothing (half B of `halves`). `by_class` takes the
    quantile within each true class (Mondrian; Vovk 2012), so that each class is covered. Infinite
    where n is too small: the class is then in every set. Raises LevelheadError for alpha outside
    (0, 1), another method, outputs without the probabilities of all classes.
    """
    if not 0 < alpha < 1:
        raise LevelheadError(f"alpha {alpha}: must be between 0 and 1, for example 0.1")
    if method not in ("lac", "aps", "raps"):
        raise LevelheadError(f"conformal method {method!r}: choose one of aps, lac, raps")
    if not (penalty >= 0 and k_reg >= 0):
        raise LevelheadError(f"penalty {penalty}, k_reg {k_reg}: must be 0 or more")
    about = (len(outputs), by_class, seed, penalty, k_reg, outputs.classes)
    scores = _scores(Conformal(method, alpha, (), *about), outputs, 0)
    own = torch.cat([part.gather(1, labels[:, None])[:, 0] for part, labels in scores])
    every = torch.ones_like(outputs.labels, dtype=torch.bool)
    parts = [outputs.labels == k for k in range(outputs.classes)] if by_class else [every]
    units = outputs.units
    quantiles = [quantile(own[p], alpha, None if units is None else units[p]) for p in parts]
    groups = None if units is None else int(units.max()) + 1
    return Conformal(method, alpha, tuple(quantiles), *about, groups=groups)


def sets(conformal: Conformal, outputs: Outputs) -> Tensor:
    """Which classes are in each example's set, bool [N, K]; the labels are not looked at."""
    return torch.cat([inside for inside, _ in _sets(conformal, outputs)])


def evaluate(conformal: Conformal, outputs: Outputs, level: float = 0.95) -> dict[str, Any]:
    """What the sets do on other examples; shares, not percent.

    `coverage` (Wilson) and mean `size` as value, low, high; shares of `empty`, `single` and `all`;
    `by_class` and, by size of the set, `by_size` (size-stratified coverage, Angelopoulos et al.
    2021): lists of `{"name", "n", "coverage", "size"}`, and the `worst_…` of each, which has the
    lowest coverage.
    """
    parts = [(s.gather(1, y[:, None])[:, 0], s.sum(1)) for s, y in _sets(conformal, outputs)]
    covered, size = (torch.cat(column) for column in zip(*parts, strict=True))
    n, k, labels, units = len(outputs), outputs.classes, outputs.labels, outputs.units

    def table(index: Tensor, names: list[str]) -> list[dict[str, Any]]:
        rows = []
        for i in index.unique().tolist():
            here = index == i
            own = None if units is None else units[here].unique(return_inverse=True)[1]
            row = {"name": names[i], "n": int(here.sum())}
            row["coverage"] = share(covered[here], level, own)
            rows.append(row | {"size": float(size[here].double().mean())})
        return rows

    by_class = table(labels, list(outputs.class_names))
    stratum = torch.bucketize(size, torch.tensor([high for _, high in SIZES]))
    by_size = table(stratum, [f"{a}–{min(b, k)}" if a < b else str(a) for a, b in SIZES])
    filled = [row for row in by_size if row["size"]]
    return {
        "n": n,
        "wanted": 1 - conformal.alpha,
        "coverage": share(covered, level, units),
        "size": mean(size, level, units),
        "empty": float((size == 0).double().mean()),
        "single": float((size == 1).double().mean()),
        "all": float((size == k).double().mean()),
        "by_class": by_class,
        "worst_class": min(by_class, key=lambda row: row["coverage"]["value"]),
        "by_size": by_size,
        # Not the empty sets, which never hold anything.
        "worst_size": min(filled, key=lambda row: row["coverage"]["value"], default=None),
    }


def quantile(own: Tensor, alpha: float, units: Tensor | None) -> float:
    """The ⌈(n+1)(1−alpha)⌉-th smallest score, infinite where there are not so many.

    With units the smallest score below which lie (1−alpha) of the mass, where each of G units has
    1/(G + 1), shared by its examples (Lee, Barber & Willett 2023, hierarchical data).
    """
    if units is not None and len(own):
        place = units.unique(return_inverse=True)[1]
        size = torch.bincount(place)
        mass = 1 / (size[place].double() * (len(size) + 1))
        order = own.argsort()
        reached = mass[order].cumsum(0)
        at = int(torch.searchsorted(reached, 1 - alpha - 1e-9))
        return math.inf if at == len(own) else float(own[order[at]])
    scores = own.numpy()
    n = len(scores)
    rank = n + 1 - math.floor((n + 1) * alpha + 1e-9)
    return math.inf if rank > n else float(np.partition(scores, rank - 1)[rank - 1])


def _sets(conformal: Conformal, outputs: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    if conformal.classes != outputs.classes:
        raise LevelheadError(
            f"{outputs.classes} classes: the sets were fitted on {conformal.classes}; fit anew"
        )
    quantile = torch.tensor(conformal.quantile, dtype=torch.float64)
    for scores, labels in _scores(conformal, outputs, 1):
        yield scores <= quantile, labels


def _scores(conformal: Conformal, outputs: Outputs, use: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores of every class, float64 [n, K], and labels, some rows at a time."""
    draw = np.random.default_rng([conformal.seed, use])
    for scores, labels in outputs.pieces():
        if conformal.method == "lac":
            yield -log_probabilities(outputs.kind, scores), labels
            continue
        p = probabilities(outputs.kind, scores).numpy()
        order = np.argsort(-p, axis=1)
        falling = np.take_along_axis(p, order, 1)
        reached = falling.cumsum(1) - falling * draw.random((len(p), 1))
        if conformal.method == "raps":
            rank = np.arange(1, p.shape[1] + 1)
            reached += conformal.penalty * np.maximum(rank - conformal.k_reg, 0)
        ranks = np.empty_like(p)
        np.put_along_axis(ranks, order, reached, 1)
        yield torch.from_numpy(ranks), labels
