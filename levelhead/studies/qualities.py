"""What one run is worth on its test pictures, on corrupted ones and on foreign ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.data import Examples, Listing, load, scan
from levelhead.data.corruptions import AMOUNTS, corrupt
from levelhead.decisions import find_score, fit_pnorm, separate
from levelhead.decisions.ood import placements
from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.machine import pick_device
from levelhead.metrics import METRICS, smece
from levelhead.outputs import Outputs
from levelhead.runs import Run
from levelhead.statistics.binning import sums
from levelhead.studies.run_data import run_data, stratified
from levelhead.training.inference import outputs_of

PICTURES = 2000
"""So many test pictures, stratified by class, are corrupted in each way, or seen of other data."""
SCORES = ("msp", "energy", "max_logit")
STAGES = {"raw": "test", "temperature": "test_calibrated"}  # a run's findings by series


@dataclass(frozen=True, eq=False)
class Cell:
    """A number of one run, its examples' interval, and influence values [N] of each sample."""

    value: float
    low: float
    high: float
    rows: tuple[Tensor, ...]


Cells = dict[tuple[str, str], Cell]  # by measure and series
Look = Callable[[str, str, Callable[[], Examples]], Outputs]  # of a name, a stamp and pictures


def quality(run: Run, level: float) -> Cells:
    """Accuracy, NLL, smECE and AURC of one run on test."""
    test = run.outputs("test")
    cells: Cells = {}
    for series, stage in STAGES.items():
        outputs = test if series == "raw" else run.calibration.apply(test)
        names = ("accuracy", "nll", "smece", "aurc")[series != "raw" :]  # accuracy stays the same
        told = run.findings[stage]
        if told["interval"]["level"] != level or not {*names} <= told["metrics"].keys():
            told = judge(outputs, metrics=names, level=level)
        for name in names:
            cells[name, series] = cell_of(told["metrics"][name], influence(name, outputs))
    score, ranked = fit_pnorm(run.outputs("validation")).score, test
    if score.name != "msp":  # confidences in that order, for the one AURC there is
        sure = score.of(test).clamp(0, 1)
        ranked = Outputs.from_confidence(sure, test.predictions(), test.labels, test.class_names)
    told = judge(ranked, metrics=("aurc",), level=level)["metrics"]
    return cells | {("aurc", "pnorm"): cell_of(told["aurc"], influence("aurc", ranked))}


def corrupted(run: Run, level: float, look: Look, seen: dict[Any, Examples]) -> Cells:
    """Accuracy, ECE and AUROC of one run on corrupted test pictures, means over corruptions.

    `seen` keeps the clean pictures for runs that look at the same ones.
    """
    test = run.outputs("test")
    chosen = stratified(test.labels.numpy(), PICTURES)
    inside = test.take(chosen)

    def pictures(kind: str) -> Examples:
        asked = (run.data["image_size"], run.recipe.resize)
        if asked not in seen:
            seen[asked] = run_data(run).splits.test.take(chosen)
        return dataclasses.replace(seen[asked], images=corrupt(seen[asked].images, kind))

    several: dict[tuple[str, str], list[Cell]] = {}
    for kind, amount in AMOUNTS.items():
        stamp = f"{run.data['hashes']['test']} {kind} {amount:g} {len(chosen)}"
        made = look(f"corrupted-{kind}", stamp, functools.partial(pictures, kind))
        for series in STAGES:
            outputs = made if series == "raw" else run.calibration.apply(made)
            names = ("accuracy", "ece")[series != "raw" :]
            told = judge(outputs, metrics=names, level=level, resamples=300)["metrics"]
            for name in names:
                cell = cell_of(told[name], influence(name, outputs))
                several.setdefault((f"corrupted_{name}", series), []).append(cell)
        for score, cell in apart(inside, made, level, paired=True).items():
            several.setdefault(("corrupted_auroc", score), []).append(cell)
    found: Cells = {}
    for key, group in several.items():
        value, low, high = np.mean([(c.value, c.low, c.high) for c in group], 0).tolist()
        found[key] = Cell(value, low, high, (torch.stack([c.rows[0] for c in group]).mean(0),))
    return found


