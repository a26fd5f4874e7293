"""Images brighter, paler, greyer and noisier, in batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LIGHTS = ("brightness", "contrast", "colour", "pixel_noise")
"""What is done here, by the recipe's fields."""
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


def relight(
    images: Tensor,
    strengths: Mapping[str, Tensor],
    draws: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Images [B,C,H,W] of 0-255, changed; float32, within 0-255.

    draws: uniform in [0, 1), [B,3]; strengths [B] by name, those missing are left out. brightness
    multiplies by a factor of 1 ± strength; contrast blends with the image's mean grey, colour with
    its grey values, by such a factor (as torchvision's ColorJitter). pixel_noise: the deviation of
    `noise` (standard normal, as images), as a share of 255.
    """
    x = images.float()
    factors = 1 + (2 * draws - 1) * torch.stack(
        [strengths.get(name, torch.zeros(len(draws), device=x.device)) for name in LIGHTS[:3]], 1
    )
    bright, contrast, colour = (f[:, None, None, None] for f in factors.unbind(1))
    if "brightness" in strengths:
        x = (x * bright).clamp(0, 255)
    if "contrast" in strengths:
        mean = grey(x).mean((1, 2, 3), keepdim=True)
        x = torch.lerp(mean, x, contrast).clamp(0, 255)
    if "colour" in strengths:
        x = torch.lerp(grey(x), x, colour).clamp(0, 255)
    if noise is not None and "pixel_noise" in strengths:
        x = (x + noise * 255 * strengths["pixel_noise"][:, None, None, None]).clamp(0, 255)
    return x


def grey(images: Tensor) -> Tensor:
    """Luma of images [B,3,H,W], or grey images as they are: [B,1,H,W]."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)
