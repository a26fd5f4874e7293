"""From a recipe to a run folder: `train`, and `resume` for one that was stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from levelhead import machine
from levelhead.calibrators import CALIBRATORS
from levelhead.data import Listing
from levelhead.data.batches import Batch, as_batch
from levelhead.data.entries import ORDER, Dataset
from levelhead.decisions.unknown import Reference
from levelhead.errors import CannotWrite, LevelheadError
from levelhead.files import clean, locked, reading, sha256, write, write_json, write_rows
from levelhead.judging import run_findings
from levelhead.judging.setting import set_policy
from levelhead.machine import pick_device, tune_malloc
from levelhead.models import Network, build
from levelhead.models.entry import SMALL
from levelhead.models.initialise import initialise
from levelhead.models.weights import start_from
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import MAKE_ANEW, Run, new_folder, open_run, shape_of, write_splits
from levelhead.training import board, prior, tuning
from levelhead.training.augmentation import batches_of, check_moves, views_of
from levelhead.training.checkpoint import State, load_checkpoint, state_of
from levelhead.training.course import course, tidy
from levelhead.training.defaults import choices, entry_of, frozen, tuned
from levelhead.training.distillation import load_teacher, warning
from levelhead.training.events import Epoch, Event, Note, Progress, Snapshot
from levelhead.training.frozen import features_key, fit_head, frozen_features
from levelhead.training.inference import outputs_of
from levelhead.training.loop import Batches, start
from levelhead.training.objective import Objective
from levelhead.training.prepare import prepare, relabelled


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    data: Dataset | Listing | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Train and judge: a recipe becomes a run folder (default: the next runs/NAME-N).

    `levelhead.write_report(run.folder)` makes its page. `data` is from memory (`data.from_arrays`),
    or that of an earlier recipe, which is used again where it fits; `watch` gets every Note,
    Progress, Step and Epoch. On Linux glibc's malloc is tuned for the whole process
    (`machine.tune_malloc`).
    Raises LevelheadError for bad input, and for a loss that is no longer finite.
    """
    tune_malloc()
    recipe, read = prepare(recipe, known=data, progress=_tell(watch, "reading images"))
    read = relabelled(recipe, read)
    # What cannot be built must not leave a folder behind.
    network = untrained(recipe, read, lambda account: watch(Note(account)))
    objective = objective_of(recipe, read)
    check_moves(recipe, read)
    if recipe.tensorboard:
        board.require()
    folder = new_folder(out, read.listing.name)
    with locked(folder, "run"):
        write(folder / "recipe.toml", recipe.to_toml())
        return _carry_out(Run(folder), network, objective, recipe, read, watch)


