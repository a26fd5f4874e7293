"""The table of models: `MODELS[name](Shape) -> (body, head)`.

A body maps standardised images [B,C,H,W] to features [B,D]; the head is linear. `timm:NAME` and
`torchvision:NAME` name any network of those libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from levelhead.errors import LevelheadError, nearest
from levelhead.models.alexnet import alexnet
from levelhead.models.borrowed import lite0, published_statistics, timm_network, torchvision_network
from levelhead.models.fast import fast
from levelhead.models.network import Network, Shape
from levelhead.models.resnet import cifar_resnet, resnet18
from levelhead.models.simple import cnn, linear, mlp

MODELS: dict[str, Callable[[Shape], tuple[nn.Module, nn.Linear]]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
    "alexnet": alexnet,
    "resnet20": partial(cifar_resnet, depth=20),
    "resnet32": partial(cifar_resnet, depth=32),
    "resnet44": partial(cifar_resnet, depth=44),
    "resnet56": partial(cifar_resnet, depth=56),
    "resnet18": resnet18,
    "fast": fast,
    "lite0": lite0,
}


def known(name: str) -> str:
    """The name itself, if it is in the table. Raises LevelheadError with the nearest otherwise."""
    if name in MODELS:
        return name
    raise LevelheadError(
        f"--model {name}: unknown; {nearest(name, ['auto', *MODELS])} "
        "(or timm:NAME, torchvision:NAME)"
    )


def build(
    name: str,
    shape: Shape,
    *,
    mean: Tensor,
    std: Tensor,
    pretrained: bool = False,
    seed: int = 0,
) -> Network:
    """A network by name, its initial weights drawn from `seed`.

    mean, std: one value a channel, in units of 0-255; published weights bring their own.
    `pretrained` makes timm and torchvision download theirs. Raises LevelheadError for an unknown
    name (with the nearest one).
    """
    published = published_statistics(name) if pretrained or name == "lite0" else None
    if published is not None:
        mean, std = torch.tensor(published[0]), torch.tensor(published[1])
    with torch.random.fork_rng(devices=[]):
        # Weights are drawn on the CPU; torch.manual_seed would reseed CUDA for good.
        torch.default_generator.manual_seed(seed)
        if name.startswith("timm:"):
            body, head = timm_network(name.removeprefix("timm:"), shape, pretrained)
        elif name.startswith("torchvision:"):
            body, head = torchvision_network(name.removeprefix("torchvision:"), shape, pretrained)
        else:
            body, head = MODELS[known(name)](shape)
    return Network(body, head, mean, std)


__all__ = ["MODELS", "Network", "Shape", "build", "known"]
