"""What a resolved recipe does to images: the moves of training, and the views of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from levelhead.data import augment
from levelhead.data.annotations import read_by_class
from levelhead.data.batches import Augmentation, Batch, TrainingBatches, as_batch, seeded
from levelhead.data.entries import Dataset, Examples
from levelhead.data.views import MIRROR, WHOLE, Views, crops, draws
from levelhead.errors import LevelheadError
from levelhead.figures import augmented
from levelhead.figures.augmented import Augmented
from levelhead.models import Network
from levelhead.recipe import MOST_MOVED, Recipe
from levelhead.training.defaults import PLAIN, WINDOW_SHARE, augments
from levelhead.training.prepare import prepare

T = TypeVar("T")
STILL = {name: PLAIN[name] for name in MOST_MOVED}
"""The strength of each move that does nothing."""


def augmentation_of(
    recipe: Recipe, mean: Tensor | None = None, class_names: Sequence[str] = ()
) -> Augmentation:
    """How the training images of a resolved recipe are moved; mean [C], of 0-255, is what is
    painted. Raises LevelheadError for a file of strengths by class that is none."""
    usual = {name: float(getattr(recipe, name)) for name in MOST_MOVED}
    strengths = {name: torch.tensor([value]) for name, value in usual.items()}
    if recipe.augment_by_class is not None:
        path = Path(recipe.augment_by_class)
        strengths = read_by_class(path, class_names, usual, MOST_MOVED, STILL)
    return Augmentation(
        crop=recipe.crop or 0,
        flip=bool(recipe.flip),
        policy=recipe.policy,
        strengths={n: s for n, s in strengths.items() if bool((s != STILL[n]).any())},
        fill=recipe.fill,
        cutout=recipe.cutout or 0,
        mean=mean,
        window=recipe.window or 0,
        window_epochs=round(WINDOW_SHARE * (recipe.epochs or 0)),
    )


def check_moves(recipe: Recipe, data: Dataset) -> None:
    """Raise LevelheadError for a file of strengths by class that is none, or not for this data."""
    strengths = augmentation_of(recipe, None, data.class_names).strengths
    if "colour" in strengths and data.listing.channels == 1:
        raise LevelheadError(
            f"{recipe.augment_by_class}: colour of these images: they are grey; leave that column "
            "out, or take contrast"
        )


def batches_of(
    split: Batch,
    recipe: Recipe,
    device: torch.device,
    mean: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> TrainingBatches:
    """The training batches that a resolved recipe asks for. Raises as `augmentation_of` does."""
    assert recipe.batch_size is not None
    return TrainingBatches(
        split,
        recipe.batch_size,
        augmentation_of(recipe, mean, class_names),
        recipe.seed,
        device,
        balanced=recipe.sampler == "balanced",
    )


def views_of(recipe: Recipe, network: Network) -> Views:
    """The views that answers of a resolved recipe's network are averaged over."""
    if recipe.tta == "none":
        return WHOLE
    if recipe.tta == "flip":
        return Views(MIRROR.moves, recipe.tta_average, _key("flip", recipe))
    if recipe.tta == "crops":
        return crops(recipe.image_size or 0, bool(recipe.flip), recipe.tta_average)
    moves = Augmentation(
        crop=recipe.crop or 0,
        flip=bool(recipe.flip),
        strengths=augmentation_of(recipe.replace(augment_by_class=None)).strengths,
        fill=recipe.fill,
        mean=network.mean.flatten().round(),
    )
    return draws(moves, recipe.tta_draws, recipe.seed, 1.0, recipe.tta_average)


def _key(kind: str, recipe: Recipe) -> str:
    """A name for what is kept; as before there was another average where that is of logits."""
    return kind if recipe.tta_average == "logits" else f"{kind} {recipe.tta_average}"


SHOWN = 5
"""Training images that stand beside their draws."""


def spread_out(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, at even distances, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[i] for i in places]


def shown(
    recipe: Recipe,
    few: Examples,
    class_names: Sequence[str],
    mean: Tensor | None = None,
    columns: int = 7,
) -> tuple[list[int], list[list[np.ndarray]]]:
    """A few training images as they are and as some epochs of a resolved recipe see them.

    Returns the epochs, counted from 1, and a row of uint8 [H,W,C] an image. With mixup or CutMix
    the few are mixed with each other.
    """
    split = as_batch(few, torch.device("cpu"))
    last = max(1, recipe.epochs or 1)
    epochs = sorted({round(e) for e in np.linspace(0, last - 1, min(columns, last))})
    moves = augmentation_of(recipe, mean, class_names)
    batches = TrainingBatches(split, len(few), moves, recipe.seed, torch.device("cpu"))
    rows = [[image] for image in few.images]
    for epoch in epochs:
        (batch,) = batches(epoch)
        images = batch.images
        if recipe.mix != "none" and len(few) > 1:
            rng = np.random.default_rng(seeded(recipe.seed, epoch, 2).initial_seed())
            partner = torch.arange(len(few)).roll(1)
            alpha = recipe.mix_alpha or 1.0
            images, _ = augment.mixed(images, partner, recipe.mix, alpha, rng)
        pixels = images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for place, image in zip(batch.index.tolist(), pixels, strict=True):
            rows[place].append(image)
    return [epoch + 1 for epoch in epochs], rows


def preview(recipe: Recipe) -> tuple[Recipe, tuple[Augmented, ...]]:
    """The recipe resolved, and a panel of what its training would see of a few images.

    Raises LevelheadError as `prepare` does, and where training sees each image as it is.
    """
    recipe, data = prepare(recipe)
    if not (augments(recipe) or recipe.mix != "none"):
        raise LevelheadError(
            f"{recipe.data}: {recipe.model} trains on images as they are; give --flip, "
            "--rotation 15, --policy trivialaugment or another"
        )
    train = data.train
    _, first = np.unique(train.labels, return_index=True)
    few = train.take(np.array(spread_out(first.tolist(), SHOWN)))
    assert data.mean is not None
    epochs, rows = shown(recipe, few, data.class_names, torch.from_numpy(data.mean).round())
    return recipe, augmented.data([data.class_names[k] for k in few.labels], epochs, rows)
