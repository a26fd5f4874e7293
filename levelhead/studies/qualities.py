"""What one run is worth on its test images, on corrupted ones and on out-of-distribution ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.data import Examples, Listing, load, scan
from levelhead.data.corruptions import AMOUNTS, corrupt
from levelhead.decisions import find_score, fit_pnorm, separate
from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.machine import pick_device
from levelhead.metrics import METRICS
from levelhead.metrics.metric import influence_of
from levelhead.outputs import Outputs
from levelhead.runs import Run
from levelhead.statistics.examples import by_unit
from levelhead.statistics.measured import Estimate
from levelhead.statistics.placements import placements
from levelhead.training.augmentation import views_of
from levelhead.training.inference import outputs_of
from levelhead.training.run_data import run_data, stratified

IMAGES = 2000
"""So many test images, stratified by class, are corrupted in each way, or seen of other data."""
SCORES = ("msp", "energy", "max_logit")
STAGES = {"raw": "test", "temperature": "test_calibrated"}  # a run's findings by series


Estimates = dict[tuple[str, str], Estimate]  # by measure and series
Look = Callable[[str, str, Callable[[], Examples]], Outputs]  # of a name, a stamp and images


def estimates_of(run: Run, names: Sequence[str], series: str, level: float) -> dict[str, Estimate]:
    """Some metrics of one run on test, before ("raw") or after its "temperature"."""
    outputs = run.outputs("test")
    if series == "temperature":
        outputs = run.calibration.apply(outputs)
    judgement = run.findings[STAGES[series]]
    if judgement["interval"]["level"] != level or not {*names} <= judgement["metrics"].keys():
        judgement = judge(outputs, metrics=names, level=level)
    entries = judgement["metrics"]
    return {name: estimate_of(entries[name], influence_on(name, outputs)) for name in names}


def by_seed(
    runs: Sequence[Run], name: str, series: str = "raw", level: float = 0.95
) -> dict[int, Estimate]:
    """One metric of the runs of a setting, by seed."""
    return {run.recipe.seed: estimates_of(run, (name,), series, level)[name] for run in runs}


def pnorm_aurc(run: Run, level: float = 0.95) -> Estimate:
    """AURC of one run on test by the p-norm score, p from validation."""
    test = run.outputs("test")
    score, ranked = fit_pnorm(run.outputs("validation")).score, test
    if score.name != "msp":  # confidences in that order, for the one AURC there is
        confidence = score.of(test).clamp(0, 1)
        ranked = Outputs(
            "confidence",
            confidence[:, None],
            test.labels,
            test.class_names,
            predicted=test.predictions(),
        )
    entry = judge(ranked, metrics=("aurc",), level=level)["metrics"]["aurc"]
    return estimate_of(entry, influence_on("aurc", ranked))


def quality(run: Run, level: float) -> Estimates:
    """Accuracy, NLL, smECE and AURC of one run on test."""
    names = ("nll", "smece", "aurc")
    raw = estimates_of(run, ("accuracy", *names), "raw", level)  # no temperature changes accuracy
    scaled = estimates_of(run, names, "temperature", level)
    estimates = {(name, "raw"): estimate for name, estimate in raw.items()}
    estimates |= {(name, "temperature"): estimate for name, estimate in scaled.items()}
    return estimates | {("aurc", "pnorm"): pnorm_aurc(run, level)}


def corrupted(run: Run, level: float, look: Look, clean: dict[Any, Examples]) -> Estimates:
    """Accuracy, ECE and AUROC of one run on corrupted test images, means over corruptions.

    `clean` keeps the images for runs that look at the same ones.
    """
    test = run.outputs("test")
    chosen = stratified(test.labels.numpy(), IMAGES)
    inside = test.take(chosen)

    def images(kind: str) -> Examples:
        format_ = (run.data["image_size"], run.recipe.resize)
        if format_ not in clean:
            clean[format_] = run_data(run).test.take(chosen)
        return dataclasses.replace(clean[format_], images=corrupt(clean[format_].images, kind))

    several: dict[tuple[str, str], list[Estimate]] = {}
    for kind, amount in AMOUNTS.items():
        stamp = f"{run.data['hashes']['test']} {kind} {amount:g} {len(chosen)}"
        uncalibrated = look(f"corrupted-{kind}", stamp, functools.partial(images, kind))
        for series in STAGES:
            outputs = uncalibrated if series == "raw" else run.calibration.apply(uncalibrated)
            names = ("accuracy", "ece") if series == "raw" else ("ece",)
            entry = judge(outputs, metrics=names, level=level, resamples=300)["metrics"]
            for name in names:
                estimate = estimate_of(entry[name], influence_on(name, outputs))
                several.setdefault((f"corrupted_{name}", series), []).append(estimate)
        for score, estimate in apart(inside, uncalibrated, level, paired=True).items():
            several.setdefault(("corrupted_auroc", score), []).append(estimate)
    means: Estimates = {}
    for key, group in several.items():
        value, low, high = np.mean([(one.value, one.low, one.high) for one in group], 0).tolist()
        influence = torch.stack([one.influence[0] for one in group]).mean(0)
        means[key] = Estimate(value, low, high, (influence,))
    return means


def out_of_distribution(
    run: Run, elsewhere: Mapping[str, Listing], level: float, look: Look
) -> Estimates:
    """AUROC of one run's test images against some of other data sets."""

    def images(listing: Listing, chosen: np.ndarray) -> Examples:
        size, channels = run.data["image_size"], run.data["channels"]
        options: dict[str, Any] = {"resize": run.recipe.resize, "skip_broken": True}
        dataset = load(listing, image_size=size, channels=channels, **options)
        part = dataset.splits["test"]
        names = {listing.splits["test"].ids[i] for i in chosen}  # less broken ones
        part = part.take(np.flatnonzero([id_ in names for id_ in part.ids]))
        # Its classes are not the network's.
        return dataclasses.replace(part, labels=np.zeros(len(part), np.int64))

    estimates: Estimates = {}
    for name, listing in elsewhere.items():
        part = listing.splits["test"]
        chosen = stratified(part.labels, IMAGES)
        stamped = [part.ids[i] for i in chosen], part.labels[chosen].tolist()
        stamp = hashlib.sha256(repr(stamped).encode()).hexdigest()
        outside = look(f"ood-{name}", stamp, functools.partial(images, listing, chosen))
        for score, estimate in apart(run.outputs("test"), outside, level).items():
            estimates[f"ood_{name}", score] = estimate
    return estimates