def foreign(run: Run, elsewhere: Mapping[str, Listing], level: float, look: Look) -> Cells:
    """AUROC of one run's test pictures against some of other data sets."""

    def pictures(listing: Listing, chosen: np.ndarray) -> Examples:
        asked: dict[str, Any] = {name: run.data[name] for name in ("image_size", "channels")}
        made = load(listing, **asked, resize=run.recipe.resize, skip_broken=True).splits["test"]
        names = {listing.splits["test"].ids[i] for i in chosen}
        made = made.take(np.flatnonzero([id_ in names for id_ in made.ids]))  # less broken ones
        # Its classes are not the network's.
        return dataclasses.replace(made, labels=np.zeros(len(made), np.int64))

    cells: Cells = {}
    for name, listing in elsewhere.items():
        part = listing.splits["test"]
        chosen = stratified(part.labels, PICTURES)
        asked = [part.ids[i] for i in chosen], part.labels[chosen].tolist()
        stamp = hashlib.sha256(repr(asked).encode()).hexdigest()
        made = look(f"ood-{name}", stamp, functools.partial(pictures, listing, chosen))
        for score, cell in apart(run.outputs("test"), made, level).items():
            cells[f"ood_{name}", score] = cell
    return cells


def kept_outputs(
    run: Run,
    device: str,
    watch: Callable[[str], None],
    name: str,
    stamp: str,
    pictures: Callable[[], Examples],
) -> Outputs:
    """The run's outputs on some pictures; made once, kept in outputs/NAME.safetensors."""
    path = run.path_of(name)
    if path.exists() and (kept := run.outputs(name)).split_hash == stamp:
        return kept
    watch(f"{run.folder}: predicting {name}")
    where, names = pick_device(device), tuple(run.data["class_names"])
    # Called test, for nothing may be fitted on it.
    more: dict[str, Any] = {"tta": run.recipe.tta, "split": "test", "split_hash": stamp}
    made = outputs_of(run.network(where), pictures(), names, where, **more)
    made = dataclasses.replace(made, features=None, head_weight=None, head_bias=None)
    made.save(path)
    return made


def listings(ood: Sequence[str], run: Run) -> dict[str, Listing]:
    """The test pictures (of data without a test split: all) of other data sets, by name."""
    found: dict[str, Listing] = {}
    for data in ood:
        listing = scan(data)
        name = re.sub(r"[^\w.+-]+", "-", listing.name)
        if listing.source == run.recipe.data:
            raise LevelheadError(f"--ood {data}: is the runs' own data; give another")
        if name in found:
            raise LevelheadError(f"--ood {data}: a second one called {name!r}; rename its folder")
        part = listing.splits.get("test", listing.splits["train"])
        found[name] = dataclasses.replace(listing, splits={"test": part})
    return found


def cell_of(told: Mapping[str, Any], *rows: Tensor) -> Cell:
    """A judged number, with the influence values of its samples."""
    return Cell(told["value"], told["low"], told["high"], rows)


def influence(name: str, outputs: Outputs) -> Any:
    """What each example adds to a metric, float64 [N], but for a constant."""
    metric = METRICS[name]
    prepared: Any = metric.prepare(outputs)
    if isinstance(prepared, Tensor):
        return prepared
    if metric.influence is not None:
        return metric.influence(prepared)
    if name == "ece":
        return torch.sign(prepared.gaps())[prepared.index] * prepared.gap
    # smECE: its slope in the residual of each cell of a coarser grid, by differences.
    cells, n = 256, len(prepared)
    gap = prepared.confidence - prepared.correct
    index, place = torch.unique(prepared.index // (smece.GRID // cells), return_inverse=True)
    residual = sums(index[place], cells, gap).numpy()
    step = np.eye(cells)[index.numpy()] * 1e-3 * math.sqrt(n)
    up, down = (smece.error(residual + side * step, n) for side in (1, -1))
    slope = torch.from_numpy((up - down) / (2e-3 * math.sqrt(n)))
    return n * slope[place] * gap


def apart(inside: Outputs, outside: Outputs, level: float, paired: bool = False) -> dict[str, Cell]:
    """AUROC by score; `paired`: row i of both is one picture. Rows: DeLong's placements."""
    found = {}
    for name, told in separate(inside, outside, SCORES, level=level).items():
        x, y = (find_score(name).of(part).numpy() for part in (inside, outside))
        above, under = map(torch.from_numpy, placements(x, y))
        rows = (above + under,) if paired else (above, under)
        found[name] = cell_of(told["auroc"], *rows)
    return found
