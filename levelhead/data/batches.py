"""Examples -> augmented batches on the device.

Images stay uint8: on the device where they fit, else in the (memory-mapped) cache, from which
each batch is gathered. Order and augmentation are a function of (seed, epoch) alone, so that a
resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from levelhead.data import augment
from levelhead.data.entries import Examples
from levelhead.recipe import Recipe

# Share of the epochs that see random windows, where the recipe has a window.
WINDOW_SHARE = 0.6


@dataclass(frozen=True)
class Batch:
    """images uint8 [B,C,H,W] (channels-last), labels int64 [B], index int64 [B] into the split."""

    images: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class Store:
    """A split as tensors: images uint8 [N,H,W,C], labels int64 [N]; where batches should go."""

    images: Tensor
    labels: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)


def store(examples: Examples, device: torch.device) -> Store:
    """Put a split where batches are made: on CUDA if it takes a quarter of the memory at most."""
    images = torch.from_numpy(examples.images)
    labels = torch.from_numpy(examples.labels)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.numel() < free // 4:
            images = images.to(device)
        labels = labels.to(images.device)
    return Store(images, labels, device)


def seeded(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for this tuple of numbers, unrelated to that of any other tuple."""
    import hashlib

    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def count(examples: int, batch_size: int) -> int:
    """Steps in an epoch; no batch is larger than `batch_size`."""
    return -(-examples // min(batch_size, examples))


def training_batches(
    split: Store, recipe: Recipe, epoch: int, fill: Tensor | None = None
) -> Iterator[Batch]:
    """One epoch in random order, cropped, mirrored and cut out as the recipe says.

    The batches are of even size (they differ by one at most), so that no leftover batch of a few
    images upsets batch norm. Mirroring alternates: an image mirrored in one epoch is not in the
    next (Jordan 2024, section 3.6). Windows make the first epochs cheaper; the last ones show
    whole images, as the test will (Touvron et al. 2019, "Fixing the train-test resolution
    discrepancy").
    """
    assert recipe.batch_size is not None
    generator = seeded(recipe.seed, epoch)
    n, (height, width) = len(split), split.images.shape[1:3]
    at = split.images.device
    order = torch.randperm(n, generator=generator)
    pad, square = recipe.crop or 0, recipe.cutout or 0
    window = (height, width)
    if recipe.window and epoch < round(WINDOW_SHARE * (recipe.epochs or 0)):
        window = (min(height, recipe.window), min(width, recipe.window))
    # As many places as the padded image has room for: height first, then width.
    room = torch.tensor([height - window[0] + 2 * pad + 1, width - window[1] + 2 * pad + 1])
    shifts = None
    if int(room.max()) > 1:
        shifts = (torch.rand((n, 2), generator=generator) * room).long().to(at)
    first = torch.randint(0, 2, (n,), generator=seeded(recipe.seed, -1))
    mirrors = ((first + epoch) % 2 == 1).to(at) if recipe.flip else None
    corner = torch.rand((n, 2), generator=generator)
    centres = (corner * torch.tensor(window)).long().to(split.device)
    for index in order.tensor_split(count(n, recipe.batch_size)):
        here = index.to(at)
        images = augment.crop_and_flip(
            split.images,
            here,
            None if shifts is None else shifts[here],
            None if mirrors is None else mirrors[here],
            pad,
            window,
        ).to(split.device, non_blocking=True)
        if square and fill is not None:
            images = augment.cutout(images, centres[index.to(centres.device)], square, fill)
        yield Batch(images, split.labels[here].to(split.device), index)


def plain_batches(split: Store, batch_size: int) -> Iterator[Batch]:
    """All examples in order, untouched."""
    for index in torch.arange(len(split)).split(batch_size):
        here = index.to(split.images.device)
        images = split.images[here].permute(0, 3, 1, 2).to(split.device, non_blocking=True)
        yield Batch(images, split.labels[here].to(split.device), index)
