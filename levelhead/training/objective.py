"""The objective: what the network is asked to get right, built and refused in one place.

Label smoothing acts either in the targets, where `rows` or `soft` make them, or inside the loss;
never in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from levelhead.data import augment
from levelhead.data.annotations import read_epsilons, read_prior
from levelhead.data.batches import Batch, seeded
from levelhead.errors import LevelheadError
from levelhead.losses import Loss, Options, find_loss
from levelhead.recipe import Recipe
from levelhead.targets import (
    Epsilon,
    OnlineTable,
    Targets,
    check_smoothing,
    mix,
    of_batch,
    smooth,
    target_table,
)
from levelhead.training.distillation import Teacher
from levelhead.training.prior import balanced_weights

E = TypeVar("E", bound="Example")
AUXILIARY = 0.3  # Szegedy et al. 2015, section 5


class Example(Protocol):
    """A batch of examples, a dataclass: what the network takes, labels int64 [B], index int64 [B]
    into the training split, targets. Images, or the tokens of sentences."""

    @property
    def inputs(self) -> Any: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def index(self) -> Tensor: ...
    @property
    def targets(self) -> Targets | None: ...


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed with themselves: mixup or cutmix, its α, the seed of its draws."""

    kind: str
    alpha: float
    seed: int

    def batch(self, batch: Batch, step: int) -> Batch:
        """The batch mixed with itself in another order; its labels are those of larger share."""
        assert batch.targets is not None
        soft = batch.targets.soft
        assert soft is not None
        rng = np.random.default_rng(seeded(self.seed, step, 2).initial_seed())
        partner = torch.from_numpy(rng.permutation(len(batch.labels))).to(batch.labels.device)
        images, share = augment.mixed(batch.images, partner, self.kind, self.alpha, rng)
        labels = batch.labels if share >= 0.5 else batch.labels[partner]
        targets = Targets(labels, mix(soft, soft[partner], share))
        return dataclasses.replace(batch, images=images, labels=labels, targets=targets)


