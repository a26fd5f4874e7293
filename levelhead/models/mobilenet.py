"""MobileNet v2 for small images: narrow ends, wide depthwise middles."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from levelhead.models.borrowed import larger
from levelhead.models.entry import SGD, Entry, built, up_to_64
from levelhead.models.network import ConvNorm, Shape, kaiming

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # stride 2 in the paper, for 224 px
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, width, blocks, first stride: table 2 of the paper."""


class Bottleneck(nn.Module):
    """1x1 convolution that widens, 3x3 depthwise, 1x1 that narrows; around them a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(ConvNorm(inputs, middle, 1, bias=False, end=nn.ReLU6))
        self.layers = nn.Sequential(
            *layers,
            ConvNorm(
                middle,
                middle,
                3,
                stride=stride,
                padding=1,
                groups=middle,
                bias=False,
                end=nn.ReLU6,
            ),
            ConvNorm(middle, outputs, 1, bias=False, end=None),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return cast(Tensor, x + y if self.shortcut else y)


def mobilenet(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """MobileNet v2 (2018) with strides for 32 px; 2.24 M. Above 64 px torchvision's.

    Source: Sandler et al. 2018, arXiv 1801.04381, table 2.
    """
    stem = 2 if shape.size > 48 else 1
    body = nn.Sequential(
        ConvNorm(shape.channels, 32, 3, stride=stem, padding=1, bias=False, end=nn.ReLU6)
    )
    inputs = 32
    for expansion, width, blocks, first in STAGES:
        stage = nn.Sequential()
        for block in range(blocks):
            stage.append(Bottleneck(inputs, width, first if block == 0 else 1, expansion))
            inputs = width
        body.append(stage)
    body.extend(
        [
            ConvNorm(inputs, 1280, 1, bias=False, end=nn.ReLU6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2 if shape.dropout is None else shape.dropout),
        ]
    )
    return kaiming(body), nn.Linear(1280, shape.classes)


ENTRY = Entry(
    built(mobilenet),
    {**SGD, "lr": 0.1, "weight_decay": 4e-5, "batch_size": 128, "epochs": 30},
    least=8,
    low_precision=False,  # depthwise convolutions gain nothing from it
    size=up_to_64,
    knobs=("dropout",),
    larger=larger("mobilenet_v2", knobs=("dropout",)),
)
