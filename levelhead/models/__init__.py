"""The table of models: an `Entry` each, which says how it is built and what it takes.

A body maps standardised images [B,C,H,W] to features [B,D]; the head is linear. `timm:NAME` and
`torchvision:NAME` name any network of those libraries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.errors import LevelheadError, nearest
from levelhead.models import (
    alexnet,
    borrowed,
    embedded,
    fast,
    inception,
    mobilenet,
    nin,
    resnet,
    simple,
    vgg,
)
from levelhead.models.entry import Entry, Moves
from levelhead.models.network import Hooks, Network, Shape

MODELS: dict[str, Entry] = {
    "linear": simple.LINEAR,
    "mlp": simple.MLP,
    "cnn": simple.CNN,
    "lecture_cnn": simple.LECTURE_CNN,
    "alexnet": alexnet.ENTRY,
    "nin": nin.ENTRY,
    "vgg16": vgg.ENTRY,
    "googlenet": inception.GOOGLENET,
    "minigooglenet": inception.MINIGOOGLENET,
    "inception_v4": inception.INCEPTION_V4,
    **resnet.RESNETS,
    "mobilenet": mobilenet.ENTRY,
    "fast": fast.ENTRY,
    **embedded.LITES,
}


def find_model(name: str) -> Entry:
    """The entry of a model by name. Raises LevelheadError with the nearest for an unknown one."""
    entry = MODELS.get(name) or borrowed.borrowed(name)
    if entry is None:
        fix = f"{nearest(name, ['auto', *MODELS])} (or timm:NAME, torchvision:NAME)"
        for library in borrowed.libraries_of(name):
            fix = f"{library} has it: --model {library}:{name} --pretrained"
            break
        raise LevelheadError(f"--model {name}: unknown; {fix}")
    return entry


def auto(size: int, from_scratch: bool) -> str:
    """The model for images of this size in px; photos start from embedded weights if they may."""
    if size < 16:
        return "cnn"
    if size <= 48:
        return "fast"
    return "resnet18" if from_scratch else "lite0"


def build(
    name: str,
    shape: Shape,
    *,
    mean: Tensor,
    std: Tensor,
    pretrained: bool = False,
    download: bool = True,
    tuned: bool = False,
    seed: int = 0,
) -> Network:
    """A network by name, its initial weights drawn from `seed`.

    mean, std: one value a channel, in units of 0-255; published weights bring their own.
    `pretrained` makes timm and torchvision download theirs; without `download` it is the same
    network, whose weights are loaded later. `tuned`: with last blocks to be tuned, for the models
    that have them (`Entry.tunable`). Raises LevelheadError for an unknown name (with the
    nearest one), and for images that are too small for the model.
    """
    entry = find_model(name).at(shape.size, pretrained)
    if shape.size < entry.least:
        instead = f"; {entry.instead}" if entry.instead else ""
        raise LevelheadError(
            f"--model {name}: needs images of {entry.least} px or more, not {shape.size}{instead}"
        )
    pretrained = pretrained and download
    published = entry.published() if entry.pretrained(pretrained) else None
    if published is not None:
        mean, std = torch.tensor(published[0]), torch.tensor(published[1])
    with torch.random.fork_rng(devices=[]):
        # Weights are drawn on the CPU; torch.manual_seed would reseed CUDA for good.
        torch.default_generator.manual_seed(seed)
        if tuned and entry.tunable is not None:
            body, head = entry.tunable(shape)
        else:
            body, head = entry.build(shape, pretrained)
    return Network(body, head, mean, std, entry.hooks)


__all__ = [
    "MODELS",
    "Entry",
    "Hooks",
    "Moves",
    "Network",
    "Shape",
    "auto",
    "build",
    "find_model",
]
