"""The training loop: `fit` yields what happens, `train` turns a recipe into a run folder."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from levelhead import augment, machine, optim, targets
from levelhead.batches import Batch, Store, count, plain_batches, seeded, store, training_batches
from levelhead.calibrators import CALIBRATORS
from levelhead.distill import Teacher, distillation, load_teacher, warning
from levelhead.errors import LevelheadError
from levelhead.findings import run_findings
from levelhead.frozen import fit_head, frozen_features
from levelhead.losses import LOSSES
from levelhead.machine import pick_device, tune_malloc
from levelhead.models import Network, Shape, build
from levelhead.predict import outputs_of
from levelhead.prepare import Data, falsified, prepare, target_rows
from levelhead.recipe import Recipe
from levelhead.resolve import choices, frozen
from levelhead.runs import Run, new_folder, open_run, write, write_json, write_rows, write_splits
from levelhead.targets import OnlineTable, Targets

JUDGING_BATCH = 1000


@dataclass(frozen=True)
class Note:
    """Something to say aloud: a choice made, a warning about the data."""

    text: str


@dataclass(frozen=True)
class Progress:
    """How far a slow stage outside the loop is: `what` is a word or two."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """Within an epoch, twice a second: where training stands; `images_left` counts all epochs."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    images_left: int


@dataclass(frozen=True)
class Epoch:
    """After one epoch: a row of history.csv.

    `train_loss` is what was minimised (on augmented batches, as they came); `train_nll` and
    `train_accuracy` are plain, on the same batches, of mixed pictures against the label of the
    larger share; validation is plain and in evaluation mode. A mean confidence (top probability)
    above the accuracy is over-confident.
    `seconds` counts from the start of training, with validation; `images_per_second` without.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    train_nll: float
    train_accuracy: float
    validation_nll: float
    validation_accuracy: float
    validation_confidence: float
    images_per_second: float


@dataclass(frozen=True)
class Snapshot:
    """The network stands as it is after `step` steps, for whoever keeps it (`save_every`)."""

    step: int


Event = Note | Progress | Step | Snapshot | Epoch


@dataclass
class State:
    """What training carries from epoch to epoch, and what a checkpoint holds."""

    network: Network
    optimisers: list[torch.optim.Optimizer]
    online: OnlineTable | None = None
    epoch: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0


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


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    data: Data | None = None,
    report: bool = True,
    watch: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Train, judge and report: a recipe becomes a run folder (default: the next runs/NAME-N).

    `data` of an earlier recipe is used again where it fits; `report` False leaves report.html to
    `levelhead report`; `watch` is told every Note, Progress, Step and Epoch. On Linux glibc's
    malloc is tuned for the whole process (`machine.tune_malloc`).
    Raises LevelheadError for bad input, and for a loss that is no longer finite.
    """
    tune_malloc()
    recipe, data = prepare(recipe, known=data, progress=_tell(watch, "reading pictures"))
    data = falsified(recipe, data)
    network = untrained(recipe, data)  # what cannot be built must not leave a folder behind
    folder = new_folder(out, data.name)
    write(folder / "recipe.toml", recipe.to_toml())
    return _carry_out(Run(folder), network, recipe, data, report, watch)


