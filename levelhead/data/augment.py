"""Crop, mirror, cutout and mixing of whole batches, on the device the images live on.

Crop and mirror are one gather with computed row and column indices: no padded copies.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def crop_and_flip(
    images: Tensor,
    index: Tensor,
    shift: Tensor | None,
    mirror: Tensor | None,
    pad: int,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """Pick images and move them: uint8 [N,C,H,W], index [B] -> [B,C,h,w], both channels-last.

    shift: int64 [B,2], the corner of the crop inside the image whose border is reflected by `pad`
    pixels (pad itself means: not moved); mirror: bool [B]. None leaves it out. window: the crop's
    height and width (default: the image's).
    """
    height, width = images.shape[2:]
    high, wide = window or (height, width)
    pixels = images.permute(0, 2, 3, 1)  # in the order of the memory: gathered faster
    if shift is None and mirror is None:
        return pixels[index].permute(0, 3, 1, 2)
    batch = len(index)
    rows = torch.arange(high, device=images.device).expand(batch, high)
    columns = torch.arange(wide, device=images.device).expand(batch, wide)
    if mirror is not None:
        columns = torch.where(mirror[:, None], wide - 1 - columns, columns)
    if shift is not None:
        rows = reflect(rows + shift[:, :1] - pad, height)
        columns = reflect(columns + shift[:, 1:] - pad, width)
    picked = pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def reflect(position: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 mirrored back inside, the border pixel not repeated.

    >>> reflect(torch.tensor([-2, -1, 0, 3, 4, 5]), 4).tolist()
    [2, 1, 0, 3, 2, 1]
    """
    if size == 1:
        return torch.zeros_like(position)
    period = 2 * (size - 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position)


def cutout(images: Tensor, centre: Tensor, side: int, fill: Tensor) -> Tensor:
    """Paint a square over each image: [B,C,H,W], centre int64 [B,2], fill [C] in units of images.

    The square may reach over the border. Source: DeVries & Taylor 2017, arXiv 1708.04552.
    """
    height, width = images.shape[2:]
    top, left = centre[:, :1] - side // 2, centre[:, 1:] - side // 2
    rows = torch.arange(height, device=images.device)[None]
    columns = torch.arange(width, device=images.device)[None]
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    hidden = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    return torch.where(hidden, fill.to(images.dtype)[None, :, None, None], images)


def mixed(
    images: Tensor, partner: Tensor, kind: str, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Each image [B,C,H,W] with its partner (int64 [B], rows of the same batch), and its share.

    The share λ ~ Beta(α, α) is one for the batch. `mixup` blends λ x + (1 − λ) x', in float32;
    `cutmix` pastes a box of the partner at the same place: (1 − λ)^½ of each side, centred anywhere
    and cut at the border; the share is then the area that is left.
    Source: Zhang et al. 2018 (mixup), section 2; Yun et al. 2019 (CutMix), equations 1 and 2.
    """
    share = float(rng.beta(alpha, alpha))
    if kind == "mixup":
        return torch.lerp(images[partner].float(), images.float(), share), share
    height, width = images.shape[2:]
    half = (1 - share) ** 0.5 / 2 * np.array([height, width])
    centre = rng.uniform(0, [height, width])
    top, left = np.rint(centre - half).astype(int).clip(0)
    bottom, right = np.rint(centre + half).astype(int).clip(0, [height, width])
    mixture = images.clone()
    mixture[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixture, 1 - float((bottom - top) * (right - left)) / (height * width)
