"""The training loop, on one screen: `fit` yields what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from levelhead.data.batches import Batch, judging_size, plain_batches, seeded
from levelhead.errors import LevelheadError
from levelhead.models import Network
from levelhead.models.network import Classifier
from levelhead.recipe import Recipe
from levelhead.targets import UNLABELLED
from levelhead.training import optim
from levelhead.training.checkpoint import State
from levelhead.training.events import Epoch, Snapshot, Step
from levelhead.training.objective import Objective
from levelhead.training.regime import Regime

JUDGING_BATCH = 1000


class Held(Protocol):
    """What is judged after each epoch: logits [B,K] and labels [B], in evaluation mode, in pieces.

    A piece is let go before the next one is made.
    """

    def pieces(self, network: Any) -> Iterable[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class HeldImages:
    """The images of a split, as one piece."""

    split: Batch

    def pieces(self, network: Network) -> Iterable[tuple[Tensor, Tensor]]:
        """Their logits and labels."""
        yield logits_of(network, self.split)


class Batches(Protocol):
    """Where batches come from: so many steps and examples an epoch, a function of the epoch."""

    @property
    def examples(self) -> int: ...

    def __len__(self) -> int: ...

    def __call__(self, epoch: int) -> Iterable[Any]: ...


def start(
    network: Network, train: Batch, recipe: Recipe, objective: Objective, device: torch.device
) -> State:
    """A network about to be trained: on its device, in its precision, its first layer whitened."""
    network.place(device)
    network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    if (first_look := network.hooks.start) is not None:
        order = torch.randperm(len(train), generator=seeded(recipe.seed, -2))[:5000]
        images = train.images[order.to(train.images.device)].to(device)
        first_look(network.body, (images.float() - network.mean) / network.std)
    return State(network, optim.optimisers(network, recipe), objective.place(device))


def fit(
    state: State, batches: Batches, validation: Batch | Held, recipe: Regime
) -> Iterator[Step | Snapshot | Epoch]:
    """Train in place, from `state.epoch` on; yields a Step now and then, and every Epoch.

    With `save_every` also a Snapshot before the first step and after every so many. recipe must be
    resolved: its lengths, rates and seed are used. Everything random is a function of (seed,
    epoch) or (seed, step), so that a state loaded from a checkpoint goes on as if it had never
    stopped. Raises LevelheadError, naming the step, when the loss is no longer finite.
    """
    network, objective = state.network, state.objective
    held: Held = HeldImages(validation) if isinstance(validation, Batch) else validation
    assert recipe.epochs is not None
    steps = recipe.epochs * len(batches)
    parameters = [p for o in state.optimisers for g in o.param_groups for p in g["params"]]
    if recipe.save_every is not None and state.epoch == 0:
        yield Snapshot(0)

    while state.epoch < recipe.epochs:
        network.train()
        objective.start_epoch()
        tally = _Tally(batches, state, recipe, steps)
        for batch in batches(state.epoch):
            tally.rate = optim.set_rates(state.optimisers, recipe, tally.step, steps)
            batch = objective.batch(batch, tally.step)  # targets; mixed with itself
            logits, auxiliary = _logits(network, batch.inputs, recipe.seed, tally.step)
            losses = objective(logits, batch, auxiliary)
            loss = losses.mean()
            loss.backward()
            if recipe.l1:
                optim.add_l1(state.network, recipe.l1)
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            yield from tally.add(losses, logits, batch.labels)  # refuses a loss that is not finite
            for optimiser in state.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if recipe.save_every is not None and tally.step % recipe.save_every == 0:
                yield Snapshot(tally.step)
        objective.end_epoch()
        tally.stop()
        yield tally.end_epoch(held.pieces(network))


class _Tally:
    """The sums of one epoch, and its clock."""

    def __init__(self, batches: Batches, state: State, recipe: Regime, steps: int) -> None:
        self.state, self.recipe, self.steps = state, recipe, steps
        self.examples, self.per_epoch = batches.examples, len(batches)
        self.device = state.network.device
        self.first = self.step = state.epoch * self.per_epoch
        self.sums = torch.zeros(
            4, dtype=torch.float64, device=self.device
        )  # loss, NLL, hits, labels
        self.rate = 0.0
        self.began = self.last_event = time.perf_counter()
        self.spent = 0.0

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> Iterator[Step]:
        """Count a step; yields where training stands, twice a second.

        Reading the loss waits for the device: on CUDA only now and then.
        """
        nll = torch.nn.functional.cross_entropy(
            logits, labels, reduction="sum", ignore_index=UNLABELLED
        )
        hits, labelled = (logits.argmax(1) == labels).sum(), (labels != UNLABELLED).sum()
        self.sums += torch.stack([losses.sum(), nll, hits, labelled]).double()
        self.step += 1
        done = self.step - self.first
        if self.device.type != "cpu" and self.step % 20 and done != self.per_epoch:
            return
        if not math.isfinite(float(self.sums[0])):
            raise LevelheadError(_diverged(self.recipe, self.state, self.step, self.rate))
        now = time.perf_counter()
        if now - self.last_event > 0.5:
            self.last_event = now
            left = (self.steps - self.step) * self.examples // self.per_epoch
            speed = self.examples * done / self.per_epoch / (now - self.began)
            yield Step(self.step, self.steps, float(losses.mean()), speed, left)

    def stop(self) -> None:
        """The steps are done; what follows is judging."""
        self.spent = time.perf_counter() - self.began

    @torch.no_grad()
    def end_epoch(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> Epoch:
        """The epoch's row of history.csv, from logits [B,K] and labels of validation; counts it."""
        state, total, count = self.state, [0.0, 0.0, 0.0], 0
        for scores, labels in pieces:
            nll = torch.nn.functional.cross_entropy(scores, labels)
            if not math.isfinite(float(nll)):  # the last step may have spoilt the weights
                raise LevelheadError(_diverged(self.recipe, state, self.step, self.rate))
            hits = (scores.argmax(1) == labels).float().mean()
            sure = scores.softmax(1).amax(1).mean()
            total = [
                t + len(labels) * float(m) for t, m in zip(total, (nll, hits, sure), strict=True)
            ]
            count += len(labels)
        validation_nll, validation_accuracy, validation_confidence = (t / count for t in total)
        state.epoch += 1
        state.step_seconds += self.spent
        state.seconds += time.perf_counter() - self.began
        loss, nll, hits, labelled = self.sums.tolist()
        return Epoch(
            epoch=state.epoch,
            step=self.step,
            seconds=state.seconds,
            lr=self.rate,
            train_loss=loss / self.examples,
            train_nll=nll / max(labelled, 1),
            train_accuracy=hits / max(labelled, 1),
            validation_nll=validation_nll,
            validation_accuracy=validation_accuracy,
            validation_confidence=validation_confidence,
            images_per_second=self.examples / self.spent,
        )