def kept_outputs(
    run: Run,
    device: str,
    watch: Callable[[str], None],
    name: str,
    stamp: str,
    images: Callable[[], Examples],
) -> Outputs:
    """The run's outputs on some images; made once, kept in outputs/NAME.safetensors."""
    path = run.path_of(name)
    if path.exists() and (kept := run.outputs(name)).split_hash == stamp:
        return kept
    watch(f"{run.folder}: predicting {name}")
    where, names = pick_device(device), tuple(run.data["class_names"])
    # Called test, for nothing may be fitted on it.
    network = run.network(where)
    more: dict[str, Any] = {
        "views": views_of(run.recipe, network),
        "split": "test",
        "split_hash": stamp,
    }
    outputs = outputs_of(network, images(), names, where, **more)
    outputs = dataclasses.replace(outputs, features=None, head_weight=None, head_bias=None)
    outputs.save(path)
    return outputs


def listings(ood: Sequence[str], run: Run) -> dict[str, Listing]:
    """The test images (of data without a test split: all) of other data sets, by name."""
    by_name: dict[str, Listing] = {}
    for data in ood:
        listing = scan(data)
        name = re.sub(r"[^\w.+-]+", "-", listing.name)
        if listing.source == run.recipe.data:
            raise LevelheadError(f"--ood {data}: is the runs' own data; give another")
        if name in by_name:
            raise LevelheadError(f"--ood {data}: a second one called {name!r}; rename its folder")
        part = listing.splits.get("test", listing.splits["train"])
        by_name[name] = dataclasses.replace(listing, splits={"test": part})
    return by_name


def estimate_of(entry: Mapping[str, Any], *rows: Tensor) -> Estimate:
    """A judged number, with the influence values of its samples."""
    return Estimate(entry["value"], entry["low"], entry["high"], rows)


def influence_on(name: str, outputs: Outputs) -> Tensor:
    """What each example adds to a metric, float64 [N], up to a constant."""
    metric = METRICS[name]
    return by_unit(influence_of(metric, metric.prepare(outputs)), outputs.units)


def apart(
    inside: Outputs, outside: Outputs, level: float, paired: bool = False
) -> dict[str, Estimate]:
    """AUROC by score; `paired`: row i of both is one image. Rows: DeLong's placements."""
    estimates = {}
    for name, entry in separate(inside, outside, SCORES, level=level).items():
        x, y = (find_score(name).of(part).numpy() for part in (inside, outside))
        above, under = map(torch.from_numpy, placements(x, y))
        rows = (above + under,) if paired else (above, under)
        estimates[name] = estimate_of(entry["auroc"], *rows)
    return estimates
