"""What is made of a finished run when first needed: its data again, outputs on train."""

from __future__ import annotations

import numpy as np

from levelhead.data.entries import Dataset
from levelhead.errors import LevelheadError
from levelhead.machine import pick_device
from levelhead.outputs import Outputs
from levelhead.runs import Run
from levelhead.targets import UNLABELLED
from levelhead.training.augmentation import views_of
from levelhead.training.inference import outputs_of
from levelhead.training.prepare import prepare, relabelled


def run_data(run: Run) -> Dataset:
    """The data a run was trained on, as it was then. Raises LevelheadError where it has changed."""
    recipe, data = prepare(run.recipe)
    for split, hash_ in run.data["hashes"].items():
        if data.hashes[split] != hash_:
            raise LevelheadError(
                f"{run.folder}: the {split} images of {recipe.data} are no longer those of the "
                "run; restore them"
            )
    return relabelled(recipe, data)


def train_outputs(run: Run, at_most: int | None = None, *, device: str = "auto") -> Outputs:
    """Outputs of a run on its training split, not augmented; made once, kept with the run.

    `at_most`: of so many examples, stratified by class and always the same ones.
    """
    whole = "train"
    if at_most is None or at_most >= run.data["counts"]["train"]:
        return _made(run, whole, None, device)
    if run.path_of(whole).exists():
        whole_outputs = run.outputs(whole)
        return whole_outputs.take(stratified(whole_outputs.labels.numpy(), at_most))
    return _made(run, f"{whole}-{at_most}", at_most, device)


def _made(run: Run, name: str, at_most: int | None, device: str) -> Outputs:
    if not run.path_of(name).exists():
        data, where = run_data(run), pick_device(device)
        part = data.train
        if (part.labels == UNLABELLED).any():
            part = part.take(np.flatnonzero(part.labels != UNLABELLED))
        if at_most is not None:
            part = part.take(stratified(part.labels, at_most))
        network = run.network(where)
        outputs = outputs_of(
            network,
            part,
            data.class_names,
            where,
            views=views_of(run.recipe, network),
            split="train",
            # As of `take`: part of a split has no hash.
            split_hash=data.hashes["train"] if at_most is None else None,
        )
        outputs.save(run.path_of(name))
    return run.outputs(name)


def stratified(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Positions int64 [min(n, N)] of random examples, each class in proportion, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    n = min(n, len(labels))
    return np.sort(order[(2 * np.arange(n) + 1) * len(labels) // (2 * n)])
