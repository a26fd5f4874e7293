"""Network in Network: convolutions followed by 1x1 convolutions, and an average at the end."""

from __future__ import annotations

from torch import nn

from levelhead.models.entry import ADAMW, Entry, built, up_to_64
from levelhead.models.network import Conv2d, Shape, kaiming


def nin(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """Network in Network (2013): three convolutions, each with two 1x1 after it; 966,986.

    The last 1x1 convolution and the average over places are linear, so that the average may come
    first: it is the head. The paper's ReLU after its scores is left out, or logits could not fall
    below zero. Source: Lin et al. 2013, arXiv 1312.4400, with the sizes of its published CIFAR-10
    model.
    """
    rate = 0.5 if shape.dropout is None else shape.dropout
    body = nn.Sequential(
        _perceptron(shape.channels, (192, 160, 96), 5),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(rate),
        _perceptron(96, (192, 192, 192), 5),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Dropout(rate),
        _perceptron(192, (192, 192), 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return kaiming(body), nn.Linear(192, shape.classes)


def _perceptron(inputs: int, widths: tuple[int, ...], kernel: int) -> nn.Sequential:
    """A convolution and its small network at each place."""
    layers = nn.Sequential()
    for width in widths:
        layers.extend([Conv2d(inputs, width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)])
        inputs, kernel = width, 1
    return layers


ENTRY = Entry(
    built(nin),
    # No batch norm: SGD needs hundreds of epochs here (61.9 % after 14), AdamW does not.
    {**ADAMW, "lr": 1e-3, "weight_decay": 1e-2, "batch_size": 128, "epochs": 30, "clip_norm": 1.0},
    least=8,
    size=up_to_64,
    knobs=("dropout",),
)
