"""Targets: what a network is trained towards, made apart from the loss.

Two conventions of label smoothing, never mixed up:

* `uniform`: ε is spread over all K classes, so the right class gets 1 − ε + ε/K
  (Szegedy et al. 2016, section 7; torch's `label_smoothing`; Müller et al. 2019).
* `others`: ε is spread over the K − 1 wrong classes, so the right class gets 1 − ε.

They are the same targets at ε_others = ε_uniform · (K − 1)/K.

Wherever ε is a number it may also be a tensor [K]: the ε of the label's class.
Every rule here is linear in the label, so that it goes on to soft labels and commutes with `mix`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from levelhead.errors import LevelheadError

Convention = Literal["uniform", "others"]
Epsilon = float | Tensor
UNLABELLED = -1
"""The label of an example without one, which no loss of labels counts."""


@dataclass(frozen=True)
class Targets:
    """labels [B] int64; soft [B,K] where targets are distributions."""

    labels: Tensor
    soft: Tensor | None = None


def of_batch(
    labels: Tensor, index: Tensor, rows: Tensor | None = None, soft: Tensor | None = None
) -> Targets:
    """Targets of a batch: labels int64 [B], index int64 [B] into the training split.

    rows [K,K]: target of every class (`smooth`, `target_table`); soft [N,K]: what annotators said
    of each example, to which the rows apply as Σ_c q_c · rows_c. Without either the labels alone.
    """
    if soft is not None:
        own = soft[index.to(soft.device)].to(labels.device)
        return Targets(labels, own if rows is None else own @ rows)
    return Targets(labels, None if rows is None else rows[labels])


def check_smoothing(epsilon: Epsilon, classes: int, convention: Convention) -> None:
    """Raise LevelheadError for an ε that makes the right class no longer the likeliest."""
    if isinstance(epsilon, Tensor):
        if epsilon.shape != (classes,):
            raise LevelheadError(
                f"--smoothing: {tuple(epsilon.shape)} values for {classes} classes; "
                "give one number, or one for each class"
            )
        for value in epsilon.tolist():
            check_smoothing(value, classes, convention)
        return
    if not 0 <= epsilon < 1:
        raise LevelheadError(f"--smoothing {epsilon}: must be in [0, 1), for example 0.1")
    if convention == "others" and epsilon >= (classes - 1) / classes:
        raise LevelheadError(
            f"--smoothing {epsilon} --convention others: must be below (K-1)/K = "
            f"{(classes - 1) / classes:.4g} for {classes} classes, or a wrong class gains as much "
            "as the right one"
        )


def levels(epsilon: Epsilon, classes: int, convention: Convention) -> tuple[Epsilon, Epsilon]:
    """Probability of the right class, and of each wrong class (for ε [K]: each [K], by label).

    >>> levels(0.1, 10, "uniform")
    (0.91, 0.01)
    >>> levels(0.09, 10, "others")
    (0.91, 0.01)
    """
    check_smoothing(epsilon, classes, convention)
    off = epsilon / classes if convention == "uniform" else epsilon / (classes - 1)
    on = 1 - epsilon + off if convention == "uniform" else 1 - epsilon
    return on, off


def smooths(epsilon: Epsilon) -> bool:
    """Whether this ε changes any target."""
    return bool((epsilon > 0).any()) if isinstance(epsilon, Tensor) else epsilon > 0


def spread(soft: Tensor, on: Epsilon, off: Epsilon) -> Tensor:
    """Soft labels [B,K], smoothed with the two `levels`: Σ_c q_c · (smoothed one-hot of c)."""
    if isinstance(on, Tensor) and isinstance(off, Tensor):
        on, off = on.to(soft), off.to(soft)
        return (on - off) * soft + (soft @ off)[:, None]
    return off + (on - off) * soft


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels [B] -> float32 [B,K] with a one in the label's column."""
    return torch.nn.functional.one_hot(labels, classes).float()


def smooth(
    labels: Tensor, classes: int, epsilon: Epsilon, convention: Convention = "uniform"
) -> Tensor:
    """Labels [B] int64, or soft labels [B,K] -> smoothed targets [B,K] float32.

    Soft labels are mixed with the uniform distribution by the same rule, and a warning is given:
    they have been softened already. Raises LevelheadError for an ε out of range.
    """
    on, off = levels(epsilon, classes, convention)
    if labels.dim() == 2:
        warn_double_smoothing(epsilon)
        return spread(labels.float(), on, off)
    if isinstance(on, Tensor) and isinstance(off, Tensor):
        on, off = (level.to(labels.device).float()[labels][:, None] for level in (on, off))
    return one_hot(labels, classes) * (on - off) + off


