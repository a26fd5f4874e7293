"""Recipe -> everything training needs: data read, split and measured, open fields chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levelhead import targets
from levelhead.data import Listing, load, scan
from levelhead.data.annotations import read_labels
from levelhead.data.batches import seeded
from levelhead.data.entries import Array, Dataset, Examples
from levelhead.data.memory import MEMORY, is_name
from levelhead.data.splits import split
from levelhead.errors import LevelheadError, nearest
from levelhead.losses import find_loss
from levelhead.machine import gains_from_bfloat16, pick_device
from levelhead.recipe import Recipe
from levelhead.training.defaults import Facts, choose_model, resolve


def prepare(
    recipe: Recipe,
    *,
    known: Dataset | Listing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Recipe, Dataset]:
    """Read, split and measure the data of a recipe, and resolve the recipe for it.

    `known` data of another recipe is used again if this one would read it the same way. Data from
    memory (`data.from_arrays`) is what `recipe.data` names, whatever it says. Raises LevelheadError
    for data that cannot be read or split, and for flags that do not fit.
    """
    device = pick_device(recipe.device)
    listing = known if isinstance(known, Listing) else None
    if isinstance(known, Dataset) and known.listing.source.startswith(MEMORY):
        listing = known.listing
    if listing is not None:
        recipe = recipe.replace(data=listing.source)
    if isinstance(known, Dataset):
        facts = _facts(known)
        chosen = choose_model(recipe, facts)
        if _read_as(chosen) == known.read_as:
            chosen = chosen.replace(data=known.listing.source)
            return resolve(chosen, facts, low_precision=gains_from_bfloat16(device)), known
    listing = listing_of(recipe) if listing is None else listing
    if recipe.grey:
        if listing.channels == 1 and not (isinstance(known, Dataset) and known.read_as):
            raise LevelheadError("--grey: these images are grey already; leave it out")
        listing = dataclasses.replace(listing, channels=1)
    for name in recipe.classes:
        if name not in listing.class_names:
            fix = nearest(name, list(listing.class_names))
            raise LevelheadError(f"--classes {name}: not in the data; {fix}")
    chosen = choose_model(recipe, Facts(listing.size, listing.channels, 0))
    dataset = load(
        listing,
        image_size=chosen.image_size,
        channels=listing.channels,
        resize=chosen.resize,
        skip_broken=chosen.skip_broken,
        cached=chosen.cache,
        progress=progress,
    )
    splits = split(
        dataset,
        validation=chosen.validation,
        test=chosen.test,
        seed=chosen.split_seed,
        strict=chosen.strict_splits,
    )
    splits = of_classes(splits, chosen.classes) if chosen.classes else splits
    mean, std = statistics(splits.train)
    measured = dataclasses.replace(splits, mean=mean, std=std, read_as=_read_as(chosen))
    chosen = chosen.replace(data=listing.source)
    low_precision = gains_from_bfloat16(device)
    return resolve(chosen, _facts(measured), low_precision=low_precision), measured


def listing_of(recipe: Recipe) -> Listing:
    """The images that a recipe names. Raises LevelheadError as `scan` does."""
    return scan(
        recipe.data,
        group_column=recipe.group_column,
        label_column=recipe.label_column,
        outside_paths=recipe.outside_paths,
    )


def _facts(data: Dataset) -> Facts:
    return Facts(data.listing.size, data.listing.channels, len(data.train))


def of_classes(splits: Dataset, classes: Sequence[str]) -> Dataset:
    """The same splits with the images of these classes alone, in the data's order of classes."""
    kept = [k for k, name in enumerate(splits.class_names) if name in classes]
    parts, count = {}, 0
    for name, part in splits.splits.items():
        count += len(part)
        part = part.take(np.flatnonzero(np.isin(part.labels, kept)))
        parts[name] = dataclasses.replace(part, labels=np.searchsorted(kept, part.labels))
    names = tuple(splits.class_names[k] for k in kept)
    note = f"Only {', '.join(names)}: {sum(map(len, parts.values())):,} of {count:,} images."
    hashes = {name: part.hash() for name, part in parts.items()}
    notes = (*splits.notes, note)
    groups = tuple(splits.superclasses[k] for k in kept) if splits.superclasses else ()
    return splits.replace(parts, class_names=names, hashes=hashes, notes=notes, superclasses=groups)


