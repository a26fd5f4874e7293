"""VGG-16 for small images: thirteen 3x3 convolutions in five stages, with batch norm."""

from __future__ import annotations

from torch import nn

from levelhead.models.borrowed import larger
from levelhead.models.entry import SGD, Entry, built, up_to_64
from levelhead.models.network import ConvNorm, Shape, kaiming

STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Widths of the convolutions between two poolings: configuration D."""


def vgg16(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """VGG-16 (2014) with batch norm, one dense layer; 14.7 M. Above 64 px torchvision's, 138 M.

    Source: Simonyan & Zisserman 2014, arXiv 1409.1556, table 1, configuration D; batch norm and the
    single dense layer are the usual form for 32 px.
    """
    body, inputs = nn.Sequential(), shape.channels
    for widths in STAGES:
        stage = nn.Sequential()
        for width in widths:
            stage.append(ConvNorm(inputs, width, 3, padding=1))
            inputs = width
        body.append(stage.append(nn.MaxPool2d(2)))
    body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(shape.dropout or 0.0)])
    return kaiming(body), nn.Linear(inputs, shape.classes)


ENTRY = Entry(
    built(vgg16),
    {**SGD, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30},
    least=32,  # five poolings leave nothing of less
    instead="give --image-size 32, or take --model cnn",
    size=up_to_64,
    knobs=("dropout",),
    # Dense layers of 4,096 units without batch norm: the rate of Simonyan & Zisserman, section 3.1.
    larger=larger("vgg16", lr=0.01, knobs=("dropout",)),
)
