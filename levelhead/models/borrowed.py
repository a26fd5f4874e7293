"""Networks of timm and torchvision, behind the same two halves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from levelhead.errors import LevelheadError, nearest
from levelhead.machine import import_torchvision
from levelhead.models.entry import SGD, Entry, Statistics
from levelhead.models.network import Hooks, Shape
from levelhead.models.weights import downloaded


class Borrowed(nn.Module):
    """Somebody else's body: their layers do not cast their weights, so autocast does it."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.auxiliary(x)[0]

    def auxiliary(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [B,D]; in training also the logits [B,K] of auxiliary heads, if any."""
        x = three_channels(x) if self.channels == 3 else x
        low = x.dtype == torch.bfloat16
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            features, *logits = _outputs(self.net(x))
        return features.flatten(1), logits


def three_channels(x: Tensor) -> Tensor:
    """Images [B,1,H,W] or [B,3,H,W] -> [B,3,H,W]: grey ones three times the same."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output of a network first, then those of its auxiliary heads."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def timm_network(name: str, shape: Shape, pretrained: bool) -> tuple[nn.Module, nn.Linear]:
    """`timm:NAME` as body and head. Raises LevelheadError for an unknown name."""
    timm = import_torchvision("timm")
    if not timm.is_model(name):
        raise LevelheadError(f"--model timm:{name}: unknown; {nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    try:
        try:
            # Transformers have a fixed grid of patches and must be told the size.
            net = timm.create_model(name, img_size=shape.size, **options)
        except TypeError:
            net = timm.create_model(name, **options)
    except Exception as error:  # an unknown tag, no network, a file that is not there any more
        raise LevelheadError(_cannot_be_made(f"timm:{name}", error, pretrained)) from None
    body = Borrowed(net, channels=3)
    return body, nn.Linear(_width(body, shape, f"timm:{name}"), shape.classes)


def torchvision_network(name: str, shape: Shape, pretrained: bool) -> tuple[nn.Module, nn.Linear]:
    """`torchvision:NAME` as body and head: the last linear layer is the head, the rest the body.

    Raises LevelheadError for an unknown name (with the nearest).
    """
    models = import_torchvision("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise LevelheadError(f"--model torchvision:{name}: unknown; {nearest(name, known)}")
    sides = name in SIDE_HEADS
    options: dict[str, Any] = {} if shape.dropout is None else {"dropout": shape.dropout}
    try:
        if pretrained:
            weights = models.get_model_weights(name).DEFAULT
            options["num_classes"] = len(weights.meta["categories"])
            options |= {"init_weights": False} if sides else {}
            net = models.get_model(name, weights=None, **options)
            net.load_state_dict(downloaded(weights.url))
        else:
            # Auxiliary heads are of our classes; published ones are of others.
            options |= {"init_weights": True, "num_classes": shape.classes} if sides else {}
            net = models.get_model(name, weights=None, **options)
    except LevelheadError:
        raise
    except Exception as error:  # no network, or a file that is not there any more
        raise LevelheadError(_cannot_be_made(f"torchvision:{name}", error, pretrained)) from None
    if sides and (pretrained or not _sides_fit(net, shape.size)):
        net.aux_logits = False
        for side in ("aux1", "aux2", "AuxLogits"):
            if getattr(net, side, None) is not None:
                setattr(net, side, None)
    if getattr(net, "transform_input", False):
        # It would rescale what it is given to mean = deviation = 0.5: standardising does.
        net.transform_input = False
    last = [
        key
        for key, module in net.named_modules()
        if isinstance(module, nn.Linear) and not key.startswith(("aux", "Aux"))
    ]
    if not last:
        # SqueezeNet ends in a convolution over classes: pool its features instead.
        net = nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1))
    else:
        parent, _, child = last[-1].rpartition(".")
        setattr(net.get_submodule(parent) if parent else net, child, nn.Identity())
    body = Borrowed(net, channels=3)
    return body, nn.Linear(_width(body, shape, f"torchvision:{name}"), shape.classes)


SIDE_HEADS = ("googlenet", "inception_v3")
"""Networks of torchvision with auxiliary heads."""


@torch.no_grad()
def _sides_fit(net: nn.Module, size: int) -> bool:
    """Whether auxiliary heads take what images of this side leave them (Inception's: 299 px)."""
    net.eval()
    net.training = True  # it asks for them; its layers stay as they are
    try:
        net(torch.zeros(1, 3, size, size))
    except RuntimeError:
        return False
    finally:
        net.train()
    return True


def _cannot_be_made(name: str, error: Exception, pretrained: bool) -> str:
    fix = (
        "see that the network can be reached, or leave out --pretrained"
        if pretrained
        else "correct the name"
    )
    return f"--model {name}: cannot be made ({' '.join(str(error).split())[:200]}); {fix}"


def _width(body: Borrowed, shape: Shape, name: str) -> int:
    """Length of the features; raises LevelheadError where the images are too small for the body."""
    try:
        with torch.no_grad():
            width = int(body.eval()(torch.zeros(1, 3, shape.size, shape.size)).shape[1])
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise LevelheadError(
            f"--model {name}: does not take images of {shape.size} px ({reason}); "
            "give a larger --image-size"
        ) from None
    body.train()
    return width


def timm_statistics(name: str) -> Statistics:
    """Mean and deviation that the published weights of a timm network expect."""
    config = import_torchvision("timm").get_pretrained_cfg(name)
    if config is None:
        return IMAGENET
    return [255 * m for m in config.mean], [255 * s for s in config.std]


def torchvision_statistics(name: str) -> Statistics:
    """Mean and deviation that the published weights of a torchvision network expect."""
    return HALF if name in ("googlenet", "inception_v3") else IMAGENET


IMAGENET: Statistics = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
HALF: Statistics = ([127.5] * 3, [127.5] * 3)


def _size(size: int, pretrained: bool) -> int:
    return 224 if pretrained or size > 64 else size


DEFAULTS = {**SGD, "lr": 0.05, "weight_decay": 1e-4, "batch_size": 64, "epochs": 30}
_BORROWED = Entry(
    partial(timm_network, ""),  # replaced for each name
    DEFAULTS,
    any_size=False,  # many have a fixed grid of patches
    size=_size,
    weights="download",
    hooks=Hooks(
        auxiliary=Borrowed.auxiliary,
        training_only=("net.aux1.", "net.aux2.", "net.AuxLogits."),
    ),
)


def timm_entry(name: str) -> Entry:
    """The entry of `timm:NAME`."""
    return replace(
        _BORROWED,
        build=partial(timm_network, name),
        published=partial(timm_statistics, name),
        hooks=Hooks(),
    )


def torchvision_entry(name: str) -> Entry:
    """The entry of `torchvision:NAME`."""
    return replace(
        _BORROWED,
        build=partial(torchvision_network, name),
        published=partial(torchvision_statistics, name),
        hooks=_BORROWED.hooks if name in SIDE_HEADS else Hooks(),
    )


def larger(name: str, *, knobs: tuple[str, ...] = (), **defaults: Any) -> Entry:
    """The network of torchvision that takes over from a small one of the same design."""
    entry = torchvision_entry(name)
    return replace(entry, knobs=knobs, defaults={**entry.defaults, **defaults})


def libraries_of(name: str) -> Iterator[str]:
    """Which libraries have a network of this name."""
    if name in import_torchvision("torchvision").models.list_models():
        yield "torchvision"
    if import_torchvision("timm").is_model(name):
        yield "timm"


ENTRIES = {"timm": timm_entry, "torchvision": torchvision_entry}


def borrowed(name: str) -> Entry | None:
    """The entry of `timm:NAME` or `torchvision:NAME`, None for other names."""
    library, _, name = name.partition(":")
    return ENTRIES[library](name) if library in ENTRIES else None
