"""Networks of inception modules for small images: GoogLeNet, and the small one of Zhang et al."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from levelhead.models.borrowed import larger, timm_entry, timm_network
from levelhead.models.entry import SGD, Entry, built, up_to_64
from levelhead.models.network import ConvNorm, Hooks, Linear, Shape, kaiming

MODULES = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
"""Widths of GoogLeNet's modules (its table 1): in, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5,
pool proj."""
SIDES = {"4a": 512, "4d": 528}
"""Modules whose outputs the auxiliary heads see, and how wide those are."""


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 then 3x3, twice; pooling then 1x1."""

    def __init__(
        self, inputs: int, one: int, first: int, second: int, third: int, fourth: int, pooled: int
    ) -> None:
        super().__init__()
        self.one = ConvNorm(inputs, one, 1, bias=False)
        self.two = nn.Sequential(
            ConvNorm(inputs, first, 1, bias=False),
            ConvNorm(first, second, 3, padding=1, bias=False),
        )
        self.three = nn.Sequential(
            ConvNorm(inputs, third, 1, bias=False),
            ConvNorm(third, fourth, 3, padding=1, bias=False),
        )
        self.four = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1), ConvNorm(inputs, pooled, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x), self.three(x), self.four(x)], 1)


class Side(nn.Sequential):
    """An auxiliary head: 1x1 convolution of 128, average, dropout .7, logits."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(
            ConvNorm(inputs, 128, 1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.7),
            Linear(128, classes),
        )


class GoogLeNet(nn.Module):
    """Nine modules in three stages, and two auxiliary heads that take part in training alone."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stem = ConvNorm(
            shape.channels, 192, 3, stride=2 if shape.size > 48 else 1, padding=1, bias=False
        )
        self.stages = nn.ModuleDict()
        for name, widths in MODULES.items():
            if name in ("4a", "5a"):
                self.stages[f"pool{name[0]}"] = nn.MaxPool2d(3, 2, padding=1)
            self.stages[name] = Inception(*widths)
        self.end = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.4 if shape.dropout is None else shape.dropout),
        )
        self.sides = nn.ModuleDict(
            {name: Side(width, shape.classes) for name, width in SIDES.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages.values():
            x = stage(x)
        return cast(Tensor, self.end(x))

    def auxiliary(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [B,D], and the logits [B,K] of both auxiliary heads."""
        x, logits = self.stem(x), []
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.sides:
                logits.append(self.sides[name](x))
        return self.end(x), logits


def googlenet(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """GoogLeNet (2014), its stem one 3x3 convolution; 5.5 M and two auxiliary heads in training.

    With batch norm, and 3x3 for its 5x5 convolutions, as in torchvision, whose own it is above
    64 px. Source: Szegedy et al. 2015, "Going deeper with convolutions", table 1.
    """
    return kaiming(GoogLeNet(shape)), nn.Linear(1024, shape.classes)


def inception_v4(shape: Shape, pretrained: bool) -> tuple[nn.Module, nn.Linear]:
    """Inception-v4 (2016), timm's, for images of 75 px and more; 42.7 M.

    Source: Szegedy et al. 2016, arXiv 1602.07261.
    """
    return timm_network("inception_v4", shape, pretrained)


class Pair(nn.Module):
    """1x1 and 3x3 convolutions side by side."""

    def __init__(self, inputs: int, one: int, three: int) -> None:
        super().__init__()
        self.one = ConvNorm(inputs, one, 1)
        self.three = ConvNorm(inputs, three, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x)], 1)


class Downsample(nn.Module):
    """A 3x3 convolution and a pooling side by side, both of stride 2."""

    def __init__(self, inputs: int, three: int) -> None:
        super().__init__()
        self.three = ConvNorm(inputs, three, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.three(x), self.pool(x)], 1)


def minigooglenet(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """MiniGoogLeNet: ten small modules; 1,649,402 and batch norm (the Keras notebook's network).

    Source: Zhang et al. 2017, "Understanding deep learning requires rethinking generalization",
    figure 3 ("Inception (small)").
    """
    body = nn.Sequential(
        ConvNorm(shape.channels, 96, 3, padding=1),
        Pair(96, 32, 32),
        Pair(64, 32, 48),
        Downsample(80, 80),
        Pair(160, 112, 48),
        Pair(160, 96, 64),
        Pair(160, 80, 80),
        Pair(160, 48, 96),
        Downsample(144, 96),
        Pair(240, 176, 160),
        Pair(336, 176, 160),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5 if shape.dropout is None else shape.dropout),
    )
    return kaiming(body), nn.Linear(336, shape.classes)


DEFAULTS = {**SGD, "lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30}
GOOGLENET = Entry(
    built(googlenet),
    DEFAULTS,
    least=8,
    size=up_to_64,
    knobs=("dropout",),
    hooks=Hooks(auxiliary=GoogLeNet.auxiliary, training_only=("sides.",)),
    larger=larger("googlenet", knobs=("dropout",)),
)
MINIGOOGLENET = Entry(
    built(minigooglenet),
    DEFAULTS,
    least=12,  # two poolings without padding, and something to average
    size=up_to_64,
    knobs=("dropout",),
)
INCEPTION_V4 = replace(
    timm_entry("inception_v4"),
    build=inception_v4,
    any_size=True,
    least=75,
    instead="give --image-size 299",
    size=lambda size, pretrained: 299,
)
