"""Test-time views of an image, and what their answers come to; as prediction and exports do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from levelhead.data import light, warp
from levelhead.data.augment import reflect
from levelhead.data.batches import MOVE_DRAWS, Augmentation, seeded

Average = Literal["logits", "probabilities"]
View = Callable[[Tensor], Tensor]
"""Images [B,C,H,W] of 0-255 -> the same images, seen otherwise; each image by the same move."""


@dataclass(frozen=True, eq=False)
class Views:
    """What an image is looked at through, and what of the answers is averaged.

    `key` names them wherever their answers are kept.
    """

    moves: tuple[View, ...]
    average: Average
    key: str

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The views of a batch."""
        return [move(images) for move in self.moves]

    def scores(self, by_view: Sequence[Tensor], head: nn.Linear) -> tuple[Tensor, Tensor]:
        """Logits [B,K] and mean features [B,D] of the features [B,D] of each view.

        Averaged logits are the head of the mean features, which is linear; averaged probabilities
        are given as their logarithms (p = mean of p_l, Krizhevsky et al. 2012, section 4.1).
        """
        mean = by_view[0] if len(by_view) == 1 else torch.stack(list(by_view)).mean(0)
        if self.average == "logits" or len(by_view) == 1:
            return head(mean), mean
        log_p = torch.stack([torch.log_softmax(head(one), 1) for one in by_view])
        return log_p.logsumexp(0) - math.log(len(by_view)), mean


def as_it_is(images: Tensor) -> Tensor:
    """The images themselves."""
    return images


def mirror(images: Tensor) -> Tensor:
    """Left and right exchanged."""
    return images.flip(3)


@dataclass(frozen=True)
class Shifted:
    """So many px further down and right in the image, whose border is reflected; then mirrored?"""

    down: int
    right: int
    mirrored: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """The images moved."""
        height, width = images.shape[2:]
        rows = reflect(torch.arange(height, device=images.device) + self.down, height)
        columns = reflect(torch.arange(width, device=images.device) + self.right, width)
        moved = images.index_select(2, rows).index_select(3, columns)
        return moved.flip(3) if self.mirrored else moved


WHOLE = Views((as_it_is,), "logits", "none")
"""The image alone."""
MIRROR = Views((as_it_is, mirror), "logits", "flip")


def crops(side: int, mirrored: bool, average: Average = "logits") -> Views:
    """The image and its crops towards the four corners, by an eighth of a side; each mirrored, too,
    where training mirrors: ten views, as Krizhevsky et al. 2012, section 4.1."""
    d = max(1, side // 8)
    places = [(0, 0), *((down, right) for down in (-d, d) for right in (-d, d))]
    flips = (False, True) if mirrored else (False,)
    moves = tuple(Shifted(*place, flip) for flip in flips for place in places)
    return Views(moves, average, f"crops {d} {mirrored:d} {average}")


@dataclass(frozen=True, eq=False)
class Drawn:
    """One draw of an augmentation, the same for every image: moved, warped, relit.

    matrix [1,3,3]; strengths [1] by name and draws [1,3] as `light.relight` takes them.
    """

    first: Shifted
    matrix: Tensor | None = None
    fill: warp.Fill = "reflect"
    colour: Tensor | None = None
    strengths: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """The images so."""
        at, images = images.device, self.first(images)
        if self.matrix is not None:
            colour = None if self.colour is None else self.colour.to(at)
            images = warp.warp(images, self.matrix.to(at), self.fill, colour)
        if self.draws is not None:
            strengths = {name: value.to(at) for name, value in self.strengths.items()}
            images = light.relight(images, strengths, self.draws.to(at))
        return images


def draws(moves: Augmentation, count: int, seed: int, aspect: float, average: Average) -> Views:
    """So many fixed draws of an augmentation without its noise; a function of the seed.

    Fixed, because the answer to an image must not depend on when it is asked, nor beside which
    others. `moves.strengths` are those of one class, [1].
    """
    generator = seeded(seed, -8)
    warps = {name: s for name, s in moves.strengths.items() if name in warp.WARPS}
    lights = {name: s for name, s in moves.strengths.items() if name in light.LIGHTS[:3]}
    views: list[View] = []
    for _ in range(count):
        numbers = torch.rand((1, MOVE_DRAWS + 3), generator=generator)
        down, right, flip = numbers[0, MOVE_DRAWS:].tolist()
        down, right = (int(u * (2 * moves.crop + 1)) - moves.crop for u in (down, right))
        first = Shifted(down, right, moves.flip and flip < 0.5)
        matrix = warp.matrices(warps, numbers[:, : warp.DRAWS], aspect) if warps else None
        light_draws = numbers[:, warp.DRAWS : MOVE_DRAWS] if lights else None
        views.append(Drawn(first, matrix, moves.fill, moves.mean, lights, light_draws))
    numbers_of = [moves.crop, moves.flip, moves.fill, count, seed, average]
    key = " ".join(map(str, [*numbers_of, *((n, float(s)) for n, s in moves.strengths.items())]))
    return Views(tuple(views), average, f"draws {key}")
