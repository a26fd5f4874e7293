"""Optimisers, parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from levelhead.models.network import Classifier
from levelhead.training.regime import Regime

# Muon moves matrices. In `fast` the rest follows by SGD at airbench's rates, there meant for a loss
# summed over the batch and logits divided by 256: hence the factor of the batch, and head / 256.
SPHERE_HEAD_RATE = 0.67 / 0.24 / 256
SPHERE_VECTOR_RATE = 0.053 / 0.24
SPHERE_MOMENTUM = 0.85
# Elsewhere it follows by AdamW at this share of Muon's rate.
REST_RATE = 0.1
# A pretrained body is tuned at rates that fall downwards (Howard & Ruder 2018, section 3.2), in so
# many equal parts, to this share of the head's in the lowest.
LEVELS = 4
LOWEST = 0.3


def orthogonalise(matrix: Tensor, steps: int = 3) -> Tensor:
    """Push all singular values of [R,C] towards one by Newton-Schulz steps, in the given type.

    The quintic overshoots on purpose: after five steps they lie in about 0.7-1.2. Source: Jordan
    et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return cast(Tensor, x.T) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for weights of two or more dimensions.

    With `sphere` each weight is first put back to norm sqrt(rows) and the update taken as it is:
    right where batch norm follows every weight, as in `fast`, with three steps. Without, the
    update is scaled by sqrt(max(1, rows/columns)) and decay is decoupled (Jordan et al. 2024).
    """

    # torch.optim.Muon takes matrices alone, no kernels of convolutions, and has no sphere.

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float = 0.0,
        sphere: bool = False,
        steps: int = 3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "sphere": sphere,
            "steps": steps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                gradient = weight.grad.add(velocity, alpha=group["momentum"])
                rows = len(weight)
                flat = gradient.reshape(rows, -1)
                # bfloat16 products are as good here: the direction is only approximate anyway.
                low = flat.bfloat16() if weight.is_cuda or flat.numel() > 1 << 14 else flat
                update = orthogonalise(low, group["steps"]).to(weight.dtype).view_as(weight)
                if group["sphere"]:
                    weight.mul_(math.sqrt(rows) / weight.norm())
                    weight.add_(update, alpha=-group["lr"])
                else:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    scale = math.sqrt(max(1.0, rows / flat.shape[1]))
                    weight.add_(update, alpha=-group["lr"] * scale)


@torch.no_grad()
def add_l1(network: Classifier, strength: float) -> None:
    """Add the slope of strength · Σ|w| to the gradients of weights: not of biases and norms."""
    for weight in network.parameters():
        if weight.grad is not None and weight.dim() > 1:
            weight.grad.add_(weight.sign(), alpha=strength)


def optimisers(network: Classifier, recipe: Regime) -> list[torch.optim.Optimizer]:
    """The optimisers of a resolved recipe; each group keeps its peak rate in `peak`.

    Biases and norms are not decayed, except on a sphere with muon (`fast`), where `weight_decay`
    is the share that head and biases lose in a step at the peak rate. A group's `until` is the
    share of training after which it stands still.
    """
    rate, decay, momentum = recipe.lr, recipe.weight_decay, recipe.momentum
    assert rate is not None
    assert decay is not None
    assert momentum is not None
    head = [p for p in network.head.parameters() if p.requires_grad]
    named = [(n, p) for n, p in network.body.named_parameters() if p.requires_grad]
    stops = network.hooks.stops
    early = [p for n, p in named if n in stops]
    body = [p for n, p in named if n not in stops]
    matrices = [p for p in body if p.dim() > 1]
    vectors = [p for p in body if p.dim() <= 1]
    until = min(1.0, max(stops.values(), default=0) / (recipe.epochs or 1))

    optimisers: list[torch.optim.Optimizer]
    if recipe.optimizer == "muon" and network.hooks.scale_invariant:
        assert recipe.batch_size is not None
        summed = rate * recipe.batch_size
        rest = [
            {"params": head, "lr": summed * SPHERE_HEAD_RATE},
            {"params": vectors, "lr": summed * SPHERE_VECTOR_RATE},
            {"params": early, "lr": summed * SPHERE_VECTOR_RATE, "until": until},
        ]
        for group in rest:
            group["weight_decay"] = decay / cast(float, group["lr"])
        optimisers = [
            torch.optim.SGD(_filled(rest), lr=rate, momentum=SPHERE_MOMENTUM, nesterov=True),
            Muon([{"params": matrices}], rate, momentum, sphere=True),
        ]
    elif recipe.optimizer == "muon":
        plain = [p for p in head if p.dim() <= 1] + vectors + early
        rest = [
            {"params": [p for p in head if p.dim() > 1], "weight_decay": decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimisers = [torch.optim.AdamW(_filled(rest), lr=rate * REST_RATE)]
        if matrices:
            optimisers.append(Muon([{"params": matrices}], rate, momentum, decay, steps=5))
    else:
        split = [
            {"params": [p for p in head if p.dim() > 1], "lr": rate, "weight_decay": decay},
            {"params": [p for p in head if p.dim() <= 1], "lr": rate, "weight_decay": 0.0},
            {"params": early, "lr": rate, "weight_decay": 0.0, "until": until},
        ]
        levels = LEVELS if recipe.finetune else 1
        for level, part in enumerate(_levels(body, levels)):
            share = LOWEST ** ((levels - 1 - level) / max(1, levels - 1))
            rows = [p for p in part if p.dim() > 1], [p for p in part if p.dim() <= 1]
            for parameters, own in zip(rows, (decay, 0.0), strict=True):
                split.append({"params": parameters, "lr": rate * share, "weight_decay": own})
        if recipe.optimizer == "adamw":
            optimisers = [
                torch.optim.AdamW(_filled(split), lr=rate, betas=(momentum, recipe.beta2))
            ]
        else:
            nesterov = momentum > 0
            optimisers = [
                torch.optim.SGD(_filled(split), lr=rate, momentum=momentum, nesterov=nesterov)
            ]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
            group.setdefault("until", 1.0)
    return optimisers


def _levels(body: Sequence[Tensor], number: int) -> list[list[Tensor]]:
    """The parameters of a body, lowest layers first, in parts of as many tensors."""
    ends = [round(i * len(body) / number) for i in range(number + 1)]
    return [list(body[a:b]) for a, b in pairwise(ends)]


def _filled(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


def factor(recipe: Regime, progress: float) -> float:
    """Share of the peak rate at `progress` (0 at the first step, 1 at the end) of training.

    `one-cycle` (Smith & Topin 2018) rises from 1/25 of the peak and falls to 1/10,000 of that,
    both along a cosine; the others rise linearly during `warmup`. `inverse-sqrt` then falls as
    √(warmup / progress) (Vaswani et al. 2017, equation 3); without warm-up, from a hundredth on.
    """
    warmup = recipe.warmup or 0.0
    rest = (progress - warmup) / (1 - warmup)
    if recipe.schedule == "one-cycle":
        if progress < warmup:
            return _cosine(1 / 25, 1.0, progress / warmup)
        return _cosine(1.0, 1 / 250_000, rest)
    if progress < warmup:
        return progress / warmup
    if recipe.schedule == "polynomial":
        return float((1 - rest) ** recipe.power)
    if recipe.schedule == "cosine":
        return _cosine(1.0, 0.0, rest)
    if recipe.schedule == "inverse-sqrt":
        start = warmup or 0.01
        return math.sqrt(start / max(progress, start))
    if recipe.schedule == "step":
        return float(recipe.step_factor ** sum(progress >= at for at in recipe.step_at))
    return 1.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_rates(made: list[torch.optim.Optimizer], recipe: Regime, step: int, steps: int) -> float:
    """Set every group's rate for `step` of `steps`; returns the recipe's own rate at that step.

    The middle of a step stands for it, so that neither the first nor the last is wasted at rate
    zero. A group past its `until` stops asking for gradients.
    """
    progress = (step + 0.5) / steps
    for optimiser in made:
        for group in optimiser.param_groups:
            until = group["until"]
            group["lr"] = group["peak"] * factor(recipe, min(1.0, progress / until))
            if progress >= until and until < 1.0:
                for weight in group["params"]:
                    weight.requires_grad_(False)
                    weight.grad = None
    return (recipe.lr or 0.0) * factor(recipe, progress)


def state_tensors(made: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimisers' memory as named tensors (for safetensors; nothing is pickled)."""
    return {
        f"optimiser.{number}.{place}.{name}": tensor
        for number, optimiser in enumerate(made)
        for place, state in optimiser.state_dict()["state"].items()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def load_state_tensors(made: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Give the optimisers back what `state_tensors` took."""
    for number, optimiser in enumerate(made):
        whole = optimiser.state_dict()
        prefix = f"optimiser.{number}."
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(prefix):
                place, name = key.removeprefix(prefix).split(".", 1)
                state.setdefault(int(place), {})[name] = tensor
        optimiser.load_state_dict({**whole, "state": state})
