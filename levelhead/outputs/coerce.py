"""Anyone's arrays, lists and text as tensors and strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.labels import in_order, number, positions, same, spelling, spellings
from levelhead.outputs.validate import PIECE, first

MASKED = -1e30
"""Stands for a logit of −inf: its probability is exactly 0, and 0 · 1e30 is no NaN."""
FEW = 5
"""From so many examples on, predictions that are never a label are a mistake of spelling."""


def shares(counts: Any) -> Tensor:
    """Counts or shares of what annotators said [N, K] as shares, float64; rows add up to 1.

    Raises LevelheadError for a row with a negative or infinite number, or without any.
    """
    table = floats(counts, "label distribution").double()
    if table.ndim != 2:
        raise LevelheadError(f"label distribution: shape {tuple(table.shape)}; must be [N, K]")
    if (i := first(~(table.isfinite() & (table >= 0)).all(1) | (table.sum(1) == 0))) is not None:
        raise LevelheadError(
            f"row {i}: the label distribution must hold counts or shares of 0 or more, not all 0"
        )
    return table / table.sum(1, keepdim=True)


def class_labels(values: Any, names: tuple[str, ...], where: Callable[[int], str]) -> Tensor:
    """Labels as positions among names, int64 [N]; float64 [N, K] where each row is K counts.

    Text or numbers, [N] or [N, 1]. Whole numbers are names where all of them are; else positions.
    Raises LevelheadError for a shape, or a label that is no class.
    """
    column = _column(values)
    if isinstance(column, list):
        return torch.from_numpy(positions(column, names, where))
    if column.ndim == 2 and column.shape[1] == len(names):
        return floats(column, "labels").double()
    if column.ndim == 2:
        n, k = column.shape
        raise LevelheadError(
            f"labels: shape {(n, k)}; must be [{n}], or [{n}, {len(names)}] of counts"
        )
    labels = integers(column)
    kinds, place = labels.unique(return_inverse=True)
    numbers = {number(name): k for k, name in enumerate(names)}
    if all(str(kind) in numbers for kind in kinds.tolist()) and len(numbers) == len(names):
        return torch.tensor([numbers[str(kind)] for kind in kinds.tolist()], dtype=torch.int64)[
            place
        ]
    return labels


def answers(
    labels: Any, predicted: Any, names: tuple[str, ...] | None, where: Callable[[int], str]
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Class names, and labels and predictions as positions among them, int64 [N] each.

    Without names the classes are what occurs (of whole numbers: 0 up to the largest). Raises
    LevelheadError for a label that is missing, and where no prediction is ever a label.
    """
    columns = [_column(values) for values in (labels, predicted)]
    if names is None and all(isinstance(column, Tensor) for column in columns):
        both = [integers(column) for column in columns]
        kinds = torch.cat(both).unique()
        most = int(kinds.max()) if len(kinds) else 0
        if most < max(1000, 10 * len(kinds)):
            return tuple(str(k) for k in range(max(most + 1, 2))), both[0], both[1]
        both = [torch.searchsorted(kinds, column) for column in both]  # numbers of other things
        return tuple(map(str, kinds.tolist())), both[0], both[1]
    texts = [c if isinstance(c, list) else spellings(integers(c).tolist()) for c in columns]
    for column, what in zip(texts, ("label", "prediction"), strict=True):
        if "" in column:
            raise LevelheadError(
                f"{where(column.index(''))}: no {what}; fill it in, or leave the row out"
            )
    if names is None:
        texts = same(texts)
        by_column = [in_order(set(column)) for column in texts]
        if not {*by_column[0]} & {*by_column[1]} and len(texts[0]) >= FEW:
            shown = [", ".join(k[:3]) + (", …" if len(k) > 3 else "") for k in by_column]
            raise LevelheadError(
                f"no prediction is ever a label: labels are {shown[0]}, predictions {shown[1]}; "
                "write both by the same names"
            )
        names = tuple(in_order({*by_column[0], *by_column[1]}))
        names = (*names, "any other") if len(names) == 1 else names
    both = [
        torch.from_numpy(positions(column, names, where, what))
        for column, what in zip(texts, ("label", "prediction"), strict=True)
    ]
    return names, both[0], both[1]


def _column(values: Any) -> list[str] | Tensor:
    """A column as spellings, if there is text or a gap in it, else as numbers; [N, 1] is [N]."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind in "USOT" and array.ndim == 1:
            return spellings(array.tolist())
        if array.dtype.kind == "f" and array.ndim == 1 and np.isnan(array).any():
            return spellings(array.tolist())
        try:
            return as_tensor(array)
        except LevelheadError as error:
            raise LevelheadError(f"labels: {error}") from None
    tensor = as_tensor(values)
    return tensor[:, 0] if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def two_columns(kind: str, scores: Tensor) -> Tensor:
    """One number an example, [N] or [N, 1], of the second of two classes, as [N, 2].

    P becomes [1 − P, P], a logit z becomes [0, z]; anything else comes back as it is.
    """
    if kind == "confidence" or scores.ndim not in (1, 2) or scores.shape[1:] not in ((), (1,)):
        return scores
    second = scores.reshape(-1, 1)
    return torch.cat([torch.zeros_like(second) if kind == "logits" else 1 - second, second], 1)


def unmasked(scores: Tensor, labels: Tensor, where: Callable[[int], str]) -> tuple[Tensor, int]:
    """Logits with `MASKED` for −inf, and how many rows have one.

    Raises LevelheadError where the label's own logit is −inf.
    """
    step = max(1, PIECE // max(1, scores.shape[-1]))
    if scores.ndim != 2 or not any(bool(z.isneginf().any()) for z in scores.split(step)):
        return scores, 0
    masked = torch.isneginf(scores)
    if tuple(labels.shape) == (len(scores),) and 0 <= int(labels.min()) <= int(labels.max()) < len(
        scores[0]
    ):
        own = masked.gather(1, labels[:, None])[:, 0]
        if (i := first(own)) is not None:
            raise LevelheadError(
                f"{where(i)}: the label's own logit is −inf, that is probability 0; leave the row "
                "out or fix the model"
            )
    return scores.masked_fill(masked, MASKED), int(masked.any(1).sum())


def as_tensor(values: Any) -> Tensor:
    """A tensor on the CPU that shares nothing read-only with its source."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.name == "bfloat16":  # JAX's, which NumPy knows by name alone
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise LevelheadError(f"an array of type {array.dtype}: must hold numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if native.dtype.kind == "u" and native.itemsize > 1:
        native = native.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(native))


def floats(values: Any, name: str) -> Tensor:
    """Float32 or float64 as they are, other numbers as float32; `name` is what errors call them."""
    try:
        tensor = as_tensor(values)
    except LevelheadError as error:
        raise LevelheadError(f"{name}: {error}") from None
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def integers(values: Any) -> Tensor:
    """Labels as int64. Raises LevelheadError for the first that is no whole number."""
    try:
        tensor = as_tensor(values)
    except LevelheadError as error:
        raise LevelheadError(f"labels: {error}") from None
    if tensor.is_floating_point():
        bad = tensor.flatten() != tensor.flatten().round()
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise LevelheadError(
                f"row {i}: the label {float(tensor.flatten()[i])} is no whole number"
            )
    return tensor.long()


def strings(values: Any) -> tuple[str, ...]:
    """An array, tensor or list of text (or numbers) as strings, trimmed and composed (NFC)."""
    if isinstance(values, (np.ndarray, Tensor)):
        values = values.flatten().tolist()
    return tuple(map(spelling, values))
