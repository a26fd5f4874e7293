"""Parts of a data set: folds and halves, stratified by label, with groups whole."""

from __future__ import annotations

import torch
from torch import Tensor


def folds(labels: Tensor, number: int, seed: int = 0, units: Tensor | None = None) -> Tensor:
    """A fold for each example, int64 [N] from 0: even, stratified, whatever the classes' order.

    Dealt out class by class, in the order in which examples and so classes are drawn. Examples of
    one unit [N] share a fold: units are dealt out by the label of their first example.
    """
    # scikit-learn's StratifiedKFold warns or refuses where a class has fewer examples than folds.
    if units is not None:
        count = int(units.max()) + 1
        first = torch.full((count,), len(units)).scatter_reduce(
            0, units, torch.arange(len(units)), "amin"
        )
        return folds(labels[first], number, seed)[units]
    n = len(labels)
    place = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    first = torch.full((int(labels.max()) + 1,), n).scatter_reduce(0, labels, place, "amin")
    fold = torch.empty_like(place)
    fold[(first[labels] * n + place).argsort()] = torch.arange(n) % number
    return fold


def random_folds(n: int, number: int, seed: int = 0, units: Tensor | None = None) -> Tensor:
    """A fold for each of n examples, int64 [N] from 0, even and not stratified; units stay whole.

    To choose among calibrators: stratified folds hold the same shares of the classes, which a bias
    for each class learns from the one and is praised for on the other.
    """
    count = n if units is None else int(units.max()) + 1
    place = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty_like(place)
    fold[place] = torch.arange(count) % number
    return fold if units is None else fold[units]


def halves(labels: Tensor, seed: int = 0, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positions of two halves with the same share of each label, in order; units stay whole."""
    if units is not None:
        fold = folds(labels, 2, seed, units)
        return (fold == 0).nonzero()[:, 0], (fold == 1).nonzero()[:, 0]
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    mixed = mixed[labels[mixed].argsort(stable=True)]
    return mixed[0::2].sort().values, mixed[1::2].sort().values