def warn_double_smoothing(epsilon: Epsilon) -> None:
    """Warn that targets which are soft already are being smoothed again."""
    if smooths(epsilon):
        amount = "by class" if isinstance(epsilon, Tensor) else epsilon
        warnings.warn(
            f"smoothing {amount} is applied to targets that are soft already; "
            "set smoothing to 0 unless this is meant",
            stacklevel=3,
        )


def target_table(prior: Tensor, epsilon: Epsilon, convention: Convention = "uniform") -> Tensor:
    """Target of every class, float32 [K,K]: row y is (1 − ε_y) · one-hot of y + ε_y · prior_y.

    prior: a distribution [K], the same for all labels, or similarities [K,K], not negative: row y
    divided by its sum. `uniform` keeps the label's own entry of the prior; `others` strikes it out
    and divides by the rest. A uniform prior gives `smooth`. Raises LevelheadError for a prior that
    is neither, and where a wrong class would gain as much as the right one.
    Source: Szegedy et al. 2016, section 7: q'(k) = (1 − ε) δ_ky + ε u(k) for any u.
    """
    classes = len(prior)
    if prior.shape not in ((classes,), (classes, classes)) or classes < 2:
        raise LevelheadError(f"prior: shape {tuple(prior.shape)}; give [K] or [K,K]")
    if not bool((torch.isfinite(prior) & (prior >= 0)).all()):
        raise LevelheadError("prior: negative or not finite; for cosines give softmax(S / T)")
    if prior.dim() == 1 and abs(float(prior.sum()) - 1) > 1e-4:
        raise LevelheadError(f"prior: adds up to {float(prior.sum()):.4g}; divide it by its sum")
    check_smoothing(epsilon, classes, "uniform")
    rows = prior.float().expand(classes, classes).clone()
    if convention == "others":
        rows.fill_diagonal_(0)
    total = rows.sum(1, keepdim=True)
    if not bool((total > 0).all()):
        raise LevelheadError(f"prior: row {int(total.argmin())} has no weight to give away")
    share = torch.as_tensor(epsilon, device=rows.device).float().expand(classes)
    targets = torch.diag(1 - share) + share[:, None] * rows / total
    wrong = targets.clone().fill_diagonal_(0).amax(1)
    if bool((targets.diagonal() <= wrong).any()):
        worst = int((targets.diagonal() - wrong).argmin())
        raise LevelheadError(
            f"--smoothing {float(share[worst]):.4g}: with this prior a wrong class gains as much "
            f"as class {worst}; lower it"
        )
    return targets


def towards(
    labels: Tensor, prior: Tensor, epsilon: Epsilon, convention: Convention = "uniform"
) -> Tensor:
    """Labels [B] int64 or soft [B,K] (with a warning) -> targets [B,K]: rows of `target_table`.

    In a training loop make the table once, and index it with the labels.
    """
    rows = target_table(prior, epsilon, convention).to(labels.device)
    if labels.dim() == 1:
        return rows[labels]
    warn_double_smoothing(epsilon)
    return labels.float() @ rows


def human(counts: Tensor) -> Tensor:
    """Votes of annotators [B,K] (counts or weights) -> targets float32 [B,K]: each row's shares.

    Raises LevelheadError naming the row without a vote, or with a negative one.
    Source: Peterson et al. 2019, "Human uncertainty makes classification more robust".
    """
    votes = counts.double()
    good = (torch.isfinite(votes) & (votes >= 0)).all(1) & (votes.sum(1) > 0)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise LevelheadError(
            f"votes: row {row} is {counts[row].tolist()[:12]}; "
            "needs at least one vote and none negative"
        )
    return (votes / votes.sum(1, keepdim=True)).float()


