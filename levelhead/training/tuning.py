"""Tuning the last blocks of a pretrained body: the rest makes its maps once, and stands still.

1. The front makes maps [C,h,w] of every image and of its mirror, once.
2. The head is solved on the features of the body as it is, as for a frozen body (`fit_head`).
3. From there `loop.fit` trains a copy of the last blocks and its head on maps mixed with each
   other (Verma et al. 2019, "Manifold mixup", section 2); batch norm stays as published, lower
   blocks learn slower.
4. On half of validation, that which fits calibrators, the result is held against the head of step
   2, which is kept where tuning made the NLL clearly worse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from levelhead.data.batches import (
    Batch,
    TrainingBatches,
    alternating,
    as_batch,
    balanced_order,
    count,
    seeded,
)
from levelhead.data.entries import Dataset, Examples
from levelhead.data.views import WHOLE
from levelhead.decisions import halves
from levelhead.machine import whole_float32
from levelhead.models import Network
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.training.defaults import entry_of, moves_of
from levelhead.training.frozen import AT_ONCE, features_key, frozen_features, fuse
from levelhead.training.loop import Batches

MAP_BYTES = 2 << 30
"""Maps of all training images beyond this many bytes are made anew for every batch."""


@dataclass(frozen=True, eq=False)
class Learner:
    """What `loop.fit` trains: a network, on what, and the features [N,D] of train before that."""

    network: Network
    batches: Batches
    validation: Batch
    features: Tensor


def learner_of(
    network: Network,
    recipe: Recipe,
    data: Dataset,
    batches: TrainingBatches,
    tell: Callable[[int, int], None],
) -> Learner:
    """Of a network that can be split its last blocks, on maps; of others the whole, on images.

    batches: those of the images. `tell(done, total)` hears of maps and features made.
    """
    entry, device = entry_of(recipe), network.device
    if entry.tunable is None:
        # A file of weights may leave gaps, whose statistics have to be learnt.
        network.still_norms = recipe.weights is None
        part, key = {"train": data.train}, features_key(recipe)
        known = frozen_features(network, part, key, device, WHOLE, tell, cached=recipe.cache)
        return Learner(network, batches, as_batch(data.validation, device), known["train"])
    front, rest = halved(network)
    quick, _ = halved(fuse(network, data.train.images.shape[1]).place(device))
    views = 2 if recipe.flip else 1
    total = len(data.train) * views + len(data.validation)
    done = 0

    def made(count: int) -> None:
        nonlocal done
        done += count
        tell(done, total)

    validation = maps(quick, data.validation, mirrored=False, progress=made)
    labels = torch.from_numpy(data.validation.labels).to(device)
    judged = Batch(validation.to(device), labels, torch.arange(len(labels)))
    size = views * len(data.train) * validation[0].numel() * validation.element_size()
    if moves_of(recipe) or size > MAP_BYTES:
        rows = [features_of_maps(rest, part) for part in _pieces(quick, data.train, made)]
        return Learner(rest, FreshMaps(batches, front), judged, torch.cat(rows))
    kept = [maps(quick, data.train, mirrored=m, progress=made) for m in (False, True)[:views]]
    own = MapBatches(
        kept,
        torch.from_numpy(data.train.labels),
        batches.batch_size,
        recipe.seed,
        device,
        batches.balanced,
    )
    return Learner(rest, own, judged, features_of_maps(rest, kept[0]))


def halved(network: Network) -> tuple[Network, Network]:
    """The front, which makes maps of images, and the tuned blocks with a head of their own.

    They share the network's modules. The front does not learn; batch norm stays as published.
    """
    body: Any = network.body
    device = network.device
    front = Network(body.front, network.head, network.mean, network.std).eval()
    head = nn.Linear(network.head.in_features // 2, network.head.out_features)
    rest = Network(body.tuned, head, torch.zeros(1), torch.ones(1))
    rest.still_norms = True
    return front.to(device), rest.to(device)


@torch.no_grad()
def join_head(network: Network, part: Network) -> None:
    """Give the network the head of its tuned blocks; features as published do not count for it."""
    if part is not network:
        network.head.weight.zero_()
        network.head.weight[:, -part.head.in_features :] = part.head.weight
        network.head.bias.copy_(part.head.bias)


def maps(
    front: Network, examples: Examples, *, mirrored: bool, progress: Callable[[int], None]
) -> Tensor:
    """Maps of the images of a split, float32 [N,C,h,w] (channels last), on the CPU."""
    return torch.cat(list(_pieces(front, examples, progress, mirrored=mirrored)))


def _pieces(
    front: Network,
    examples: Examples,
    progress: Callable[[int], None],
    *,
    mirrored: bool = False,
) -> Iterator[Tensor]:
    """Maps of a few images at a time."""
    for start in range(0, len(examples), AT_ONCE):
        pixels = torch.from_numpy(np.ascontiguousarray(examples.images[start : start + AT_ONCE]))
        images = pixels.to(front.device).permute(0, 3, 1, 2)
        with torch.no_grad(), whole_float32():
            piece = front.features(images.flip(3) if mirrored else images)
        progress(len(piece))
        yield piece.cpu().contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def features_of_maps(rest: Network, every: Tensor) -> Tensor:
    """Features [N,D] of maps, in evaluation mode."""
    rest.eval()
    with whole_float32():
        rows = [rest.features(part.to(rest.device)).cpu() for part in every.split(256)]
    return torch.cat(rows)


@dataclass(frozen=True, eq=False)
class MapBatches:
    """Batches of maps kept: of each image or its mirror (alternating), in random order."""

    views: Sequence[Tensor]  # of the images, then of their mirrors
    labels: Tensor
    batch_size: int
    seed: int
    device: torch.device
    balanced: bool = False

    @property
    def examples(self) -> int:
        """How many an epoch sees."""
        return len(self.labels)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return count(len(self.labels), self.batch_size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        n = len(self.labels)
        generator = seeded(self.seed, epoch)
        order = torch.randperm(n, generator=generator)
        if self.balanced:
            order = balanced_order(self.labels, generator)
        mirrors = alternating(n, self.seed, epoch)
        for index in order.tensor_split(len(self)):
            picked = self.views[0][index]
            if len(self.views) > 1:
                mirror = mirrors[index]
                picked[mirror] = self.views[1][index[mirror]]
            yield Batch(picked.to(self.device), self.labels[index].to(self.device), index)


@dataclass(frozen=True, eq=False)
class FreshMaps:
    """Batches of maps made anew: of augmented images, or of more than can be kept."""

    images: TrainingBatches
    front: Network

    @property
    def examples(self) -> int:
        """How many an epoch sees."""
        return self.images.examples

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.images)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        for batch in self.images(epoch):
            with torch.no_grad():
                maps_ = self.front.features(batch.images)
            yield dataclasses.replace(batch, images=maps_)


@dataclass(frozen=True)
class Comparison:
    """The head on the body as it was against the tuned network: NLL on half of validation."""

    before: float
    after: float
    error: float  # standard error of their difference

    @property
    def tuned_is_kept(self) -> bool:
        """Whether it is no worse, but for one standard error."""
        return self.after - self.before <= self.error

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "nll_of_the_head_alone": self.before,
            "nll_after_tuning": self.after,
            "standard_error": self.error,
            "tuned": self.tuned_is_kept,
        }

    @property
    def words(self) -> str:
        """What was kept, and why."""
        both = f"NLL {self.after:.4f} against {self.before:.4f} of the head alone"
        if self.tuned_is_kept:
            return f"On half of validation the tuned network has {both}; it is kept."
        return f"On half of validation the tuned network has {both}, which is kept instead."


def compared(before: Outputs, after: Outputs) -> Comparison:
    """Logits of validation before and after tuning, on the half that fits calibrators."""
    parts = [halves(one)[0] if len(one) > 1 else one for one in (before, after)]
    first, second = (part.rows.nll.double() for part in parts)
    change = second - first
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.inf
    return Comparison(float(first.mean()), float(second.mean()), error)
