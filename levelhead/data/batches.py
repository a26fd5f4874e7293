"""Examples -> augmented batches on the device.

Images stay uint8: on the device where they fit, else in the (memory-mapped) cache, from which
each batch is gathered. Order and augmentation are a function of (seed, epoch) alone, so that a
resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from levelhead.data import augment, light, policies, warp
from levelhead.data.entries import Examples
from levelhead.targets import Targets


@dataclass(frozen=True)
class Batch:
    """images [B,C,H,W] of 0-255 (channels-last; uint8, but float32 where they were warped), labels
    int64 [B], index int64 [B] into the split.

    `targets` are what is trained towards, once the objective has made them.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """What the network takes."""
        return self.images


def as_batch(examples: Examples, device: torch.device) -> Batch:
    """A split as one batch, of which others are made, without a copy on the CPU.

    On CUDA if it takes a quarter of the free memory at most.
    """
    images = torch.from_numpy(examples.images)
    labels = torch.from_numpy(examples.labels)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.numel() < free // 4:
            images = images.to(device)
        labels = labels.to(images.device)
    return Batch(images.permute(0, 3, 1, 2), labels, torch.arange(len(labels)))


def seeded(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for this tuple of numbers, unrelated to that of any other tuple."""
    import hashlib

    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def alternating(n: int, seed: int, epoch: int) -> Tensor:
    """Which of n images are mirrored in an epoch, bool [n]: not those of the epoch before."""
    first = torch.randint(0, 2, (n,), generator=seeded(seed, -1))
    return (first + epoch) % 2 == 1


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many places as there are labels int64 [N], drawn with replacement, every class equally
    likely: int64 [N]."""
    weights = 1 / torch.bincount(labels).double()
    return torch.multinomial(weights[labels], len(labels), replacement=True, generator=generator)


def count(examples: int, batch_size: int) -> int:
    """Steps in an epoch; no batch is larger than `batch_size`."""
    return -(-examples // min(batch_size, examples))


def judging_size(most: int, images: Tensor) -> int:
    """Images judged at once: `most` of up to 64 px, fewer of larger ones, by their pixels.

    What a layer keeps grows with the pixels: 500 images of 224 px would take gigabytes.
    """
    return max(16, most * 64**2 // max(64**2, images.shape[2] * images.shape[3]))


@dataclass(frozen=True, eq=False)
class Augmentation:
    """How training images are moved, in this order: crop after reflecting the border by so many px
    and mirror; a published `policy`; warps and lights by the `strengths` of each class (float32
    [K] by name, or [1] for all); a square of side `cutout` painted with `mean` [C].

    `fill`: what warps show beyond the border. Windows of a side are seen in the first epochs.
    """

    crop: int = 0
    flip: bool = False
    policy: str = "none"
    strengths: Mapping[str, Tensor] = field(default_factory=dict)
    fill: warp.Fill = "reflect"
    cutout: int = 0
    mean: Tensor | None = None  # in units of 0-255
    window: int = 0
    window_epochs: int = 0

    def moved(self, images: Tensor, labels: Tensor, draws: Tensor, noise_seed: int) -> Tensor:
        """Images [B,C,h,w] warped and relit; labels int64 [B], draws uniform [B, MOVE_DRAWS]."""
        of = {
            name: (s[labels.to(s.device)] if len(s) > 1 else s.expand(len(labels))).to(
                images.device
            )
            for name, s in self.strengths.items()
        }
        height, width = images.shape[2:]
        draws = draws.to(images.device)
        if of.keys() & set(warp.WARPS):
            matrix = warp.matrices(of, draws[:, : warp.DRAWS], width / height)
            images = warp.warp(images, matrix, self.fill, self.mean)
        if of.keys() & set(light.LIGHTS):
            noise = None
            if "pixel_noise" in of:
                stream = seeded(noise_seed, -6, device=images.device)
                noise = torch.randn(images.shape, generator=stream, device=images.device)
            images = light.relight(images, of, draws[:, warp.DRAWS :], noise)
        return images


MOVE_DRAWS = warp.DRAWS + 3
"""Random numbers that the warps and lights of one image take."""


@dataclass(frozen=True, eq=False)
class TrainingBatches:
    """The batches of an epoch, in random order, augmented; `seed` decides order and moves.

    They are of even size (they differ by one at most), so that no leftover batch of a few images
    upsets batch norm. Mirroring alternates: an image mirrored in one epoch is not in the next
    (Jordan 2024, section 3.6). Windows make the first epochs cheaper; the last ones show whole
    images, as the test will (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
    `balanced`: as many images are drawn with replacement, every class equally likely.
    """

    split: Batch  # the whole of it
    batch_size: int
    augmentation: Augmentation
    seed: int
    device: torch.device
    balanced: bool = False

    @property
    def examples(self) -> int:
        """How many an epoch sees."""
        return len(self.split)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return count(len(self.split), self.batch_size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        generator = seeded(self.seed, epoch)
        n, (height, width) = len(self.split), self.split.images.shape[2:]
        at = self.split.images.device
        order = torch.randperm(n, generator=generator)
        moves = self.augmentation
        pad, square = moves.crop, moves.cutout
        window = (height, width)
        if moves.window and epoch < moves.window_epochs:
            window = (min(height, moves.window), min(width, moves.window))
        # As many places as the padded image has room for: height first, then width.
        room = torch.tensor([height - window[0] + 2 * pad + 1, width - window[1] + 2 * pad + 1])
        shifts = None
        if int(room.max()) > 1:
            shifts = (torch.rand((n, 2), generator=generator) * room).long().to(at)
        mirrors = alternating(n, self.seed, epoch).to(at) if moves.flip else None
        corner = torch.rand((n, 2), generator=generator)
        centres = (corner * torch.tensor(window)).long().to(self.device)
        draws = torch.rand((n, MOVE_DRAWS), generator=generator) if moves.strengths else None
        # Draws are an image's own; where it may come twice in an epoch, those of its place.
        places = order
        if self.balanced:
            order = balanced_order(self.split.labels.cpu(), generator)
        for step, (index, place) in enumerate(
            zip(order.tensor_split(len(self)), places.tensor_split(len(self)), strict=True)
        ):
            here, own = index.to(at), place.to(at)
            images = augment.crop_and_flip(
                self.split.images,
                here,
                None if shifts is None else shifts[own],
                None if mirrors is None else mirrors[own],
                pad,
                window,
            ).to(self.device, non_blocking=True)
            labels = self.split.labels[here].to(self.device)
            if moves.policy != "none":
                stream = seeded(self.seed, epoch, step, -7).initial_seed()
                images = policies.apply(images, moves.policy, stream)
            if draws is not None:
                stream = seeded(self.seed, epoch, step, -6).initial_seed()
                images = moves.moved(images, labels, draws[place], stream)
            if square and moves.mean is not None:
                images = augment.cutout(
                    images, centres[place.to(centres.device)], square, moves.mean
                )
            yield Batch(images, labels, index)


def plain_batches(split: Batch, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """All examples of a split in order, untouched."""
    pieces = (part.split(batch_size) for part in (split.images, split.labels, split.index))
    for images, labels, index in zip(*pieces, strict=True):
        yield Batch(images.to(device, non_blocking=True), labels.to(device), index)