def mix(a: Tensor, b: Tensor, share: float | Tensor) -> Tensor:
    """Targets [B,K] of two images put together: share · a + (1 − share) · b.

    share in [0, 1]: λ of mixup, the area kept by CutMix; a number or [B]. The one rule: labels are
    mixed one-hot, and the mixture is smoothed once. Smoothing is linear in the label, so mixing
    targets that were smoothed once each gives the same: mix `smooth(…)` (or rows of
    `target_table`) and leave the loss's smoothing at 0, for it warns when it smooths a mixture.
    Source: Zhang et al. 2018 (mixup), section 2; Yun et al. 2019 (CutMix), equation 1.
    """
    part = torch.as_tensor(share, dtype=a.dtype)
    if not bool(((part >= 0) & (part <= 1)).all()):
        raise LevelheadError(f"share {share}: must be in [0, 1]")
    part = (part[:, None] if part.dim() == 1 else part).to(a.device)
    return part * a + (1 - part) * b


@dataclass
class OnlineTable:
    """Online label smoothing: sums [K,K] of this epoch, table [K,K] of the last; its whole state.

    Each epoch: `rows = target_table(online.table, 0.5)`; train with `Targets(labels,
    rows[labels])`: ½ CE + ½ CE towards the table's row; `update` after a batch; `next` at the end.
    Source: Zhang et al. 2020, "Delving deep into label smoothing" (α = ½).
    """

    sums: Tensor
    table: Tensor

    @classmethod
    def start(cls, classes: int, device: torch.device | str = "cpu") -> OnlineTable:
        """Before the first epoch: nothing summed, every row uniform."""
        table = torch.full((classes, classes), 1 / classes, device=device)
        return cls(torch.zeros_like(table), table)

    def to(self, device: torch.device | str) -> OnlineTable:
        """The same on another device."""
        return OnlineTable(self.sums.to(device), self.table.to(device))

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add the softmax of each correctly classified example [B,K] to the row of its label."""
        right = logits.argmax(1) == labels
        shares = logits.to(self.sums.dtype).softmax(1)
        self.sums.index_add_(0, labels, torch.where(right[:, None], shares, 0))

    def next(self) -> Tensor:
        """End an epoch: the sums become the table (uniform for a class without hits)."""
        total = self.sums.sum(1, keepdim=True)
        uniform = 1 / len(total)
        self.table.copy_(torch.where(total > 0, self.sums / total, uniform))
        self.sums.zero_()
        return self.table


def confused_pairs(class_names: Sequence[str]) -> dict[int, int]:
    """Which class is taken for which, as indices: CIFAR-10's map by its names, else k -> k + 1.

    Source: Patrini et al. 2017: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
    """
    names = ("truck automobile", "bird airplane", "deer horse", "cat dog", "dog cat")
    place = {name: k for k, name in enumerate(class_names)}
    if len(class_names) == 10 and place.keys() >= set(" ".join(names).split()):
        return {place[a]: place[b] for a, b in map(str.split, names)}
    return {k: (k + 1) % len(class_names) for k in range(len(class_names))}


def noisy(
    labels: Tensor,
    classes: int,
    kind: Literal["symmetric", "asymmetric"],
    rate: float,
    seed: int,
    pairs: Mapping[int, int] | None = None,
) -> Tensor:
    """Labels [N] int64 with noise; each is changed with probability `rate`, on its own.

    symmetric: to one of the K − 1 others, all alike, so that 1 − rate stay right. (Papers that
    draw from all K classes, the right one included, change only rate · (K − 1)/K.)
    asymmetric: to pairs[label] (`confused_pairs`; default k -> k + 1); a class without a pair
    keeps its labels. A function of the seed and N, K alone. Raises LevelheadError for bad input.
    """
    if not 0 <= rate <= 1:
        raise LevelheadError(f"noise rate {rate}: must be in [0, 1], for example 0.2")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise LevelheadError(f"labels: must be in 0 .. {classes - 1} for {classes} classes")
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(len(labels), generator=generator) < rate
    if kind == "symmetric":
        other = labels.cpu() + torch.randint(1, classes, (len(labels),), generator=generator)
    elif kind == "asymmetric":
        pairs = {k: (k + 1) % classes for k in range(classes)} if pairs is None else pairs
        if not all(0 <= k < classes for k in (*pairs.keys(), *pairs.values())):
            raise LevelheadError(f"pairs {dict(pairs)}: classes are 0 .. {classes - 1}")
        other = torch.tensor([pairs.get(k, k) for k in range(classes)])[labels.cpu()]
    else:
        raise LevelheadError(f"noise {kind!r}: choose one of symmetric, asymmetric")
    return torch.where(hit, other % classes, labels.cpu()).to(labels.device)
