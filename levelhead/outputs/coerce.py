"""Anyone's arrays, lists and text as tensors and strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.outputs.validate import first


def positions(text: Sequence[str], classes: tuple[str, ...], where: Callable[[int], str]) -> Tensor:
    """Labels written as class names, else as positions 0 … K−1, as int64 [N]."""
    place = {name: k for k, name in enumerate(classes)}
    numbers = {str(k): k for k in range(len(classes))}
    values = set(text)
    for known in (place, numbers):
        if values <= known.keys():
            return torch.tensor([known[t] for t in text], dtype=torch.int64)
    # Names win: with one name among the labels, a number that is no name is the mistake.
    fits = place if values & place.keys() else numbers
    i = next(i for i, t in enumerate(text) if t not in fits)
    shown = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
    raise LevelheadError(
        f"{where(i)}: the label {text[i]!r} is no class; give one of the names {shown} "
        f"or positions 0 to {len(classes) - 1} throughout"
    )


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


def names_or_positions(values: Any, names: tuple[str, ...] = ()) -> tuple[str, ...] | Tensor:
    """Labels as text, or as a tensor: int64 [N], or float64 [N, K] of what annotators said."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind in "USOT" and array.ndim == 1:
            return strings(array)
        if array.ndim == 2 and array.shape[1] == len(names):
            return floats(array, "labels").double()
    elif values.ndim == 2 and values.shape[1] == len(names):
        return values.detach().cpu().double()
    return integers(values)


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
    """An array, tensor or list of text (or numbers) as strings."""
    if isinstance(values, (np.ndarray, Tensor)):
        values = values.tolist()
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
