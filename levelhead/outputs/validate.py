"""What scores and labels can be; the first row that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from levelhead.errors import LevelheadError

Kind = Literal["logits", "probabilities", "confidence"]

PIECE = 1 << 17
"""Scores worked on at once: float64 copies that stay in the processor's cache."""

LARGEST = 1e30
"""Logits beyond this are no result of a model, and overflow when they are squared."""


def check_rows(
    kind: Kind, scores: Tensor, labels: Tensor, classes: int, where: Callable[[int], str]
) -> str:
    """Raise LevelheadError for the first row of scores or labels that cannot be.

    Returns a sentence where probabilities add up to 1 only up to their rounding, else "".
    """
    if kind not in ("logits", "probabilities", "confidence"):
        raise LevelheadError(f"kind {kind!r}: must be logits, probabilities or confidence")
    if scores.ndim != 2:
        raise LevelheadError(
            f"{kind}: shape {tuple(scores.shape)}; must be [N, K], a row an example"
        )
    n, k = scores.shape
    if tuple(labels.shape) != (n,):
        raise LevelheadError(f"labels: shape {tuple(labels.shape)} for {n} rows; must be [{n}]")
    if n == 0:
        raise LevelheadError(f"{kind}: no rows; give at least one example")
    if kind == "confidence" and k != 1:
        raise LevelheadError(f"confidence: {k} columns; must be one number an example")
    if min(k, classes) < 2 and kind != "confidence":
        raise LevelheadError(f"{kind}: {k} class; a classifier has at least 2 columns")

    step, remark = max(1, PIECE // k), ""
    for start in range(0, n, step):
        piece = scores[start : start + step]
        if (i := first(~piece.isfinite().all(1))) is not None:
            value = piece[i][~piece[i].isfinite()][0].item()
            shown = "NaN" if value != value else "an infinite value"
            raise LevelheadError(
                f"{where(start + i)}: {shown} (or a gap) among the {kind}; leave the row out or "
                "fix the model"
            )
        # A masked class (−1e30) divided by a temperature below 1 stays masked.
        if (
            kind == "logits"
            and (i := first(((piece > LARGEST) | (piece < -1e6 * LARGEST)).any(1))) is not None
        ):
            raise LevelheadError(
                f"{where(start + i)}: a logit of {float(piece[i].abs().max()):g}; must be at most "
                f"{LARGEST:g} in size: fix the model"
            )
        if kind == "confidence" and (i := first(((piece < 0) | (piece > 1)).any(1))) is not None:
            raise LevelheadError(
                f"{where(start + i)}: the confidence {float(piece[i]):g} must be between 0 and 1"
            )
        if kind == "probabilities":
            if (i := first((piece < 0).any(1))) is not None:
                raise LevelheadError(
                    f"{where(start + i)}: the probability {float(piece[i].min()):g} is negative; "
                    "if these are logits, say so"
                )
            total = piece.double().sum(1)
            off = (total - 1).abs() > 1e-3
            if bool(off.any()) and (digits := _digits(piece)):
                allowed = k / 2 * 10.0**-digits + 1e-9
                if not bool(((total - 1).abs() > allowed).any() or (total == 0).any()):
                    off.zero_()
                    remark = (
                        f"Probabilities rounded to {digits} digits, whose rows add up to 1 only "
                        "within that, were brought to 1."
                    )
            if (i := first(off)) is not None:
                raise LevelheadError(
                    f"{where(start + i)}: the probabilities add up to {float(total[i]):.6g}, "
                    "not 1; if these are logits, say so"
                )
    check_range("label", labels, n, classes, where)
    return remark


def check_log_probabilities(values: Tensor, n: int, where: Callable[[int], str]) -> None:
    """Raise LevelheadError for the first of n logarithms of a probability that is none."""
    if tuple(values.shape) != (n,):
        raise LevelheadError(f"log_probability: shape {tuple(values.shape)}; must be [{n}]")
    if (i := first(~(values <= 1e-6))) is not None:
        raise LevelheadError(
            f"{where(i)}: log_probability {float(values[i]):g}: must be 0 or less, the natural "
            "logarithm of the label's probability"
        )


def _digits(probabilities: Tensor) -> int:
    """After how many digits, 2 to 6, all of them were rounded; 0 where they were not."""
    values = probabilities.double()
    for digits in range(2, 7):
        scaled = values * 10**digits
        if bool(((scaled - scaled.round()).abs() < 1e-7 * 10**digits + 1e-6).all()):
            return digits
    return 0


def first(bad: Tensor) -> int | None:
    """The first row that is bad, or None."""
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def check_range(
    name: str, values: Tensor, n: int, classes: int, where: Callable[[int], str]
) -> None:
    """Raise LevelheadError for the first of n labels or predictions outside 0 … classes − 1."""
    if tuple(values.shape) != (n,):
        raise LevelheadError(f"{name}s: shape {tuple(values.shape)} for {n} rows; must be [{n}]")
    if (i := first((values < 0) | (values >= classes))) is not None:
        raise LevelheadError(
            f"{where(i)}: the {name} {int(values[i])} is out of range; {name}s run from 0 to "
            f"{classes - 1}"
        )
