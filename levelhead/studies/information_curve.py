"""What the logits of finished runs still tell about the example (Müller et al. 2019, section 4)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from levelhead.data.batches import Augmentation, Batch, TrainingBatches, as_batch
from levelhead.errors import LevelheadError
from levelhead.files import refuse_pipes, write
from levelhead.machine import pick_device
from levelhead.recipe import Recipe
from levelhead.representation.geometry import position, triples
from levelhead.representation.mutual_information import Information, mutual_information
from levelhead.runs import Run
from levelhead.studies.understood import SCHEMA, Understood, name_of
from levelhead.training.augmentation import augmentation_of
from levelhead.training.defaults import augments
from levelhead.training.run_data import run_data


def information(
    run: Run,
    classes: Sequence[str] | None = None,
    *,
    per_class: int = 300,
    draws: int = 5,
    level: float = 0.95,
    seed: int = 0,
    device: str = "auto",
) -> Understood:
    """I(X; Y) between training example X and logit difference Y, at each snapshot of a run.

    X: `per_class` training examples of each of two classes (default: the two most alike); Y: the
    difference of their two logits, random by the run's own augmentation, drawn `draws` times for
    the means and once more (`information.mutual_information`). Without snapshots, at the end alone.
    The differences are kept with the run: a second call answers at once.
    Raises LevelheadError where nothing is augmented: Y then tells every example from all others.
    Source: Müller et al. 2019, section 4.
    """
    recipe = run.recipe
    if not augments(recipe.replace(window=0)):
        raise LevelheadError(
            f"{run.folder}: trained without augmentation, so the logits of an example are not "
            "random; train with --crop or --flip"
        )
    held = run.outputs("validation")
    names = held.class_names
    if classes is None:
        classes = [names[k] for k in triples(held)["similar"][:2]]
    if len(classes) != 2:
        raise LevelheadError(f"--classes {' '.join(classes)}: must be two names")
    a, b = (position(held, name) for name in classes)
    curve: list[dict[str, Any]] = []
    drawn: dict[int, Information] = {}
    kept = run.path_of(f"differences-{a}-{b}-{per_class}-{draws}-{seed}")
    refuse_pipes(kept)
    try:
        tables = load_file(kept)
    except (OSError, SafetensorError):
        tables = _tables(run, recipe, (a, b), per_class, draws, seed, pick_device(device))
        write(kept, save(tables))
    for at, table in sorted((int(name), table) for name, table in tables.items()):
        estimate: Information = mutual_information(table[:, :draws], table[:, draws])
        ends = estimate.interval(level)
        drawn[at] = estimate
        row = {"step": None if at < 0 else at, "value": estimate.value}
        curve.append(row | {"low": ends.low, "high": ends.high, "sigma2": estimate.sigma2})
    n = drawn[at].n
    last, most = curve[-1], max(curve, key=lambda row: row["value"])
    words = [
        f"{name_of(run)}: the logit difference of {classes[0]} and {classes[1]} tells "
        f"{last['value']:.2f} nats (interval {last['low']:.2f} to {last['high']:.2f}) about which "
        f"of {n} training examples it was; at most {math.log(n):.2f}, and {math.log(2):.2f} tell "
        f"the two classes apart. With {draws} draws the "
        "estimate lies somewhat low, at 5 by up to 0.1 "
        "(levelhead.representation.mutual_information.bias_check)."
    ]
    if len(curve) > 1:
        words.append(f"Its peak: {most['value']:.2f} nats after step {most['step']}.")
    findings = {
        "schema": SCHEMA,
        "run": name_of(run),
        "classes": list(classes),
        "n": n,
        "draws": draws,
        "bounds": [0.0, math.log(n)],
        "curve": curve,
        "words": words,
    }
    return Understood(findings, {name_of(run): drawn})


def informations(runs: Sequence[Run], classes: Sequence[str] | None = None) -> Understood:
    """`information` of several runs, of the same two classes for all."""
    each: list[Understood] = []
    for run in runs:
        each.append(information(run, classes))
        classes = each[0].findings["classes"]
    findings = {
        "schema": SCHEMA,
        "runs": [one.findings for one in each],
        "words": [sentence for one in each for sentence in one.words],
    }
    return Understood(findings, {name: drawn for one in each for name, drawn in one.drawn.items()})


def _tables(
    run: Run,
    recipe: Recipe,
    pair: tuple[int, int],
    per_class: int,
    draws: int,
    seed: int,
    where: torch.device,
) -> dict[str, Tensor]:
    """Logit differences float64 [N, draws + 1] by snapshot (-1: there is none, the end)."""
    train = run_data(run).train
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(train.labels == k) for k in pair]
    part = as_batch(
        train.take(np.concatenate([rng.permutation(r)[:per_class] for r in rows])), where
    )
    mean = torch.tensor(run.data["mean"]).round()
    moves = dataclasses.replace(augmentation_of(recipe, mean, run.data["class_names"]), window=0)
    tables = {}
    steps: list[int | None] = [*run.snapshots]
    for step in steps or [None]:
        network = run.network(where, step)
        # As in training: half the time, and within 0.01 nats of float32 (CIFAR-10, `fast`).
        network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        each = [_differences(network, part, moves, pair, draw, seed) for draw in range(draws + 1)]
        tables[str(-1 if step is None else step)] = torch.stack(each, 1)
    return tables


@torch.no_grad()
def _differences(
    network: Any, part: Batch, moves: Augmentation, pair: Sequence[int], draw: int, seed: int
) -> Tensor:
    """Logit of one class minus that of the other for each example, augmented anew, float64 [N]."""
    # A seed of its own for each draw: within one seed mirrors alternate with the epoch.
    batches = TrainingBatches(part, 500, moves, seed + 7919 * (draw + 1), network.device)
    differences = torch.empty(len(part), dtype=torch.float64)
    for batch in batches(draw):
        logits = network(batch.images).double().cpu()
        differences[batch.index] = logits[:, pair[0]] - logits[:, pair[1]]
    return differences