@dataclass
class Objective:
    """Loss, targets, class weights, mixing and teacher.

    `batch(batch, step)` gives a batch its targets; `objective(logits, batch) -> [B]` its losses.
    Only the online table and the teacher's smoothness index change while training.
    """

    loss: Loss
    options: Options  # its ε is 0 where targets are made outside of the loss
    rows: Tensor | None = None  # float32 [K,K], the target of every class
    soft: Tensor | None = None  # float32 [N,K], what annotators said of each training example
    mixing: Mixing | None = None
    online: OnlineTable | None = None
    teacher: Teacher | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        labels: Tensor,
        class_names: Sequence[str],
        soft: Tensor | None = None,
    ) -> Objective:
        """The objective of a resolved recipe, on the CPU and without its teacher.

        labels int64 [N]: those that are trained on; soft [N,K]: what annotators said. Raises
        LevelheadError for an ε or a prior that makes a wrong class as likely as the right one, for
        files that cannot be read, and for a loss that does not go with the rest.
        """
        classes = len(class_names)
        check_smoothing(recipe.smoothing, classes, recipe.convention)
        rows = target_rows(recipe, labels, class_names)
        mixes = recipe.mix != "none" or bool(recipe.mix_maps)
        explicit = recipe.targets == "explicit" or mixes or soft is not None
        if rows is None and explicit:
            every = torch.arange(classes)
            rows = smooth(every, classes, recipe.smoothing, recipe.convention)
        online = OnlineTable.start(classes) if recipe.targets == "online" else None
        inside = rows is None and online is None
        loss = find_loss(recipe.loss)
        options = loss.options(
            recipe.smoothing if inside else 0.0,
            recipe.convention,
            class_weights(recipe, labels, classes),
            recipe.loss_knobs,
        )
        mixing = None
        if recipe.mix_maps:
            mixing = Mixing("mixup", recipe.mix_maps, recipe.seed)
        elif recipe.mix != "none":
            assert recipe.mix_alpha is not None
            mixing = Mixing(recipe.mix, recipe.mix_alpha, recipe.seed)
        return cls(loss, options, rows, soft, mixing, online)

    def place(self, device: torch.device) -> Objective:
        """Move what every batch needs to a device."""
        weights = self.options.class_weights
        if weights is not None:
            self.options = dataclasses.replace(self.options, class_weights=weights.to(device))
        self.rows = None if self.rows is None else self.rows.to(device)
        self.online = None if self.online is None else self.online.to(device)
        return self

    def start_epoch(self) -> None:
        """Online smoothing: half the label, half what the last epoch thought of its class."""
        if self.online is not None:
            self.rows = target_table(self.online.table, 0.5)

    def targets(self, labels: Tensor, index: Tensor) -> Targets:
        """Targets of some examples: labels int64 [B], index int64 [B] into the training split."""
        targets = of_batch(labels, index, self.rows, self.soft)
        self.loss.check(targets)
        return targets

    def batch(self, batch: E, step: int) -> E:
        """The batch with its targets, mixed with itself where the recipe says so."""
        targets = self.targets(batch.labels, batch.index)
        batch = dataclasses.replace(batch, targets=targets)  # type: ignore[type-var]
        if self.mixing is None:
            return batch
        assert isinstance(batch, Batch)
        return cast(E, self.mixing.batch(batch, step))

    def label_losses(self, logits: Tensor, targets: Targets) -> Tensor:
        """What the labels alone ask for, [B], in nats."""
        return self.loss.of(logits, targets, self.options)

    def __call__(self, logits: Tensor, batch: Example, auxiliary: Sequence[Tensor] = ()) -> Tensor:
        """The loss of each example [B] of a batch that `batch` made, in nats.

        auxiliary: logits [B,K] of heads that help in training alone, each weighed by AUXILIARY.
        """
        assert batch.targets is not None
        losses = self.label_losses(logits, batch.targets)
        for scores in auxiliary:
            losses = losses + AUXILIARY * self.label_losses(scores, batch.targets)
        if self.teacher is not None:
            assert isinstance(batch, Batch)
            losses = self.teacher.losses(losses, logits, batch)
        if self.online is not None:
            self.online.update(logits, batch.labels)
        return losses

    def end_epoch(self) -> None:
        """What this epoch thought of each class becomes the next one's targets."""
        if self.online is not None:
            self.online.next()


class Weighed(Protocol):
    """A recipe that may weigh classes."""

    @property
    def class_weights(self) -> str: ...


def class_weights(recipe: Weighed, labels: Tensor, classes: int) -> Tensor | None:
    """Weights of the classes, float32 [K]; None where all count alike."""
    return None if recipe.class_weights == "none" else balanced_weights(labels, classes)


def target_rows(recipe: Recipe, labels: Tensor, names: Sequence[str]) -> Tensor | None:
    """Target of every class, float32 [K,K], where prior or smoothing_by_class decide it, or None.

    labels int64 [N]: those that are trained on, whose shares `frequency` is. Raises LevelheadError
    for a file that is neither, and an ε that makes a wrong class likelier.
    """
    if recipe.prior is None and recipe.smoothing_by_class is None:
        return None
    epsilon: Epsilon = recipe.smoothing
    if recipe.smoothing_by_class is not None:
        epsilon = read_epsilons(Path(recipe.smoothing_by_class), names, recipe.smoothing)
    if recipe.prior is None:
        return smooth(torch.arange(len(names)), len(names), epsilon, recipe.convention)
    if recipe.prior == "frequency":
        prior = torch.bincount(labels, minlength=len(names)).double() / len(labels)
    else:
        prior = read_prior(Path(recipe.prior), names)
    try:
        return target_table(prior, epsilon, recipe.convention)
    except LevelheadError as error:
        raise LevelheadError(f"--prior {recipe.prior}: {error}") from None
