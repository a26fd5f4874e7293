"""Residual networks for small images: He et al.'s ResNet-20/32/44/56, and ResNet-18/34."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from levelhead.models.borrowed import larger
from levelhead.models.entry import SGD, Entry, built, up_to_64
from levelhead.models.network import Conv2d, Shape, kaiming


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    `projection` says how the shortcut changes width: a 1x1 convolution with batch norm (option B
    of He et al. 2015), or subsampling and zero padding without parameters (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.grow = stride, outputs - inputs
        self.shortcut: nn.Module | None = None
        if projection and (stride > 1 or self.grow):
            self.shortcut = nn.Sequential(
                Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1 or self.grow:
            half = self.grow // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.grow - half))
        return F.relu(y + x)


def _stages(widths: list[int], blocks: Sequence[int], projection: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks[stage]):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Block(inputs, width, stride, projection))
            inputs = width
    return layers


def _resnet(
    shape: Shape, widths: list[int], blocks: Sequence[int], projection: bool
) -> nn.Sequential:
    body = nn.Sequential(
        Conv2d(shape.channels, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        *_stages(widths, blocks, projection),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return kaiming(body)


def cifar_resnet(shape: Shape, depth: int) -> tuple[nn.Module, nn.Linear]:
    """ResNet-(6n+2) for 32 px: widths 16/32/64, n blocks each, option-A shortcuts.

    `width` takes the place of 16. ResNet-56 has 0.85 M parameters.
    Source: He et al. 2015, "Deep residual learning for image recognition", section 4.2.
    """
    first, blocks = shape.width or 16, (depth - 2) // 6
    body = _resnet(shape, [first, 2 * first, 4 * first], [blocks] * 3, projection=False)
    return body, nn.Linear(4 * first, shape.classes)


def wide_resnet(shape: Shape, blocks: Sequence[int]) -> tuple[nn.Module, nn.Linear]:
    """ResNet-18 and 34: up to 48 px with a CIFAR stem (one 3x3 convolution), above with the usual.

    `width` takes the place of 64 in 64/128/256/512. 11.17 M and 21.28 M parameters with the CIFAR
    stem and 10 classes. Source: as above, table 1.
    """
    first = shape.width or 64
    body = _resnet(shape, [first * 2**stage for stage in range(4)], blocks, projection=True)
    if shape.size > 48:
        stem = Conv2d(shape.channels, first, 7, stride=2, padding=3, bias=False)
        body[0] = kaiming(stem)
        body.insert(3, nn.MaxPool2d(3, stride=2, padding=1))
    return cast(nn.Module, body), nn.Linear(8 * first, shape.classes)


DEFAULTS = {**SGD, "lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30}
RESNETS = {
    f"resnet{depth}": Entry(built(partial(cifar_resnet, depth=depth)), DEFAULTS, knobs=("width",))
    for depth in (20, 32, 44, 56)
}
RESNETS |= {
    f"resnet{depth}": Entry(
        built(partial(wide_resnet, blocks=blocks)),
        DEFAULTS,
        size=up_to_64,
        knobs=("width",),
        larger=larger(f"resnet{depth}"),
        largest=math.inf,  # the same network as theirs, which takes over with its weights alone
    )
    for depth, blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)))
}
