"""How images look, in numbers: what another camera, light or lens changes first."""

from __future__ import annotations

import numpy as np

from levelhead.data.entries import Array

LOOKS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "of more contrast"),
    "saturation": ("paler", "more colourful"),
    "sharpness": ("less sharp", "sharper, or noisier"),
}
"""What is measured, and what less and more of it is called."""


def appearance(images: Array) -> dict[str, Array]:
    """Images uint8 [N,H,W,C] -> float64 [N] of each of `LOOKS`; shares of white, sharpness in ln.

    Brightness and contrast: mean and deviation of the luma (the mean of the channels). Saturation:
    mean range of the channels (0 of grey). Sharpness: ln of the mean square of the Laplacian over
    that of the luma's deviation, so that a change of contrast alone leaves it.
    """
    n = len(images)
    columns = {name: np.zeros(n) for name in LOOKS}
    for i, image in enumerate(images):
        x = image.astype(np.float32) / 255
        luma = x.mean(2)
        spread = float(luma.std())
        columns["brightness"][i] = luma.mean()
        columns["contrast"][i] = spread
        columns["saturation"][i] = (x.max(2) - x.min(2)).mean()
        inner = 4 * luma[1:-1, 1:-1] - luma[:-2, 1:-1] - luma[2:, 1:-1]
        inner = inner - luma[1:-1, :-2] - luma[1:-1, 2:]
        edges = float(np.square(inner).mean()) if inner.size else 0.0
        columns["sharpness"][i] = np.log((edges + 1e-8) / (spread**2 + 1e-6))
    return columns
