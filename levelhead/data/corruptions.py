"""Corrupted images: five of Hendrycks and Dietterich's corruptions (2019), a batch at a time.

Amounts are severity 3 of their CIFAR-10-C. Differences: lengths are shares of the image's side,
so that larger images suffer alike (theirs for ImageNet are other, larger numbers); values are
rounded where they truncate; the noise is seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from levelhead.data.entries import Array
from levelhead.errors import LevelheadError, nearest

AMOUNTS = {
    "gaussian_noise": 0.08,  # standard deviation, in shares of white
    "gaussian_blur": 0.7 / 32,  # standard deviation, in sides of the image
    "contrast": 0.4,  # what is left of the distance to the image's mean colour
    "brightness": 0.15,  # added to the value of HSV
    "pixelate": 0.85,  # pixels left, in shares of each side
}
"""The corruptions, each with its one amount."""

_PIECE = 256  # images worked on at once


def corrupt(images: Array, kind: str, seed: int = 0) -> Array:
    """Images uint8 [N,H,W,C], corrupted: the same shape; `seed` is the noise's.

    Raises LevelheadError for a kind that is not in `AMOUNTS`.
    """
    if kind not in AMOUNTS:
        raise LevelheadError(f"corruption {kind!r}: {nearest(kind, list(AMOUNTS))}")
    rng, corrupted = np.random.default_rng(seed), np.empty_like(images)
    for start in range(0, len(images), _PIECE):
        x = images[start : start + _PIECE].astype(np.float32) / 255
        x = _CORRUPT[kind](x, AMOUNTS[kind], rng)
        corrupted[start : start + _PIECE] = np.rint(255 * np.clip(x, 0, 1))
    return corrupted


def _noise(x: Array, amount: float, rng: np.random.Generator) -> Any:
    return x + amount * rng.standard_normal(x.shape, dtype=np.float32)


def _blur(x: Array, amount: float, rng: np.random.Generator) -> Any:
    from scipy.ndimage import gaussian_filter

    sigma = (0, amount * x.shape[1], amount * x.shape[2], 0)
    return gaussian_filter(x, sigma, mode="nearest")


def _contrast(x: Array, amount: float, rng: np.random.Generator) -> Any:
    mean = x.mean((1, 2), keepdims=True)
    return mean + amount * (x - mean)


def _brightness(x: Array, amount: float, rng: np.random.Generator) -> Any:
    """With hue and saturation kept, colours are in proportion to the value, the largest of them."""
    value = x.max(3, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    return np.where(value > 0, x / np.maximum(value, 1e-6) * brighter, brighter)


def _pixelate(x: Array, amount: float, rng: np.random.Generator) -> Any:
    down, across = (_shrunk(side, max(1, int(amount * side))) for side in x.shape[1:3])
    return np.einsum("ij,njkc,lk->nilc", down, x, across, optimize=True)


def _shrunk(side: int, few: int) -> Any:
    """[side, side]: to `few` pixels, means of those whose centres each covers, and back again."""
    centres, scale = np.arange(side) + 0.5, side / few
    covered = (centres[None] / scale).astype(int) == np.arange(few)[:, None]
    back = (centres * few / side).astype(int)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)[back]


_CORRUPT: dict[str, Callable[[Array, float, np.random.Generator], Any]] = {
    "gaussian_noise": _noise,
    "gaussian_blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
}
