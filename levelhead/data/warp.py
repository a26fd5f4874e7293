"""Images turned, sheared, shifted, tilted and cropped: one matrix an image, one resampling.

Places are counted in half sides from the centre, as `grid_sample` counts them: −1 and 1 are the
edges of the image. A matrix says, for a place of the result, where to look in the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Fill = Literal["nearest", "reflect", "constant"]
"""What stands beyond the border: its last pixel, the image mirrored, or one colour."""
PADDING = {"nearest": "border", "reflect": "reflection", "constant": "zeros"}

WARPS = ("shift", "rotation", "shear", "perspective", "scale")
"""The moves that `matrices` knows, by the recipe's fields."""
DRAWS = 16
"""Random numbers that one image takes."""
ASPECT = math.log(4 / 3)  # of random crops, either way (Szegedy et al. 2015, section 6)


def matrices(strengths: Mapping[str, Tensor], draws: Tensor, aspect: float = 1.0) -> Tensor:
    """A matrix an image, float32 [B,3,3]: tilted first, then sheared, turned, shifted, cropped.

    draws: uniform in [0, 1), [B, DRAWS]. strengths [B] by name, those missing are left out:
    shift in sides, rotation and shear (horizontal) in degrees, each up to ±; perspective: how far
    corners come inwards, in half sides; scale: the least area of a crop, of aspect 3/4 to 4/3.
    aspect: width by height of the images, so that a turned square stays one.
    """
    b, at = len(draws), draws.device
    matrix = torch.eye(3, device=at).expand(b, 3, 3)
    sides = 2 * draws[:, :4] - 1  # either way
    zero = torch.zeros(b, device=at)
    if "perspective" in strengths:
        matrix = _tilted(strengths["perspective"], draws[:, 4:12])
    if {"rotation", "shear"} & strengths.keys():
        angle = torch.deg2rad(sides[:, 0] * strengths.get("rotation", zero))
        slope = torch.tan(torch.deg2rad(sides[:, 1] * strengths.get("shear", zero)))
        cos, sin = angle.cos(), angle.sin()
        linear = torch.eye(3, device=at).repeat(b, 1, 1)  # shear, then turn back
        linear[:, 0, 0], linear[:, 0, 1] = cos + slope * sin, (sin - slope * cos) / aspect
        linear[:, 1, 0], linear[:, 1, 1] = -sin * aspect, cos
        matrix = matrix @ linear
    if "shift" in strengths:
        moved = torch.eye(3, device=at).repeat(b, 1, 1)
        moved[:, :2, 2] = -2 * sides[:, 2:4] * strengths["shift"][:, None]
        matrix = matrix @ moved
    if "scale" in strengths:
        least = strengths["scale"]
        area = least + (1 - least) * draws[:, 12]
        most = -area.log() / 2  # the longer side is the image's at most
        skew = ((2 * draws[:, 13] - 1) * ASPECT / 2).clamp(-most, most)
        share = torch.exp(area.log()[:, None] / 2 + torch.stack([skew, -skew], 1))
        window = torch.eye(3, device=at).repeat(b, 1, 1)
        window[:, 0, 0], window[:, 1, 1] = share[:, 0], share[:, 1]
        window[:, :2, 2] = (2 * draws[:, 14:16] - 1) * (1 - share)
        matrix = matrix @ window
    return matrix


def _tilted(strength: Tensor, draws: Tensor) -> Tensor:
    """The homography that takes the square's corners to places up to `strength` inside, [B,3,3]."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], device=draws.device)
    places = corners * (1 - strength[:, None, None] * draws.reshape(-1, 4, 2))  # of the result
    u, v = places[..., 0], places[..., 1]
    x, y = corners[:, 0].expand_as(u), corners[:, 1].expand_as(v)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    # x = (a u + b v + c) / (g u + h v + 1), and y with d, e, f.
    first = torch.stack([u, v, one, zero, zero, zero, -u * x, -v * x], 2)
    second = torch.stack([zero, zero, zero, u, v, one, -u * y, -v * y], 2)
    solution = torch.linalg.solve(torch.cat([first, second], 1), torch.cat([x, y], 1))
    return torch.cat([solution, one[:, :1]], 1).reshape(-1, 3, 3)


def warp(images: Tensor, matrix: Tensor, fill: Fill, colour: Tensor | None = None) -> Tensor:
    """Images [B,C,H,W] of 0-255 resampled bilinearly, float32; matrix [B,3,3] or [1,3,3].

    colour [C]: what `constant` paints (default: black).
    """
    b, c, height, width = images.shape
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    ones = torch.ones(height, width, device=images.device)
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width), ones], 2)
    at = places.reshape(1, -1, 3) @ matrix.transpose(1, 2)
    grid = (at[..., :2] / at[..., 2:].clamp_min(1e-6)).reshape(-1, height, width, 2)
    pixels, grid = images.float(), grid.expand(b, height, width, 2)
    base = torch.zeros(c, device=images.device) if colour is None else colour.float()
    if fill == "constant":  # zeros beyond the border, so that the colour has to be zero meanwhile
        pixels = pixels - base[:, None, None]
    looked = torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode=PADDING[fill], align_corners=False
    )
    return looked + base[:, None, None] if fill == "constant" else looked