def resume(
    folder: str | Path,
    *,
    data: Data | None = None,
    report: bool = True,
    watch: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Go on with a run that was stopped; a finished run is returned as it is.

    The end is bit for bit that of an uninterrupted run (same machine, CPU). Raises LevelheadError
    if the data is no longer what the run was started on.
    """
    run = open_run(folder)
    if run.finished:
        if report and not (run.folder / "report.html").exists():  # killed while writing it
            _report(run)
        return run
    tune_malloc()
    recipe, data = prepare(run.recipe, known=data, progress=_tell(watch, "reading pictures"))
    if (run.folder / "data.json").exists():
        for split, hash_ in run.data["hashes"].items():
            if data.splits.hashes[split] != hash_:
                raise LevelheadError(
                    f"{run.folder}: the {split} pictures of {recipe.data} are no longer those it "
                    "was started on; restore them, or train anew into another --out"
                )
    data = falsified(recipe, data)
    return _carry_out(run, untrained(recipe, data), recipe, data, report, watch)


def untrained(recipe: Recipe, data: Data) -> Network:
    """The network of a resolved recipe with its first weights.

    Raises LevelheadError as `build` and `target_rows` do.
    """
    classes = len(data.splits.class_names)
    targets.check_smoothing(recipe.smoothing, classes, recipe.convention)
    target_rows(recipe, data)
    return build(
        recipe.model,
        Shape(
            data.channels,
            data.splits.train.images.shape[1],
            classes,
            recipe.width,
            recipe.dropout,
        ),
        mean=data.mean,
        std=data.std,
        pretrained=recipe.pretrained,
        seed=recipe.seed,
    )


def _carry_out(
    run: Run,
    network: Network,
    recipe: Recipe,
    data: Data,
    report: bool,
    watch: Callable[[Event], None],
) -> Run:
    """Train (from the checkpoint, if any), then write everything else of the run folder."""
    device = pick_device(recipe.device)
    splits, folder = data.splits, run.folder
    for note in (*splits.notes, choices(recipe, len(splits.train))):
        watch(Note(note))
    counts = {name: len(getattr(splits, name)) for name in splits.hashes}
    write_json(
        folder / "data.json",
        {
            "name": data.name,
            "source": data.source,
            "fingerprint": splits.fingerprint,
            "class_names": splits.class_names,
            "channels": data.channels,
            "image_size": splits.train.images.shape[1],
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
            "counts": counts,
            "hashes": splits.hashes,
            "notes": splits.notes,
            "skipped": splits.skipped,
        },
    )
    write_splits(folder / "splits.csv", splits)
    environment = {**machine.environment(device), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    write_json(folder / "environment.json", environment)
    weights = class_weights(recipe, torch.from_numpy(splits.train.labels), len(splits.class_names))
    known: dict[str, Tensor] = {}
    if frozen(recipe):
        seconds, rate, known = _train_head(run, network, recipe, data, device, weights, watch)
    else:
        seconds, rate = _train_whole(run, network, recipe, data, device, weights, watch)

    outputs = {
        name: outputs_of(
            network,
            getattr(splits, name),
            splits.class_names,
            device,
            tta=recipe.tta,
            features=known.get(name),
            split=name,
            split_hash=splits.hashes[name],
        )
        for name in ("validation", "test")
    }
    if data.soft_validation is not None:
        outputs["validation"] = outputs["validation"].with_people(data.soft_validation)
    for name, made in outputs.items():
        made.save(run.path_of(name))
    calibrator = CALIBRATORS["temperature"].fit_on(outputs["validation"])
    write_json(folder / "calibration.json", calibrator.to_json())
    environment |= {
        "seconds": round(seconds, 3),
        "images_per_second": round(rate, 1) if math.isfinite(rate) else None,
        "peak_memory_bytes": machine.peak_memory(),
    }
    write_json(folder / "environment.json", environment)
    found = run_findings(
        outputs["validation"],
        outputs["test"],
        calibrator,
        seconds=seconds,
        images_per_second=rate,
        counts=counts,
    )
    write_json(folder / "findings.json", found)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    if report:
        _report(run)
    return run


def _report(run: Run) -> None:
    from levelhead.report import write_report

    write_report(run.folder)


def _train_whole(
    run: Run,
    network: Network,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    weights: Tensor | None,
    watch: Callable[[Event], None],
) -> tuple[float, float]:
    """`fit`, with a checkpoint and history.csv after every epoch; seconds and images a second."""
    split = store(data.splits.train, device)
    held = store(data.splits.validation, device)
    state = start(network, split, recipe)
    history = load_checkpoint(run.folder, state)
    if history:
        watch(Note(f"Going on after epoch {state.epoch} of {recipe.epochs}."))
    weights = None if weights is None else weights.to(device)
    teacher = None
    if recipe.teacher is not None:
        teacher = load_teacher(recipe, data.splits, device)
        if (careful := warning(recipe)) is not None:
            watch(Note(careful))
    told = {"rows": target_rows(recipe, data), "soft": data.soft}
    for event in fit(state, split, held, recipe, class_weights=weights, teacher=teacher, **told):
        if isinstance(event, Snapshot):
            write(run.snapshot(event.step), save(_state(network)))
        elif isinstance(event, Epoch):
            history.append(event)
            save_checkpoint(run.folder, state, history)
            write_rows(run.folder / "history.csv", history)
        watch(event)
    if teacher is not None:
        gamma = {"smoothness_index": teacher.gamma, "examples_seen": teacher.seen}
        write_json(run.folder / "distillation.json", gamma)
    write(run.folder / "model.safetensors", save(_state(network)))
    write_rows(run.folder / "history.csv", history)
    return state.seconds, len(split) * state.epoch / max(state.step_seconds, 1e-9)


def _train_head(
    run: Run,
    network: Network,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    weights: Tensor | None,
    watch: Callable[[Event], None],
) -> tuple[float, float, dict[str, Tensor]]:
    """Features of the frozen body, once; then the head. Also returns the features by split."""
    began = time.perf_counter()
    network.place(device)
    total = sum(len(getattr(data.splits, name)) for name in data.splits.hashes)
    known: dict[str, Tensor] = {}
    done = 0
    told = [0, 0, 0]  # pictures whose features were computed, not taken from the cache
    for place, name in enumerate(("train", "validation", "test")):

        def tell(part: int, _: int, before: int = done, place: int = place) -> None:
            told[place] = part
            watch(Progress("features", before + part, total))

        key = f"{recipe.model} {recipe.image_size} {recipe.resize}"
        part = getattr(data.splits, name)
        known[name] = frozen_features(network, part, key, device, recipe.tta, tell)
        done += len(part)
    features_in, computed = time.perf_counter() - began, sum(told)
    labels = torch.from_numpy(data.splits.train.labels)
    network.head.cpu()
    trials = fit_head(
        network.head,
        known["train"],
        labels,
        recipe,
        weights,
        rows=target_rows(recipe, data),
        soft=data.soft,
    )
    network.to(device)
    write(run.folder / "model.safetensors", save(_state(network)))
    write_rows(run.folder / "history.csv", trials)
    if trials:
        best = min(trials, key=lambda trial: trial.fold_nll)
        watch(Note(f"Penalty of the head, chosen on training folds: {best.penalty:.3g}."))
    rate = computed / max(features_in, 1e-9) if computed else math.nan
    return time.perf_counter() - began, rate, known


def class_weights(recipe: Recipe, labels: Tensor, classes: int) -> Tensor | None:
    """`balanced`: N / (K · N_k), float32 [K], so that the mean weight of the examples is one."""
    if recipe.class_weights == "none":
        return None
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.float())


def save_checkpoint(folder: Path, state: State, history: list[Epoch]) -> None:
    """Everything needed to go on, in one file that replaces the last one whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in _state(state.network).items()}
    tensors |= {
        name: tensor.contiguous() for name, tensor in optim.state_tensors(state.optimisers).items()
    }
    if state.online is not None:
        tensors |= {"online.sums": state.online.sums, "online.table": state.online.table}
    told = {
        "epoch": state.epoch,
        "seconds": state.seconds,
        "step_seconds": state.step_seconds,
        "history": [dataclasses.asdict(row) for row in history],
    }
    content = save(tensors, metadata={"levelhead": json.dumps(told)})
    write(folder / "checkpoint" / "last.safetensors", content)


def load_checkpoint(folder: Path, state: State) -> list[Epoch]:
    """Put the last checkpoint, if there is one, into `state`; returns the history so far."""
    path = folder / "checkpoint" / "last.safetensors"
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["levelhead"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model = {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
        state.network.load_state_dict(model)
        optim.load_state_tensors(state.optimisers, tensors)
        if state.online is not None:
            state.online.sums.copy_(tensors["online.sums"])
            state.online.table.copy_(tensors["online.table"])
        state.epoch = told["epoch"]
        state.seconds, state.step_seconds = told["seconds"], told["step_seconds"]
        return [Epoch(**row) for row in told["history"]]
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise LevelheadError(
            f"{path}: not a checkpoint of this run ({reason}); delete it to train from the start"
        ) from None


def _state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}


def _tell(
    watch: Callable[[Event], None], what: str, before: int = 0, total: int | None = None
) -> Callable[[int, int], None]:
    return lambda done, all_: watch(Progress(what, before + done, total or all_))
