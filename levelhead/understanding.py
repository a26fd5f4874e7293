"""What smoothing does to a network: its penultimate layer, and what it keeps of an example.

The experiments of Müller, Kornblith and Hinton, "When Does Label Smoothing Help?" (2019), on
finished runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.batches import Store, store, training_batches
from levelhead.errors import LevelheadError
from levelhead.geometry import (
    MEASURES,
    Projection,
    geometry,
    position,
    project,
    tightening,
    triples,
)
from levelhead.information import Information, mutual_information
from levelhead.machine import pick_device
from levelhead.outputs import Outputs
from levelhead.predict import outputs_of
from levelhead.prepare import Data, falsified, prepare
from levelhead.runs import Run

SCHEMA = 1


@dataclass(frozen=True)
class Understood:
    """Numbers for people and JSON, and what a figure draws: columns or curves by title."""

    findings: dict[str, Any]
    drawn: Mapping[str, Any]


def run_data(run: Run) -> Data:
    """The data a run was trained on, as it was then. Raises LevelheadError where it has changed."""
    recipe, data = prepare(run.recipe)
    for split, hash_ in run.data["hashes"].items():
        if data.splits.hashes[split] != hash_:
            raise LevelheadError(
                f"{run.folder}: the {split} pictures of {recipe.data} are no longer those of the "
                "run; restore them"
            )
    return falsified(recipe, data)


def train_outputs(run: Run, *, device: str = "auto") -> Outputs:
    """Outputs of a run on its training split, not augmented; made once, kept with the run."""
    path = run.folder / "outputs" / "train.safetensors"
    if not path.exists():
        data, where = run_data(run), pick_device(device)
        made = outputs_of(
            run.network(where),
            data.splits.train,
            data.splits.class_names,
            where,
            tta=run.recipe.tta,
            split="train",
            split_hash=data.splits.hashes["train"],
        )
        made.save(path)
    return run.outputs("train")


def name_of(run: Run) -> str:
    """A run in a table or figure: its folder and what smooths it."""
    recipe = run.recipe
    if recipe.loss != "cross_entropy":
        return f"{run.folder.name} ({recipe.loss})"
    how = "online" if recipe.targets == "online" else f"ε = {recipe.smoothing:g}"
    return f"{run.folder.name} ({how})"


def penultimate(
    runs: Sequence[Run],
    classes: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "validation"),
    *,
    per_class: int = 100,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    device: str = "auto",
) -> Understood:
    """The penultimate layer of runs on some splits: projections, and `geometry` in numbers.

    `classes` are three names; by default the two that are most alike and one that is not, chosen
    on the first run's validation split. Every run after the first is held against it on each split
    (`tightening`: within- over between-class spread, paired). Source: Müller et al. 2019, Figure 1.
    """
    if not runs:
        raise LevelheadError("no run: give at least one")
    outputs = {
        (place, split): train_outputs(run, device=device)
        if split == "train"
        else run.outputs(split)
        for place, run in enumerate(runs)
        for split in splits
    }
    first = runs[0].outputs("validation")
    if classes is None:
        classes = [first.class_names[k] for k in triples(first)["two similar, one different"]]
    if len(classes) != 3:
        raise LevelheadError(f"--classes {' '.join(classes)}: must be three names")
    columns, drawn = [], {}
    compared = []
    for (place, split), found in outputs.items():
        name = name_of(runs[place])
        projection: Projection = project(found, classes, per_class, seed)
        drawn[f"{name}, {split}"] = projection
        measured = geometry(found, level, resamples, seed)
        columns.append({"run": name, "split": split, **measured})
        if place:
            change = tightening(outputs[0, split], found, level, resamples=1000, seed=seed)
            before = next(c for c in columns if c["split"] == split)  # the first run's
            nc1 = [column["metrics"]["nc1"]["value"] for column in (before, columns[-1])]
            row = {"run": name, "baseline": before["run"], "split": split, "nc1": nc1}
            compared.append(row | change)
    findings = {
        "schema": SCHEMA,
        "classes": list(classes),
        "measures": MEASURES,
        "columns": columns,
        "tightening": compared,
        "words": [_tightened(row) for row in compared],
    }
    return Understood(findings, drawn)


def _tightened(row: Mapping[str, Any]) -> str:
    ratio = row["ratio"]
    if ratio.get("value") is None:
        return f"{row['run']}, {row['split']}: {ratio.get('reason')}."
    ends = f"interval {ratio['low']:.3f} to {ratio['high']:.3f}"
    told = f"{ratio['value']:.3f} times that of {row['baseline']} ({ends})"
    verdict = (
        "cannot tell whether its clusters are tighter"
        if ratio["low"] <= 1 <= ratio["high"]
        else f"its clusters are {'tighter' if ratio['value'] < 1 else 'looser'}"
    )
    # Most directions of the features tell no classes apart, and the figure does not show them.
    before, after = row["nc1"]
    return (
        f"{row['run']} on {row['split']}: over all directions {verdict}; within- over "
        f"between-class spread is {told}. In the directions that tell classes apart (NC1): "
        f"{after:.3g} against {before:.3g}."
    )


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
    Raises LevelheadError where nothing is augmented: Y then tells every example from all others.
    Source: Müller et al. 2019, section 4.
    """
    recipe = run.recipe.replace(window=None, cutout=None)
    if not (recipe.crop or recipe.flip):
        raise LevelheadError(
            f"{run.folder}: trained without augmentation, so the logits of an example are not "
            "random; train with --crop or --flip"
        )
    data, where = run_data(run), pick_device(device)
    names, train = data.splits.class_names, data.splits.train
    held = run.outputs("validation")
    if classes is None:
        classes = [names[k] for k in triples(held)["similar"][:2]]
    if len(classes) != 2:
        raise LevelheadError(f"--classes {' '.join(classes)}: must be two names")
    pair = [position(held, name) for name in classes]
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(train.labels == k) for k in pair]
    chosen = np.concatenate([rng.permutation(part)[:per_class] for part in rows])
    part = store(train.take(chosen), where)
    curve: list[dict[str, Any]] = []
    drawn: dict[int, Information] = {}
    steps: list[int | None] = [*run.snapshots]
    for step in steps or [None]:
        network = run.network(where, step)
        table = torch.stack(
            [_differences(network, part, recipe, pair, draw, seed) for draw in range(draws + 1)], 1
        )
        found: Information = mutual_information(table[:, :draws], table[:, draws])
        ends = found.interval(level)
        at = step if step is not None else -1
        drawn[at] = found
        row = {"step": step, "value": found.value, "low": ends.low, "high": ends.high}
        curve.append(row | {"sigma2": found.sigma2})
    n = len(chosen)
    last, most = curve[-1], max(curve, key=lambda row: row["value"])
    words = [
        f"{name_of(run)}: the logit difference of {classes[0]} and {classes[1]} tells "
        f"{last['value']:.2f} nats (interval {last['low']:.2f} to {last['high']:.2f}) about which "
        f"of {n} training examples it was; at most {math.log(n):.2f}, and {math.log(2):.2f} tell "
        f"the two classes apart. With {draws} draws the "
        "estimate lies somewhat low, at 5 by up to 0.1 (levelhead.information.bias_check)."
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


@torch.no_grad()
def _differences(
    network: Any, part: Store, recipe: Any, pair: Sequence[int], draw: int, seed: int
) -> Tensor:
    """Logit of one class minus that of the other for each example, augmented anew, float64 [N]."""
    # A seed of its own for each draw: within one seed mirrors alternate with the epoch.
    here = recipe.replace(batch_size=500, seed=seed + 7919 * (draw + 1))
    found = torch.empty(len(part), dtype=torch.float64)
    for batch in training_batches(part, here, draw):
        logits = network(batch.images).double().cpu()
        found[batch.index] = logits[:, pair[0]] - logits[:, pair[1]]
    return found
