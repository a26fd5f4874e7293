"""Recipe -> everything training needs: data read, split and measured, open fields chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead import datasets, targets
from levelhead.batches import seeded
from levelhead.datasets.entries import Examples
from levelhead.machine import gains_from_bfloat16, pick_device
from levelhead.recipe import Recipe
from levelhead.resolve import Facts, choose_model, resolve
from levelhead.splits import Splits, split


@dataclass(frozen=True)
class Data:
    """Splits ready to train on; mean and deviation (0-255, by channel) of the train split."""

    name: str
    source: str
    channels: int
    size: int  # median short side of the pictures as they lie on disk, px
    splits: Splits
    mean: Tensor
    std: Tensor
    read_as: tuple[Any, ...]  # the recipe's fields that decided all this


def prepare(
    recipe: Recipe,
    *,
    known: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Recipe, Data]:
    """Read, split and measure the data of a recipe, and resolve the recipe for it.

    `known` data of another recipe is used again if this one would read it the same way. Raises
    LevelheadError for data that cannot be read or split, and for flags that do not fit.
    """
    device = pick_device(recipe.device)
    if known is not None:
        facts = Facts(known.size, known.channels, len(known.splits.train))
        chosen = choose_model(recipe, facts)
        if _read_as(chosen) == known.read_as:
            chosen = chosen.replace(data=known.source)
            return resolve(chosen, facts, low_precision=gains_from_bfloat16(device)), known
    listing = datasets.scan(recipe.data)
    chosen = choose_model(recipe, Facts(listing.size, listing.channels, 0))
    dataset = datasets.load(
        listing,
        image_size=chosen.image_size,
        channels=listing.channels,
        resize=chosen.resize,
        skip_broken=chosen.skip_broken,
        progress=progress,
    )
    splits = split(
        dataset,
        validation=chosen.validation,
        test=chosen.test,
        seed=chosen.split_seed,
        strict=chosen.strict_splits,
    )
    mean, std = statistics(splits.train)
    facts = Facts(listing.size, listing.channels, len(splits.train))
    data = Data(
        listing.name,
        listing.source,
        listing.channels,
        listing.size,
        splits,
        mean,
        std,
        _read_as(chosen),
    )
    chosen = chosen.replace(data=listing.source)
    return resolve(chosen, facts, low_precision=gains_from_bfloat16(device)), data


def falsified(recipe: Recipe, data: Data) -> Data:
    """The data with the recipe's label noise in train and validation; test stays as it is."""
    if recipe.noise == "none":
        return data
    splits, names = data.splits, data.splits.class_names
    pairs = targets.confused_pairs(names) if recipe.noise == "asymmetric" else None
    changed: dict[str, Any] = {}
    for place, name in enumerate(("train", "validation")):
        part = getattr(splits, name)
        seed = seeded(recipe.split_seed, -4, place).initial_seed()
        labels = torch.from_numpy(part.labels)
        false = targets.noisy(labels, len(names), recipe.noise, recipe.noise_rate, seed, pairs)
        changed[name] = dataclasses.replace(part, labels=false.numpy())
    note = (
        f"Label noise, {recipe.noise}: {recipe.noise_rate * 100:g} % of the labels of train and "
        "validation are falsified; test is as it was."
    )
    changed["notes"] = (*splits.notes, note)
    return dataclasses.replace(data, splits=dataclasses.replace(splits, **changed))


def statistics(examples: Examples) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, exact, in units of 0-255; in pieces of bounded memory."""
    images = torch.from_numpy(examples.images)
    channels = images.shape[3]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for piece in images.split(max(1, (1 << 24) // images[0].numel())):
        for channel in range(channels):
            counts[channel] += torch.bincount(piece[..., channel].reshape(-1), minlength=256)
    values = torch.arange(256, dtype=torch.float64)
    total = counts.sum(1)
    mean = counts @ values / total
    variance = counts @ values.square() / total - mean.square()
    # Pictures of one flat colour have no deviation to divide by.
    return mean.float(), variance.sqrt().clamp_min(1.0).float()


def _read_as(recipe: Recipe) -> tuple[Any, ...]:
    path = recipe.data
    return (
        path if path == "digits" else str(Path(path).expanduser().absolute()),
        recipe.image_size,
        recipe.resize,
        recipe.validation,
        recipe.test,
        recipe.split_seed,
        recipe.strict_splits,
        recipe.skip_broken,
    )
