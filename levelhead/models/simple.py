"""The teaching networks: a linear classifier, a multilayer perceptron, plain CNNs."""

from __future__ import annotations

from torch import nn

from levelhead.models.entry import ADAMW, SMALL, Entry, built, still
from levelhead.models.network import Conv2d, Linear, Shape, flat_width


def linear(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """Multinomial logistic regression on the pixels; features are the pixels themselves."""
    return nn.Flatten(), nn.Linear(shape.channels * shape.size**2, shape.classes)


def mlp(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """Two hidden layers of 512 rectified units with dropout 0.2, or of `width` and `dropout`."""
    width, dropout = shape.width or 512, _dropout(shape)
    body = nn.Sequential(
        nn.Flatten(),
        Linear(shape.channels * shape.size**2, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
    return body, nn.Linear(width, shape.classes)


def cnn(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """A plain CNN: three 3x3 convolutions (32, 64, 128) with batch norm, two poolings, dropout.

    `width` takes the place of 32.
    """
    width = shape.width or 32

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    body = nn.Sequential(
        *stage(shape.channels, width),
        nn.MaxPool2d(2),
        *stage(width, 2 * width),
        nn.MaxPool2d(2),
        *stage(2 * width, 4 * width),
        # A grid of at most 2x2 keeps some position without tying the head to the image size.
        nn.AdaptiveMaxPool2d(min(2, shape.size // 4)),
        nn.Flatten(),
        nn.Dropout(_dropout(shape)),
    )
    return body, nn.Linear(flat_width(body, shape), shape.classes)


def lecture_cnn(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """The lecture's CNN for 64 px: five convolutions, three poolings, dense 64, 16, dropout .5."""
    rate = 0.5 if shape.dropout is None else shape.dropout

    def convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        return [Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]

    body = nn.Sequential(
        *convolution(shape.channels, 8, 3),
        nn.MaxPool2d(2),
        *convolution(8, 16, 3),
        *convolution(16, 16, 3),
        nn.MaxPool2d(2),
        *convolution(16, 24, 5),
        *convolution(24, 24, 5),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        Linear(24, 64),
        nn.ReLU(),
        nn.Dropout(rate),
        Linear(64, 16),
        nn.ReLU(),
        nn.Dropout(rate),
    )
    return body, nn.Linear(16, shape.classes)


def _dropout(shape: Shape) -> float:
    return 0.2 if shape.dropout is None else shape.dropout


LINEAR = Entry(
    built(linear),
    {**ADAMW, "lr": 1e-2, "weight_decay": 1e-3, "batch_size": 256, "epochs": 20},
    any_size=False,
    moves=still,
    linear=True,
    low_precision=False,
)
MLP = Entry(
    built(mlp),
    {**ADAMW, "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 256, "epochs": 20},
    any_size=False,
    moves=still,
    knobs=("width", "dropout"),
    low_precision=False,
)
CNN = Entry(
    built(cnn),
    {**ADAMW, "lr": 4e-3, "weight_decay": 1e-2, "batch_size": 256, "epochs": 20},
    least=4,  # two poolings leave nothing of less
    knobs=("width", "dropout"),
    low_precision=False,
)
LECTURE_CNN = Entry(
    built(lecture_cnn),
    {**ADAMW, "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 128, "epochs": 30},
    least=8,  # three poolings leave nothing of less
    size=lambda size, pretrained: SMALL,
    knobs=("dropout",),
    low_precision=False,
)
