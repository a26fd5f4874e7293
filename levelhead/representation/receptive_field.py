"""What a unit in the middle of a layer really looks at: the gradient of its value by the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from levelhead.models.network import Network


def effective_fields(network: Network, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """How much each pixel moves the unit in the middle of some layers: float32 [H,W] by path.

    images [N,C,H,W] with values 0-255. paths: modules of `network.body` whose outputs are
    [N,C,h,w]; others are left out. The value of a unit is summed over channels; its gradient is
    taken in size, averaged over images and colours, and divided by its sum.
    Source: Luo et al. 2016, "Understanding the effective receptive field", section 4.
    """
    outputs: dict[str, Tensor] = {}
    handles = []
    for path in paths:

        def keep(module: Any, inputs: Any, output: Tensor, path: str = path) -> None:
            if output.dim() == 4:
                outputs[path] = output

        handles.append(network.body.get_submodule(path).register_forward_hook(keep))
    training = network.training
    pixels = network.standardise(images).float().requires_grad_()
    try:
        network.eval()
        network.body(pixels)
        fields = {}
        for path in [path for path in paths if path in outputs]:
            output = outputs[path]
            middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2].sum()
            (slope,) = torch.autograd.grad(middle, pixels, retain_graph=True)
            strength = slope.abs().mean((0, 1))
            fields[path] = (strength / strength.sum().clamp_min(1e-30)).detach().cpu()
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    return fields


def side_of(field: Tensor, share: float = 0.95) -> float:
    """The side of a square of as many pixels as hold this share of a field [H,W], px.

    >>> side_of(torch.eye(4) / 4)
    2.0
    """
    strengths = field.flatten().sort(descending=True).values.cumsum(0)
    pixels = int((strengths < share * strengths[-1] - 1e-6).sum()) + 1
    return math.sqrt(pixels)