def relabelled(recipe: Recipe, data: Dataset) -> Dataset:
    """The data with the recipe's `noise` or `labels` in train and validation; test stays as it is.

    Raises LevelheadError for labels that do not fit the data, the model or the loss.
    """
    if recipe.labels is not None:
        return _annotated(recipe, data)
    if recipe.noise == "none":
        return data
    names = data.class_names
    pairs = targets.confused_pairs(names) if recipe.noise == "asymmetric" else None
    changed = {}
    for place, name in enumerate(("train", "validation")):
        part = data.splits[name]
        seed = seeded(recipe.split_seed, -4, place).initial_seed()
        labels = torch.from_numpy(part.labels)
        false = targets.noisy(labels, len(names), recipe.noise, recipe.noise_rate, seed, pairs)
        changed[name] = dataclasses.replace(part, labels=false.numpy())
    note = (
        f"Label noise, {recipe.noise}: {recipe.noise_rate * 100:g} % of the labels of train and "
        "validation are false; test is as it was."
    )
    return data.replace(changed, notes=(*data.notes, note))


def _annotated(recipe: Recipe, data: Dataset) -> Dataset:
    """The data with the labels of `recipe.labels`.

    Of votes the label has most (the first of ties); their shares are what is trained towards.
    """
    assert recipe.labels is not None
    flag, names = f"--labels {recipe.labels}", data.class_names
    order = data.listing.splits["train"].ids  # before any were held out
    place, annotations = read_labels(recipe.labels, order, names)
    votes = annotations.dim() == 2
    labels = annotations.argmax(1) if votes else annotations
    changed, differ = {}, []
    without: list[str] = []
    for name in ("train", "validation"):
        part = data.splits[name]
        if missing := [id_ for id_ in part.ids if id_ not in place]:
            raise LevelheadError(
                f"{flag}: none for {len(missing):,} of {len(part):,} images of {name}, first "
                f"{missing[0]!r}; add them, or give a table with a column id"
            )
        rows = torch.tensor([place[id_] for id_ in part.ids])
        shares = annotations[rows].numpy() if votes else None
        changed[name] = dataclasses.replace(part, labels=labels[rows].numpy(), votes=shares)
        labelled = changed[name].labels != targets.UNLABELLED
        differ.append((part.labels != changed[name].labels)[labelled])
        if not labelled.all():
            kept = name == "train" and recipe.teacher is not None
            without.append(
                f"{(~labelled).sum():,} of {len(part):,} images of {name} have no label there: "
                + ("they learn from the teacher alone." if kept else "left out.")
            )
            if kept:
                _refuse_unlabelled(recipe, flag)
            else:
                changed[name] = changed[name].take(np.flatnonzero(labelled))
            if not labelled.any():
                raise LevelheadError(
                    f"{flag}: labels no image of {name}; check the file and column"
                )
    own = changed["train"].labels
    absent = np.bincount(own[own != targets.UNLABELLED], minlength=len(names)) == 0
    if absent.any():
        lost = names[int(absent.argmax())]
        raise LevelheadError(f"{flag}: no training image is {lost!r}; check the file and column")
    share = np.concatenate(differ).mean()
    notes = [
        f"Labels by annotators, {Path(recipe.labels).name}: {share * 100:.3g} % of those of train "
        "and validation differ from the data's own; test is as it was.",
        *without,
    ]
    if votes:
        find_loss(recipe.loss).check(targets.Targets(labels, annotations))
        if recipe.targets == "online":
            raise LevelheadError(
                f"{flag}: counts are soft targets, which --targets online does not take; give one "
                "label for each image, or --targets explicit"
            )
        if recipe.smoothing or recipe.smoothing_by_class:
            notes.append("They are soft already and smoothed again; unless meant, leave that out.")
    return data.replace(changed, notes=(*data.notes, *notes))


def _refuse_unlabelled(recipe: Recipe, flag: str) -> None:
    """Raise LevelheadError for what needs a label of every image."""
    for name, plain in (
        *(("mix", "none"), ("targets", "loss"), ("class_weights", "none"), ("prior", None)),
        *(("sampler", "shuffled"), ("smoothing_by_class", None), ("augment_by_class", None)),
    ):
        if (value := getattr(recipe, name)) != plain:
            raise LevelheadError(
                f"--{name.replace('_', '-')} {value}: needs a label of every training image, and "
                f"{flag} leaves some out; leave it out, or those images (no --teacher)"
            )


def statistics(examples: Examples) -> tuple[Array, Array]:
    """Mean and deviation of each channel, exact, in units of 0-255: float32 [C] each.

    In pieces of bounded memory.
    """
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
    # Images of one flat colour have no deviation to divide by.
    return mean.float().numpy(), variance.sqrt().clamp_min(1.0).float().numpy()


def _read_as(recipe: Recipe) -> tuple[Any, ...]:
    path = recipe.data
    return (
        path if is_name(path) else str(Path(path).expanduser().absolute()),
        tuple(sorted(recipe.classes)),
        recipe.label_column,
        recipe.group_column,
        recipe.image_size,
        recipe.resize,
        recipe.grey,
        recipe.validation,
        recipe.test,
        recipe.split_seed,
        recipe.strict_splits,
        recipe.skip_broken,
    )
