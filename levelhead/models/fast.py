"""`fast`: the whitened three-stage network that learns CIFAR-10 in minutes on two CPU cores.

The idea and the hyper-parameters are Keller Jordan's airbench (2024, arXiv 2404.00498).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levelhead.models.entry import Entry, Moves, built, moved
from levelhead.models.network import Conv2d, Hooks, Shape


class Stage(nn.Module):
    """Two 3x3 convolutions with max-pooling, batch norm without scale, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)
        for conv in (self.conv1, self.conv2):
            # Start as the identity on the first channels (airbench, section 3.2).
            nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Fast(nn.Module):
    """Whitening 2x2 convolution (8 filters a channel), stages of 64, 256, 256, global max-pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.whiten = Conv2d(channels, 8 * channels, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(cast(Tensor, self.whiten.bias))
        self.stages = nn.Sequential(Stage(8 * channels, 64), Stage(64, 256), Stage(256, 256))

    def start(self, images: Tensor) -> None:
        """Set the first filters to the whitening eigenvectors of 2x2 patches, and their negatives.

        images: standardised, float [N,C,H,W]; a few thousand are plenty.
        """
        channels = images.shape[1]
        width = 4 * channels
        products = images.new_zeros((width, width), dtype=torch.float64)
        sums, count = products[0].clone(), 0
        for piece in images.split(500):  # all patches at once would take gigabytes
            patches = F.unfold(piece, 2).transpose(1, 2).reshape(-1, width).double()
            products += patches.T @ patches
            sums += patches.sum(0)
            count += len(patches)
        mean = sums / count
        values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        # Patches of flat images span fewer directions: the floor keeps the others finite.
        floor = 5e-4 + 1e-12 * values.max()
        filters = (vectors / (values + floor).sqrt()).T.reshape(-1, channels, 2, 2).float()
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.gelu(self.whiten(x)))
        # 1/16 (one over the root of the width) belongs to the features, so that the head is linear.
        return F.max_pool2d(x, x.shape[2:]).flatten(1) / 16


def fast(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """The whitened three-stage network; 1.97 M parameters for 10 classes of colour images."""
    head = nn.Linear(256, shape.classes, bias=False)
    nn.init.normal_(head.weight, std=1 / 16)
    return Fast(shape.channels), head


def moves(size: int, channels: int) -> Moves:
    """A smaller crop than elsewhere; the first epochs see windows of 13/16 of the side."""
    usual = moved(size, channels)
    crop = size // 16 if usual.crop else 0
    return Moves(crop, usual.flip, size * 13 // 16 if size >= 20 else 0)


ENTRY = Entry(
    built(fast),
    {
        "optimizer": "muon",
        "momentum": 0.6,
        "schedule": "polynomial",
        "warmup": 0.0,
        "lr": 0.24,
        "batch_size": 1000,
        "epochs": 8,
    },
    decay=lambda batch: 2e-6 * batch,
    least=16,  # three poolings leave nothing of less
    instead="use --model cnn",
    moves=moves,
    hooks=Hooks(
        start=Fast.start,
        # The whitening bias learns for three epochs; then nothing flows back into the first layer.
        stops={"whiten.bias": 3},
        # Every convolution is followed by batch norm.
        scale_invariant=True,
    ),
)
