"""The teaching networks: a linear classifier, a multilayer perceptron, a plain CNN."""

from __future__ import annotations

from torch import nn

from levelhead.models.entry import ADAMW, Entry, built, still
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
    """A plain CNN: three 3x3 convolutions (32, 64, 128) with batch norm, two poolings, dropout."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    body = nn.Sequential(
        *stage(shape.channels, 32),
        nn.MaxPool2d(2),
        *stage(32, 64),
        nn.MaxPool2d(2),
        *stage(64, 128),
        # A grid of at most 2x2 keeps some position without tying the head to the image size.
        nn.AdaptiveMaxPool2d(min(2, shape.size // 4)),
        nn.Flatten(),
        nn.Dropout(_dropout(shape)),
    )
    return body, nn.Linear(flat_width(body, shape), shape.classes)


def _dropout(shape: Shape) -> float:
    return 0.2 if shape.dropout is None else shape.dropout


LINEAR = Entry(
    built(linear),
    {**ADAMW, "lr": 1e-2, "weight_decay": 1e-3, "batch_size": 256, "epochs": 20},
    any_size=False,
    moves=still,
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
    knobs=("dropout",),
    low_precision=False,
)
