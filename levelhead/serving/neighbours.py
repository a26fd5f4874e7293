"""The training images that are most like a new one, by the features of the network."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from levelhead.data.entries import ORDER, Array, Examples
from levelhead.errors import LevelheadError
from levelhead.runs import Run
from levelhead.training.augmentation import views_of
from levelhead.training.defaults import frozen
from levelhead.training.frozen import features_key, frozen_features
from levelhead.training.run_data import run_data, stratified

MOST = 20_000
"""Training images that are looked through: of more, so many, stratified by class."""


@dataclass(frozen=True)
class Neighbour:
    """A training image: its position among those looked through, and how like it is."""

    index: int
    id: str
    name: str  # its class
    cosine: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Training images and the directions of their features."""

    examples: Examples
    class_names: tuple[str, ...]
    directions: Tensor  # float32 [N, D], of length 1

    def nearest(self, features: Tensor, n: int) -> tuple[Neighbour, ...]:
        """The n whose features [D] point most alike, the most alike first."""
        likeness = self.directions @ _directions(features[None])[0]
        values, index = likeness.topk(min(n, len(likeness)))
        labels, ids = self.examples.labels, self.examples.ids
        return tuple(
            Neighbour(i, ids[i], self.class_names[int(labels[i])], value)
            for i, value in zip(index.tolist(), values.tolist(), strict=True)
        )

    def jpeg(self, index: int) -> bytes:
        """One of the images, as the network saw it. Raises IndexError."""
        from PIL import Image

        if not 0 <= index < len(self.examples):
            raise IndexError(index)
        image: Array = np.squeeze(self.examples.images[index])
        out = io.BytesIO()
        Image.fromarray(image).save(out, "jpeg", quality=88)
        return out.getvalue()


def neighbours_of(
    run: Run, progress: Callable[[int, int], None] | None = None
) -> Neighbours | None:
    """The training images of a run whose body stood still; None where they cannot be had.

    Their features are those that training kept in the cache, else they are made again
    (`progress`). Of a
    network that was trained itself the features are looked up where the run has them
    (outputs/train.safetensors).
    """
    recipe, kept = run.recipe, run.path_of("train").exists()
    if not frozen(recipe) and not kept:
        return None
    try:
        data = run_data(run)
    except LevelheadError:  # the images have moved, or were arrays
        return None
    if frozen(recipe):
        parts = {name: data.splits[name] for name in ORDER}
        network, key = run.network("cpu"), features_key(recipe)
        features = frozen_features(
            network,
            parts,
            key,
            network.device,
            views_of(recipe, network),
            progress,
            cached=recipe.cache,
        )["train"]
    else:
        outputs = run.outputs("train")
        if outputs.features is None or outputs.ids != data.train.ids:
            return None
        features = outputs.features
    examples = data.train
    if len(examples) > MOST:
        index = stratified(examples.labels, MOST)
        examples, features = examples.take(index), features[torch.from_numpy(index)]
    return Neighbours(examples, data.class_names, _directions(features))


def _directions(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)
