"""What a finished run holds and what is made from it when first needed: data, train outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levelhead.errors import LevelheadError
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
