"""The loss around a network's weights, along random directions as long as its filters.

A network with batch norm says the same when its weights are doubled, but a step of one length then
changes it half as much. Directions whose every filter is as long as the network's own are free of
that, so that two networks of one design can be compared.
Source: Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from levelhead.data.batches import Batch, judging_size, plain_batches, seeded
from levelhead.machine import whole_float32
from levelhead.models import Network

Direction = Mapping[str, Tensor]
"""A step for each weight, by name; biases and norms have none."""
AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Slice:
    """What was measured at some places: float64, of the shape that was asked for."""

    nll: Tensor  # nats
    accuracy: Tensor


@torch.no_grad()
def direction(network: Network, seed: int) -> Direction:
    """A random direction, each filter of it as long as the network's own.

    The draw behind it depends on the seed and the shapes alone: two networks of one design are
    moved alike, but for their filters' lengths.
    """
    stream = seeded(seed, -10)
    steps = {}
    for name, weight in network.named_parameters():
        if weight.dim() < 2:
            continue
        noise = torch.randn(weight.shape, generator=stream).to(weight.device)
        own, drawn = weight.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1)
        scale = (own / drawn.clamp_min(1e-12)).reshape(-1, *[1] * (weight.dim() - 1))
        steps[name] = noise * scale
    return steps


@torch.no_grad()
def along(
    network: Network,
    directions: Sequence[Direction],
    places: Sequence[Sequence[float]],
    split: Batch,
) -> Slice:
    """Plain NLL and accuracy of a split where the weights are w + Σ_i a_i · direction_i.

    places: the numbers a, one row a place. The network is evaluated as it predicts (batch norm
    keeps its statistics), and given back as it was.
    """
    own = {name: weight.clone() for name, weight in network.named_parameters()}
    parameters = dict(network.named_parameters())
    network.eval()
    trained_in, network.dtype = network.dtype, torch.float32
    nll, right = [], []
    try:
        for place in places:
            for name in directions[0]:
                parameters[name].copy_(own[name])
                for amount, steps in zip(place, directions, strict=True):
                    parameters[name].add_(steps[name], alpha=amount)
            losses, hits = _judged(network, split)
            nll.append(losses)
            right.append(hits)
    finally:
        for name, weight in own.items():
            parameters[name].copy_(weight)
        network.dtype = trained_in
    return Slice(torch.tensor(nll, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))


def _judged(network: Network, split: Batch) -> tuple[float, float]:
    """Mean NLL and accuracy."""
    losses = hits = 0.0
    with whole_float32():
        for batch in plain_batches(split, judging_size(AT_ONCE, split.images), network.device):
            logits = network(batch.images)
            nll = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
            losses += float(nll)
            hits += float((logits.argmax(1) == batch.labels).sum())
    return losses / len(split), hits / len(split)
