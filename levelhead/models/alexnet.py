"""The small AlexNet of the TensorFlow tutorial, which Müller et al. (2019) used on CIFAR-10."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from levelhead.models.borrowed import larger
from levelhead.models.entry import SGD, Entry, built
from levelhead.models.network import Conv2d, Linear, Shape, flat_width


class Centre(nn.Module):
    """The middle `side` x `side` pixels.

    After a random crop that reflects the border by an eighth of the side, the middle three
    quarters are a random crop of the image alone, as in the tutorial; in judging, its centre.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        top, left = ((extent - self.side) // 2 for extent in x.shape[-2:])
        return x[..., top : top + self.side, left : left + self.side]


class _Normalised(torch.autograd.Function):
    """x s^-¾ with s = 1 + α Σ x²; its gradient written out is four times as fast on the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        band = _band(x)
        root = nn.functional.conv2d(x.square(), band).add_(1).rsqrt_()
        scale = root.sqrt().mul_(root)
        ctx.save_for_backward(x, band, root, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, band, root, scale = ctx.saved_tensors
        direct = gradients[0] * scale
        through = (direct * x).mul_(root).mul_(root)
        return cast(Tensor, direct.sub_(nn.functional.conv2d(through, band).mul_(x).mul_(1.5)))


def _band(x: Tensor) -> Tensor:
    """α where two channels are at most 4 apart, as the weight [C,C,1,1] of a convolution."""
    place = torch.arange(x.shape[1], device=x.device)
    near = (place[:, None] - place).abs() <= 4
    return (near * (0.001 / 9)).to(x.dtype)[:, :, None, None]


class Neighbours(nn.Module):
    """Local response normalisation: x / (1 + α Σ x²)^¾ over 9 neighbouring channels, α = 0.001/9.

    Source: Krizhevsky et al. 2012, section 3.3, with the tutorial's constants.
    """

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Normalised.apply(x))  # type: ignore[no-untyped-call]


def alexnet(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """Two 5x5 convolutions of 64, response normalisation, dense 384 and 192; the large one > 64 px.

    It sees the middle three quarters of the side: 24 of 32 px, and then has 1,068,298 parameters
    for ten classes. Initial weights as in the tutorial.
    """
    body = nn.Sequential(
        Centre(shape.size * 3 // 4),
        Conv2d(shape.channels, 64, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),  # the same before or after the pooling, and cheaper after
        Neighbours(),
        Conv2d(64, 64, 5, padding=2),
        nn.ReLU(),
        Neighbours(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
    )
    body.extend([Linear(flat_width(body, shape), 384), nn.ReLU(), Linear(384, 192), nn.ReLU()])
    head = nn.Linear(192, shape.classes)
    deviations = [(body[1], 0.05, 0.0), (body[5], 0.05, 0.1)]
    deviations += [(body[10], 0.04, 0.1), (body[12], 0.04, 0.1), (head, 1 / 192, 0.0)]
    for layer, deviation, bias in deviations:
        nn.init.trunc_normal_(
            cast(Tensor, layer.weight), std=deviation, a=-2 * deviation, b=2 * deviation
        )
        nn.init.constant_(cast(Tensor, layer.bias), bias)
    return body, head


ENTRY = Entry(
    built(alexnet),
    {**SGD, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30},
    least=8,
    # Without batch norm: the rate of Krizhevsky et al. 2012, section 5.
    larger=larger("alexnet", lr=0.01, knobs=("dropout",)),
)