@torch.no_grad()
def logits_of(network: Network, split: Batch) -> tuple[Tensor, Tensor]:
    """Logits [N,K] and labels [N] in evaluation mode, in the network's present precision."""
    network.eval()
    size = judging_size(JUDGING_BATCH, split.images)
    batches = plain_batches(split, size, network.device)
    pairs = [(network(batch.images), batch.labels) for batch in batches]
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def _logits(network: Classifier, inputs: Any, seed: int, step: int) -> tuple[Tensor, list[Tensor]]:
    """Logits of a training batch, its own and the auxiliary heads'.

    A batch too small for batch norm gets an error of ours. Dropout draws from torch's own stream:
    it is pinned to (seed, step), then put back.
    """
    cuda: list[Any] = [network.device] if network.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seeded(seed, step, 1).initial_seed())
            return network.training_logits(inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LevelheadError(
            "--batch-size: leaves a batch of one image, which batch norm cannot take; "
            "give a larger one"
        ) from None


def _diverged(recipe: Regime, state: State, step: int, rate: float) -> str:
    fixes = [f"--lr {(recipe.lr or 1) / 3:.3g}"]
    if recipe.clip_norm is None:
        fixes.append("--clip-norm 1")
    if recipe.precision == "bfloat16":
        fixes.append("--precision float32")
    kept = f"; the checkpoint of epoch {state.epoch} is kept" if state.epoch else ""
    return (
        f"the loss is no longer finite at step {step} (learning rate {rate:.3g}); "
        f"train anew with {', '.join(fixes)}{kept}"
    )
