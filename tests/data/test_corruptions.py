"""Corruptions: what each does to pixels, against independent implementations."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from levelhead.data.corruptions import AMOUNTS, corrupt
from levelhead.errors import LevelheadError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
PICTURES[0, :4] = 0  # black has no hue to keep


def off(kind: str, wanted: np.ndarray, images: np.ndarray = PICTURES) -> float:
    """The largest difference in levels of 0 to 255."""
    return float(np.abs(corrupt(images, kind).astype(float) - wanted).max())


def test_brightness_keeps_hue_and_saturation():
    """It would be another corruption than adding to the value of HSV."""

    def brighter(pixel: np.ndarray) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        return colorsys.hsv_to_rgb(h, s, min(v + 0.15, 1))

    assert off("brightness", 255 * np.apply_along_axis(brighter, 3, PICTURES)) < 0.51


def test_pixelate_is_pillows_box():
    """Means of other pixels would be taken than Hendrycks and Dietterich's code takes."""

    def small(image: np.ndarray, side: int) -> np.ndarray:
        box = Image.Resampling.BOX
        there = Image.fromarray(image).resize((int(0.85 * side),) * 2, box)
        return np.array(there.resize((side, side), box), dtype=float)

    assert off("pixelate", np.stack([small(image, 32) for image in PICTURES])) < 1.01
    large = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert off("pixelate", small(large[0], 64)[None], large) < 1.01


def test_blur_and_contrast_are_their_formulas():
    """A blur of another width or border, or a contrast about another mean."""
    x, sigma = PICTURES.astype(np.float64), 0.7
    taps = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    for axis in (1, 2):
        padded = np.pad(x, [(3, 3) if a == axis else (0, 0) for a in range(4)], mode="edge")
        parts = [np.take(padded, np.arange(32) + k, axis) * t for k, t in enumerate(taps)]
        x = sum(parts) / taps.sum()
    assert off("gaussian_blur", x) < 0.6
    mean = PICTURES.mean((1, 2), keepdims=True)
    assert off("contrast", mean + 0.4 * (PICTURES - mean)) < 0.51


def test_noise_has_its_size_and_its_seed():
    """Two calls would judge two networks on different images."""
    grey = np.full((300, 16, 16, 1), 128, np.uint8)  # more than one piece
    noise = corrupt(grey, "gaussian_noise").astype(float) - 128
    assert abs(noise.std() / 255 - 0.08) < 1e-3
    assert abs(noise.mean()) < 0.3
    assert not np.array_equal(noise[0], noise[256])
    assert np.array_equal(corrupt(grey, "gaussian_noise"), corrupt(grey, "gaussian_noise"))
    assert not np.array_equal(corrupt(grey, "gaussian_noise", 1), corrupt(grey, "gaussian_noise"))


@pytest.mark.parametrize("kind", AMOUNTS)
def test_every_kind_takes_any_picture(kind: str):
    """Grey, tiny or oblong images would fail, or come back as something else."""
    for shape in ((2, 8, 8, 1), (1, 5, 9, 3), (0, 8, 8, 3)):
        made = corrupt(np.full(shape, 200, np.uint8), kind)
        assert made.shape == shape
        assert made.dtype == np.uint8
    with pytest.raises(LevelheadError, match="contrast"):
        corrupt(PICTURES, "contrst")
