"""Network: a body that makes features, a linear head that makes logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What a model is built for: image channels, side in pixels, number of classes.

    width (units of a hidden layer) and dropout (rate) are for the models that have them; None
    takes the model's own.
    """

    channels: int
    size: int
    classes: int
    width: int | None = None
    dropout: float | None = None


@dataclass(frozen=True)
class Hooks:
    """What a body asks of its training, besides a forward pass.

    start(body, images): sees some standardised training images [N,C,H,W] before the first step.
    stops: parameters of the body that stand still after so many epochs. scale_invariant: batch norm
    follows every weight, so that Muon may keep them on a sphere. auxiliary(body, images) ->
    (features [B,D], logits [B,K] of each auxiliary head): in training only; the objective weighs
    their losses (Szegedy et al. 2015, "Going deeper with convolutions"). training_only: how the
    names of parameters begin that nothing but those heads uses.
    """

    start: Callable[[Any, Tensor], None] | None = None
    stops: Mapping[str, int] = field(default_factory=dict)
    scale_invariant: bool = False
    auxiliary: Callable[[Any, Tensor], tuple[Tensor, list[Tensor]]] | None = None
    training_only: tuple[str, ...] = ()


class Conv2d(nn.Conv2d):
    """A convolution whose float32 weights follow its input's type.

    Explicit casts cost a quarter less than autocast on CPUs with bfloat16 units.
    """

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return cast(Tensor, self._conv_forward(input, self.weight.to(input.dtype), bias))


class Linear(nn.Linear):
    """A linear layer whose float32 weights follow its input's type."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, self.weight.to(input.dtype), bias)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, and what ends them: a ReLU unless told otherwise."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        end: type[nn.Module] | None = nn.ReLU,
        **options: Any,
    ) -> None:
        layers: list[nn.Module] = [
            Conv2d(inputs, outputs, kernel, **options),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([] if end is None else [end(inplace=True)]))


class Classifier(nn.Module):
    """A body that makes features and a linear head that makes logits; what the loop trains.

    `dtype` is the arithmetic of the body (float32 or bfloat16); weights, head and logits stay
    float32.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, hooks: Hooks | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.hooks = hooks or Hooks()
        self.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.head.weight.device

    def place(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return self.to(device)

    def training_logits(self, inputs: Any) -> tuple[Tensor, list[Tensor]]:
        """Logits [B,K] of the examples of a batch, and those of each auxiliary head."""
        raise NotImplementedError


class Network(Classifier):
    """Images [B,C,H,W] with values 0-255 to logits [B,K]; standardisation is inside.

    `features(images) -> [B,D]` float32 and `head` are the two halves every study needs.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        mean: Tensor,
        std: Tensor,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(body, head, hooks)
        self.still_norms = False  # batch norm keeps its published statistics, also in training
        # In units of 0-255, one value a channel, from the training split (or as published).
        self.register_buffer("mean", mean.float().reshape(1, -1, 1, 1))
        self.register_buffer("std", std.float().reshape(1, -1, 1, 1))

    def train(self, mode: bool = True) -> Self:
        """As in torch; with `still_norms` batch norm stays in evaluation mode."""
        super().train(mode)
        if self.still_norms:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def place(self, device: torch.device | str) -> Self:
        """Move to a device, in the memory order that convolutions like best there."""
        self.to(device)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def standardise(self, images: Tensor) -> Tensor:
        """Images 0-255 [B,C,H,W] -> zero mean, unit deviation, in `dtype`."""
        return ((images.float() - self.mean) / self.std).to(self.dtype)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations, float32 [B,D]."""
        return cast(Tensor, self.body(self.standardise(images))).float()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))

    def training_logits(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B,K], and those of each auxiliary head (most networks have none)."""
        if self.hooks.auxiliary is None:
            return self(inputs), []
        features, logits = self.hooks.auxiliary(self.body, self.standardise(inputs))
        return cast(Tensor, self.head(features.float())), [part.float() for part in logits]


M = TypeVar("M", bound=nn.Module)


def kaiming(body: M) -> M:
    """The body, its convolutions drawn anew as He et al. 2015 (arXiv 1502.01852, equation 10)."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return body


def flat_width(body: nn.Module, shape: Shape) -> int:
    """Length of the features that `body` makes for images of `shape`."""
    training = body.training
    with torch.no_grad():
        width = int(body.eval()(torch.zeros(1, shape.channels, shape.size, shape.size)).shape[1])
    body.train(training)
    return width
