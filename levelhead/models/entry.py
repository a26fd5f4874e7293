"""Entry: what a model knows about itself; the contract of the table MODELS.

A new network is a file with its `Entry` and a line in MODELS: no other file tests a model's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from levelhead.models.network import Hooks, Shape

Statistics = tuple[list[float], list[float]]
"""Mean and deviation of each channel, in units of 0-255."""

SGD = {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "warmup": 0.05}
ADAMW = {"optimizer": "adamw", "momentum": 0.9, "schedule": "cosine", "warmup": 0.05}


@dataclass(frozen=True)
class Moves:
    """How training images are moved by default: crop and window in px, mirrored or not."""

    crop: int = 0
    flip: bool = False
    window: int = 0


def still(size: int, channels: int) -> Moves:
    """Nothing is moved."""
    return Moves()


def moved(size: int, channels: int) -> Moves:
    """From 16 px on a crop of an eighth of the side; colour images are mirrored, digits are not."""
    return Moves(size // 8, channels == 3) if size >= 16 else Moves()


def own_size(size: int, pretrained: bool) -> int:
    """The side of images whose median short side is `size`: their own, larger ones at 32 px."""
    return size if size <= 48 else 32


def up_to_64(size: int, pretrained: bool) -> int:
    """The side of images whose median short side is `size`: their own, larger ones at 64 px.

    With weights that were published for photos: 224 px.
    """
    return 224 if pretrained and size > SMALL else min(size, SMALL)


SMALL = 64
"""The largest side of networks for small images, px."""


@dataclass(frozen=True)
class Entry:
    """A model: how it is built, and what it takes where the recipe leaves a field open.

    `build(shape, pretrained) -> (body, head)`: the body maps standardised images [B,C,H,W] to
    features [B,D], the head is linear. `size(median short side, pretrained)` is the image size
    and `moves(size, channels)` the augmentation it takes. `larger` takes over above `largest` px,
    and with weights that are downloaded (`at`).
    """

    build: Callable[[Shape, bool], tuple[nn.Module, nn.Linear]]
    defaults: Mapping[str, Any]  # optimiser, rate, schedule, batch size, epochs, …
    decay: Callable[[int], float] | None = None  # weight decay where it goes by the batch size
    least: int = 1  # the smallest side it takes, px
    instead: str = ""  # what takes smaller images
    any_size: bool = True  # takes other sides than the one that it was built for
    size: Callable[[int, bool], int] = own_size
    moves: Callable[[int, int], Moves] = moved
    knobs: tuple[str, ...] = ()  # of width and dropout, those it has
    linear: bool = False  # in the pixels, so that its weights are images
    low_precision: bool = True  # trains as well in bfloat16, and faster where the machine gains
    weights: Literal["none", "embedded", "download"] = "none"
    published: Callable[[], Statistics | None] = lambda: None  # what published weights expect
    untrained: str = ""  # of embedded weights: the same network without them
    hooks: Hooks = field(default_factory=Hooks)
    # The same with a body in parts: `front` makes maps [B,C,h,w], which may be kept; `still` and
    # `tuned` features [B,D] of them each, of the last blocks as published and of a copy to tune.
    tunable: Callable[[Shape], tuple[nn.Module, nn.Linear]] | None = None
    larger: Entry | None = None
    largest: float = SMALL

    def at(self, size: int, pretrained: bool) -> Entry:
        """The entry for images of this side, px, and for published weights."""
        return self.larger if self.larger and (pretrained or size > self.largest) else self

    def pretrained(self, asked: bool) -> bool:
        """Whether it starts from published weights; `asked` is --pretrained."""
        return self.weights == "embedded" or asked


def built(
    function: Callable[[Shape], tuple[nn.Module, nn.Linear]],
) -> Callable[[Shape, bool], tuple[nn.Module, nn.Linear]]:
    """The `build` of a network that has no published weights to choose."""

    def build(shape: Shape, pretrained: bool) -> tuple[nn.Module, nn.Linear]:
        return function(shape)

    build.__doc__ = getattr(function, "func", function).__doc__
    return build