def resume(
    folder: str | Path,
    *,
    data: Dataset | Listing | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Go on with a run that was stopped; a finished run is returned as it is.

    The end is bit for bit that of an uninterrupted run (same machine, CPU). Raises LevelheadError
    if the data is no longer what the run was started on.
    """
    run = open_run(folder)
    if run.finished:
        # It may have been killed on the last step, or while it wrote its page.
        with suppress(LevelheadError, OSError), locked(run.folder, "run"):
            tidy(run.folder)
        return run
    tune_malloc()
    with locked(run.folder, "run"):
        clean(run.folder)
        recipe, read = prepare(run.recipe, known=data, progress=_tell(watch, "reading images"))
        if (run.folder / "data.json").exists():
            _refuse_changes(run, recipe, read)
        read = relabelled(recipe, read)
        network, objective = untrained(recipe, read), objective_of(recipe, read)
        return _carry_out(run, network, objective, recipe, read, watch)


def _refuse_changes(run: Run, recipe: Recipe, read: Dataset) -> None:
    """Raise LevelheadError where images or files are no longer those the run was started on."""
    with reading(run.folder / "data.json", MAKE_ANEW):
        kept = run.data
        hashes, inputs = dict(kept["hashes"]), dict(kept.get("inputs") or {})
    for split, hash_ in hashes.items():
        if read.hashes.get(split) != hash_:
            raise LevelheadError(
                f"{run.folder}: the {split} images of {recipe.data} are no longer those it "
                "was started on; restore them, or train anew into another --out"
            )
    now = inputs_of(recipe)
    for flag, hash_ in inputs.items():
        if now.get(flag) != hash_:
            raise LevelheadError(
                f"{run.folder}: the file of {flag} is no longer the one it was started with; "
                "restore it, or train anew into another --out"
            )


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """Hashes of the files besides the images that decide a training, by flag."""
    files: dict[str, list[Path]] = {}
    if recipe.labels is not None:
        path = Path(recipe.labels)
        files["--labels"] = [path if path.is_file() else Path(recipe.labels.rpartition(":")[0])]
    if recipe.prior not in (None, "frequency"):
        files["--prior"] = [Path(str(recipe.prior))]
    for flag, given in (
        ("--smoothing-by-class", recipe.smoothing_by_class),
        ("--augment-by-class", recipe.augment_by_class),
    ):
        if given is not None:
            files[flag] = [Path(given)]
    if recipe.weights is not None:
        files["--weights"] = [Path(recipe.weights)]
    if recipe.teacher is not None:
        path = Path(recipe.teacher)
        inside = [path / name for name in ("recipe.toml", "data.json", "model.safetensors")]
        files["--teacher"] = inside if path.is_dir() else [path]
    hashes = {}
    for flag, paths in files.items():
        with reading(paths[0], "check the path"):
            hashes[flag] = hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()
    return hashes


def untrained(
    recipe: Recipe, data: Dataset, tell: Callable[[str], None] = lambda account: None
) -> Network:
    """The network of a resolved recipe with its first weights.

    `tell` gets the account of a file's weights. Raises LevelheadError as `build` does, and for
    weights of another network.
    """
    size = data.train.images.shape[1]
    assert data.mean is not None
    assert data.std is not None
    network = build(
        recipe.model,
        shape_of(recipe, data.listing.channels, size, len(data.class_names)),
        mean=torch.from_numpy(data.mean),
        std=torch.from_numpy(data.std),
        pretrained=recipe.pretrained,
        tuned=bool(recipe.finetune),
        seed=recipe.seed,
    )
    prior.refuse_without_bias(network, recipe)
    if recipe.init != "own":
        initialise(network, recipe.init, recipe.seed)
    if recipe.weights is not None:
        entry = entry_of(recipe)
        published = (entry.larger or entry).published
        statistics = published() if size > SMALL else None
        matched = start_from(network, Path(recipe.weights), statistics)
        least = LEAST_MATCHED if recipe.finetune else 1.0
        if matched.share < least:
            fix = "give that network's file, or name the file's network with --model"
            raise LevelheadError(
                f"--weights {recipe.weights}: not of {recipe.model} at {size} px: "
                f"{matched.words}; {fix}"
            )
        tell(f"Weights of {Path(recipe.weights).name}: {matched.words}.")
    return network


LEAST_MATCHED = 0.5
"""Share of a network's numbers that a file must have for --finetune; a frozen body needs all."""


def objective_of(recipe: Recipe, data: Dataset) -> Objective:
    """What a resolved recipe asks for on its (relabelled) data. Raises as `Objective.of` does."""
    train = data.train
    votes = None if train.votes is None else torch.from_numpy(train.votes)
    return Objective.of(recipe, torch.from_numpy(train.labels), data.class_names, votes)


def _carry_out(run: Run, *rest: Any) -> Run:
    """`_finish`; where a file cannot be written, the run can go on later."""
    try:
        return _finish(run, *rest)
    except CannotWrite as error:
        raise LevelheadError(
            f"{error.what}; {error.fix}, then levelhead resume {run.folder} goes on where "
            "training stopped"
        ) from None


def _finish(
    run: Run,
    network: Network,
    objective: Objective,
    recipe: Recipe,
    data: Dataset,
    watch: Callable[[Event], None],
) -> Run:
    """Train (from the checkpoint, if any), then write everything else of the run folder."""
    device = pick_device(recipe.device)
    folder = run.folder
    counts = {name: len(part) for name, part in data.splits.items()}
    balance = prior.words(recipe, torch.from_numpy(data.train.labels), data.class_names)
    notes = [*data.notes, *([balance] if balance else [])]
    for note in (*data.listing.roles, *notes, choices(recipe, len(data.train))):
        watch(Note(note))
    write_json(
        folder / "data.json",
        {
            "name": data.listing.name,
            "source": data.listing.source,
            "fingerprint": data.fingerprint,
            "class_names": data.class_names,
            "channels": data.listing.channels,
            "bits": data.listing.bits,
            "image_size": data.train.images.shape[1],
            **({"superclasses": data.superclasses} if data.superclasses else {}),
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
            "counts": counts,
            "hashes": data.hashes,
            "inputs": inputs_of(recipe),
            "own_validation": "validation" in data.listing.splits,
            "roles": data.listing.roles,
            "notes": notes,
            "skipped": data.skipped,
        },
    )
    write_splits(folder / "splits.csv", data)
    environment = {**machine.environment(device), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    write_json(folder / "environment.json", environment)
    known: dict[str, Tensor] = {}
    if frozen(recipe):
        seconds, rate, known = _train_head(run, network, objective, recipe, data, device, watch)
    elif recipe.finetune:
        seconds, rate, known = _tune(run, network, objective, recipe, data, device, watch)
    else:
        seconds, rate = _train_whole(run, network, objective, recipe, data, device, watch)

    if recipe.prior_correction:
        prior.correct(network, recipe, torch.from_numpy(data.train.labels))
    write(folder / "model.safetensors", save(state_of(network)))
    views = views_of(recipe, network)
    outputs = {
        name: outputs_of(
            network,
            data.splits[name],
            data.class_names,
            device,
            views=views,
            features=known.get(name),
            split=name,
            split_hash=data.hashes[name],
        )
        for name in ("validation", "test")
    }
    if data.superclasses:
        outputs = {
            name: dataclasses.replace(made, superclasses=data.superclasses)
            for name, made in outputs.items()
        }
    if (votes := data.validation.votes) is not None:
        outputs["validation"] = outputs["validation"].with_people(torch.from_numpy(votes))
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
    reference = None
    if "train" in known:  # of a body that stood still: its features tell other images apart
        labels = torch.from_numpy(data.train.labels)
        reference = Reference.of(known["train"], labels, len(data.class_names))
    policy = set_policy(
        outputs["validation"], reference=reference, model=sha256(folder / "model.safetensors")
    )
    policy.save(folder)
    findings = run_findings(
        outputs["validation"],
        outputs["test"],
        calibrator,
        seconds=seconds,
        images_per_second=rate,
        counts=counts,
        policy=policy,
    )
    if recipe.tensorboard:
        board.add_results(folder, run, outputs, findings)
    write_json(folder / "findings.json", findings)
    tidy(folder)
    return run


def _train_whole(
    run: Run,
    network: Network,
    objective: Objective,
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    watch: Callable[[Event], None],
) -> tuple[float, float]:
    """`fit`, with a checkpoint and history.csv after every epoch; seconds and images a second."""
    split, validation = as_batch(data.train, device), as_batch(data.validation, device)
    if recipe.teacher is not None:
        objective.teacher = load_teacher(recipe, data, device)
        if (careful := warning(recipe)) is not None:
            watch(Note(careful))
    state = start(network, split, recipe, objective, device)
    mean = network.mean.flatten().round()
    batches = batches_of(split, recipe, device, mean, data.class_names)
    _course(run, lambda: state_of(network), state, batches, validation, recipe, watch)
    if (teacher := objective.teacher) is not None:
        gamma = {"smoothness_index": teacher.gamma, "examples_seen": teacher.seen}
        write_json(run.folder / "distillation.json", gamma)
    return state.seconds, len(split) * state.epoch / max(state.step_seconds, 1e-9)


def _course(
    run: Run,
    whole: Callable[[], dict[str, Tensor]],
    state: State,
    batches: Batches,
    validation: Batch,
    recipe: Recipe,
    watch: Callable[[Event], None],
) -> None:
    """`fit` from the last checkpoint to the end; keeps checkpoints, history and snapshots.

    `whole()` is what snapshots hold: the tensors of a network of which `state.network` may be a
    part.
    """
    history = load_checkpoint(run.folder, state)
    scalars = board.scalars(run.folder, state.epoch) if recipe.tensorboard else None
    if history:
        watch(Note(f"Going on after epoch {state.epoch} of {recipe.epochs}."))
    for event in course(run.folder, state, history, batches, validation, recipe):
        if isinstance(event, Snapshot):
            write(run.snapshot(event.step), save(whole()))
        elif isinstance(event, Epoch) and scalars is not None:
            scalars(event)
        watch(event)


def _tune(
    run: Run,
    network: Network,
    objective: Objective,
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    watch: Callable[[Event], None],
) -> tuple[float, float, dict[str, Tensor]]:
    """From the best head on: the last blocks on maps, or the whole body on images (`tuning`).

    Returns also the features of train of blocks that stood still, where there are some.
    """
    began = time.perf_counter()
    network.place(device)
    split = as_batch(data.train, device)
    mean = network.mean.flatten().round()
    batches = batches_of(split, recipe, device, mean, data.class_names)
    tell = _tell(watch, "features")
    learner = tuning.learner_of(network, recipe, data, batches, tell)
    labels, head = torch.from_numpy(data.train.labels), learner.network.head.cpu()
    fit_head(head, learner.features, labels, objective, recipe.penalty, recipe.seed)
    learner.network.place(device)

    def whole() -> dict[str, Tensor]:
        tuning.join_head(network, learner.network)
        return state_of(network)

    def judged() -> Outputs:
        return outputs_of(network, data.validation, data.class_names, device, views=views)

    views = views_of(recipe, network)
    first = {name: tensor.clone() for name, tensor in whole().items()}
    before = judged()
    state = start(learner.network, learner.validation, recipe, objective, device)
    state.seconds = time.perf_counter() - began
    _course(run, whole, state, learner.batches, learner.validation, recipe, watch)
    tuning.join_head(network, learner.network)
    comparison = tuning.compared(before, judged())
    watch(Note(comparison.words))
    write_json(run.folder / "tuning.json", comparison.to_json())
    if not comparison.tuned_is_kept:
        network.load_state_dict(first)
    stands_still = tuned(recipe) or not comparison.tuned_is_kept
    known = {"train": learner.features} if stands_still else {}
    return state.seconds, len(split) * state.epoch / max(state.step_seconds, 1e-9), known


def _train_head(
    run: Run,
    network: Network,
    objective: Objective,
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    watch: Callable[[Event], None],
) -> tuple[float, float, dict[str, Tensor]]:
    """Features of the frozen body, once; then the head. Also returns the features by split."""
    began = time.perf_counter()
    network.place(device)
    computed = 0  # images whose features were made, not taken from the cache

    def tell(done: int, total: int) -> None:
        nonlocal computed
        computed = done
        watch(Progress("features", done, total))

    parts = {name: data.splits[name] for name in ORDER}
    key = features_key(recipe)
    known = frozen_features(
        network, parts, key, device, views_of(recipe, network), tell, cached=recipe.cache
    )
    features_in = time.perf_counter() - began
    labels = torch.from_numpy(data.train.labels)
    network.head.cpu()
    trials = fit_head(network.head, known["train"], labels, objective, recipe.penalty, recipe.seed)
    network.to(device)
    write_rows(run.folder / "history.csv", trials)
    if trials:
        best = min(trials, key=lambda trial: trial.fold_nll)
        watch(Note(f"Penalty of the head, chosen on training folds: {best.penalty:.3g}."))
    rate = computed / max(features_in, 1e-9) if computed else math.nan
    return time.perf_counter() - began, rate, known


def _tell(watch: Callable[[Event], None], what: str) -> Callable[[int, int], None]:
    return lambda done, total: watch(Progress(what, done, total))
