"""The training loop: `fit` yields what happens, `train` turns a recipe into a run folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from levelhead import targets
from levelhead.data import augment
from levelhead.data.batches import (
    Batch,
    Store,
    count,
    plain_batches,
    seeded,
    training_batches,
)
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES
from levelhead.models import Network
from levelhead.recipe import Recipe
from levelhead.targets import OnlineTable, Targets
from levelhead.training import optim
from levelhead.training.checkpoint import State
from levelhead.training.distillation import Teacher, distillation
from levelhead.training.events import Epoch, Snapshot, Step

JUDGING_BATCH = 1000


def start(network: Network, train: Store, recipe: Recipe) -> State:
    """A network about to be trained: on its device, in its precision, its first layer whitened."""
    network.place(train.device)
    network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    whiten = getattr(network.body, "start", None)
    if whiten is not None:
        order = torch.randperm(len(train), generator=seeded(recipe.seed, -2))[:5000]
        images = train.images[order.to(train.images.device)].permute(0, 3, 1, 2).to(train.device)
        whiten((images.float() - network.mean) / network.std)
    online = None
    if recipe.targets == "online":
        online = OnlineTable.start(network.head.out_features, train.device)
    return State(network, optim.optimisers(network, recipe), online)


def fit(
    state: State,
    train: Store,
    validation: Store,
    recipe: Recipe,
    *,
    class_weights: Tensor | None = None,
    teacher: Teacher | None = None,
    rows: Tensor | None = None,
    soft: Tensor | None = None,
) -> Iterator[Step | Snapshot | Epoch]:
    """Train in place, from `state.epoch` on; yields a Step now and then, and every Epoch.

    With `save_every` also a Snapshot before the first step and after every so many. `rows` [K,K]
    is the target of every class where prior or classes decide it (`prepare.target_rows`), `soft`
    [N,K] what people said of each training example.

    recipe must be resolved. Everything random is a function of (seed, epoch), so that a state
    loaded from a checkpoint goes on as if it had never stopped. Raises LevelheadError, naming the
    step, when the loss is no longer finite.
    """
    network = state.network
    epochs, batch_size = recipe.epochs, recipe.batch_size
    assert epochs is not None
    assert batch_size is not None
    loss_function = LOSSES[recipe.loss]
    smoothing, convention = recipe.smoothing, recipe.convention
    classes = network.head.out_features
    if rows is None and (recipe.targets == "explicit" or recipe.mix != "none" or soft is not None):
        rows = targets.smooth(torch.arange(classes), classes, smoothing, convention)
    rows = None if rows is None else rows.to(train.device)
    fill = network.mean.flatten().round()
    steps_per_epoch = count(len(train), batch_size)
    steps = epochs * steps_per_epoch
    parameters = [p for o in state.optimisers for g in o.param_groups for p in g["params"]]
    if recipe.save_every is not None and state.epoch == 0:
        yield Snapshot(0)

    while state.epoch < epochs:
        began = time.perf_counter()
        network.train()
        step = state.epoch * steps_per_epoch
        # Online smoothing: half the label, half what the last epoch thought of its class.
        if state.online is not None:
            rows = targets.target_table(state.online.table, 0.5)
        totals = torch.zeros(3, dtype=torch.float64, device=train.device)
        rate = 0.0
        said = began
        for batch in training_batches(train, recipe, state.epoch, fill):
            rate = optim.set_rates(state.optimisers, recipe, step, steps)
            wanted = targets.of_batch(batch.labels, batch.index, rows, soft)
            if recipe.mix != "none":
                batch, wanted = _mixed(batch, wanted, recipe, step)
            # Dropout draws from torch's own stream: pin it to (seed, step), then put it back.
            with torch.random.fork_rng(devices=_cuda(train.device)):
                torch.manual_seed(seeded(recipe.seed, step, 1).initial_seed())
                logits = _logits(network, batch.images)
            losses = loss_function(
                logits,
                wanted,
                smoothing=smoothing if rows is None else 0.0,
                convention=convention,
                class_weights=class_weights,
                strength=recipe.strength,
                margin=recipe.margin,
            )
            if teacher is not None:
                losses = distillation(
                    losses,
                    logits,
                    teacher.logits(batch),
                    beta=recipe.beta,
                    temperature=recipe.temperature,
                    student_temperature=recipe.student_temperature,
                    match=recipe.match,
                )
            loss = losses.mean()
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            with torch.no_grad():
                nll = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
                hits = (logits.argmax(1) == batch.labels).sum()
                totals += torch.stack([losses.sum(), nll, hits]).double()
                if state.online is not None:
                    state.online.update(logits, batch.labels)
            step += 1
            # Reading the loss waits for the device: on CUDA only now and then.
            if train.device.type == "cpu" or step % 20 == 0 or step % steps_per_epoch == 0:
                if not math.isfinite(float(totals[0])):
                    raise LevelheadError(_diverged(recipe, state, step, rate))
                now = time.perf_counter()
                if now - said > 0.5:
                    said = now
                    done = step - state.epoch * steps_per_epoch
                    seen = len(train) * done / steps_per_epoch
                    left = (steps - step) * len(train) // steps_per_epoch
                    rate_now = seen / (now - began)
                    yield Step(step, steps, float(loss.detach()), rate_now, left)
            for optimiser in state.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if recipe.save_every is not None and step % recipe.save_every == 0:
                yield Snapshot(step)
        if state.online is not None:
            state.online.next()
        spent = time.perf_counter() - began
        logits, labels = logits_of(network, validation)
        validation_nll = float(torch.nn.functional.cross_entropy(logits, labels))
        if not math.isfinite(validation_nll):  # the last step may have spoilt the weights
            raise LevelheadError(_diverged(recipe, state, step, rate))
        state.epoch += 1
        state.step_seconds += spent
        state.seconds += time.perf_counter() - began
        mean = (totals / len(train)).tolist()
        yield Epoch(
            epoch=state.epoch,
            step=step,
            seconds=state.seconds,
            lr=rate,
            train_loss=mean[0],
            train_nll=mean[1],
            train_accuracy=mean[2],
            validation_nll=validation_nll,
            validation_accuracy=float((logits.argmax(1) == labels).float().mean()),
            validation_confidence=float(logits.softmax(1).amax(1).mean()),
            images_per_second=len(train) / spent,
        )


@torch.no_grad()
def logits_of(network: Network, split: Store) -> tuple[Tensor, Tensor]:
    """Logits [N,K] and labels [N] in evaluation mode, in the network's present precision."""
    network.eval()
    batches = plain_batches(split, JUDGING_BATCH)
    pairs = [(network(batch.images), batch.labels) for batch in batches]
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def _mixed(batch: Batch, wanted: Targets, recipe: Recipe, step: int) -> tuple[Batch, Targets]:
    """A batch mixed with itself in another order; its labels are then those of the larger share."""
    assert recipe.mix_alpha is not None
    assert wanted.soft is not None
    rng = np.random.default_rng(seeded(recipe.seed, step, 2).initial_seed())
    partner = torch.from_numpy(rng.permutation(len(batch.labels))).to(batch.labels.device)
    images, share = augment.mixed(batch.images, partner, recipe.mix, recipe.mix_alpha, rng)
    labels = batch.labels if share >= 0.5 else batch.labels[partner]
    soft = targets.mix(wanted.soft, wanted.soft[partner], share)
    return dataclasses.replace(batch, images=images, labels=labels), Targets(labels, soft)


def _logits(network: Network, images: Tensor) -> Tensor:
    """Logits of a training batch; a batch too small for batch norm is said, not raised by torch."""
    try:
        return cast(Tensor, network(images))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LevelheadError(
            "--batch-size: leaves a batch of one picture, which batch norm cannot take; "
            "give a larger one"
        ) from None


def _cuda(device: torch.device) -> list[Any]:
    return [device] if device.type == "cuda" else []


def _diverged(recipe: Recipe, state: State, step: int, rate: float) -> str:
    mends = [f"--lr {(recipe.lr or 1) / 3:.3g}"]
    if recipe.clip_norm is None:
        mends.append("--clip-norm 1")
    if recipe.precision == "bfloat16":
        mends.append("--precision float32")
    kept = f"; the checkpoint of epoch {state.epoch} is kept" if state.epoch else ""
    return (
        f"the loss is no longer finite at step {step} (learning rate {rate:.3g}); "
        f"train anew with {', '.join(mends)}{kept}"
    )
