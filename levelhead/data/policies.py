"""Published augmentation policies, each from torchvision; an image at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from levelhead.machine import import_torchvision


def _transforms() -> Any:
    return import_torchvision("torchvision.transforms.v2")


def _autoaugment(name: str) -> Callable[[], Any]:
    def make() -> Any:
        moves = _transforms()
        return moves.AutoAugment(moves.AutoAugmentPolicy(name))

    return make


def _randaugment() -> Any:
    return _transforms().RandAugment()


def _trivialaugment() -> Any:
    return _transforms().TrivialAugmentWide()


POLICIES: dict[str, Callable[[], Any]] = {
    "autoaugment-cifar10": _autoaugment("cifar10"),
    "autoaugment-imagenet": _autoaugment("imagenet"),
    "randaugment": _randaugment,
    "trivialaugment": _trivialaugment,
}
"""How each is made. Sources: Cubuk et al. 2019 (arXiv 1805.09501); Cubuk et al. 2020 (1909.13719:
two operations of magnitude 9); Müller and Hutter 2021 (2103.10158)."""


def apply(images: Tensor, name: str, seed: int) -> Tensor:
    """Each image of uint8 [B,C,H,W] by a draw of its own; a function of the seed.

    The operations draw from torch's own stream, which is put back afterwards.
    """
    move = POLICIES[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        moved = [move(image) for image in images.cpu().contiguous()]
    return torch.stack(moved).to(images.device)
