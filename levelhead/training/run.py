"""From a recipe to a run folder: `train`, and `resume` for one that was stopped."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from levelhead import machine, targets
from levelhead.calibrators import CALIBRATORS
from levelhead.data.batches import (
    store,
)
from levelhead.errors import LevelheadError
from levelhead.files import write, write_json, write_rows
from levelhead.judging import run_findings
from levelhead.machine import pick_device, tune_malloc
from levelhead.models import Network, Shape, build
from levelhead.recipe import Recipe
from levelhead.runs import Run, new_folder, open_run, write_splits
from levelhead.training.checkpoint import load_checkpoint, save_checkpoint, state_of
from levelhead.training.defaults import choices, frozen
from levelhead.training.distillation import load_teacher, warning
from levelhead.training.events import Epoch, Event, Note, Progress, Snapshot
from levelhead.training.frozen import fit_head, frozen_features
from levelhead.training.inference import outputs_of
from levelhead.training.loop import fit, start
from levelhead.training.prepare import Data, falsified, prepare, target_rows


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
            write(run.snapshot(event.step), save(state_of(network)))
        elif isinstance(event, Epoch):
            history.append(event)
            save_checkpoint(run.folder, state, history)
            write_rows(run.folder / "history.csv", history)
        watch(event)
    if teacher is not None:
        gamma = {"smoothness_index": teacher.gamma, "examples_seen": teacher.seen}
        write_json(run.folder / "distillation.json", gamma)
    write(run.folder / "model.safetensors", save(state_of(network)))
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
    write(run.folder / "model.safetensors", save(state_of(network)))
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


def _tell(
    watch: Callable[[Event], None], what: str, before: int = 0, total: int | None = None
) -> Callable[[int, int], None]:
    return lambda done, all_: watch(Progress(what, before + done, total or all_))
