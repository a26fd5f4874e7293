"""What smoothing buys and what it costs: finished runs by epsilon, held against hard targets."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levelhead.data import Examples
from levelhead.data.corruptions import AMOUNTS
from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.statistics.examples import example_variance, normal_quantile
from levelhead.statistics.seeds import SeedInterval, paired_seeds, widened
from levelhead.studies.confidence_course import confidence_course
from levelhead.studies.qualities import (
    PICTURES,
    Cell,
    cell_of,
    corrupted,
    foreign,
    kept_outputs,
    listings,
    quality,
)
from levelhead.studies.run_data import SCHEMA, Understood

METHOD = (
    "the examples' interval of each run (shares: Wilson, calibration errors: bias-corrected, "
    "AUROC: DeLong), averaged over seeds and widened by their variance s²/S, Student's t with the "
    "degrees of freedom of Welch and Satterthwaite; one seed: the examples alone; differences are "
    "paired by seed and example, the examples' variance by influence values; each interval stands "
    "for itself, however many there are"
)
_ENDS = ("value", "low", "high")
# Hard and smoothed targets have these fields as they are by default.
_TARGETS = ("loss", "strength", "margin", "smoothing_by_class", "prior", "targets", "mix",
            "mix_alpha", "teacher", "noise")  # fmt: skip
# What is held against which series of hard targets: smoothing against hard plus temperature, too.
_AGAINST = {"raw": ("raw", "temperature"), "pnorm": ("pnorm", "temperature", "raw")}


@dataclass(frozen=True)
class Measure:
    """What is measured: better `up` or down, shown times `scale`; `biased`: errors that a finite
    sample makes too large (their plug-in differences lie too near 0)."""

    title: str
    up: bool
    scale: int = 100
    biased: bool = False


MEASURES = {
    "accuracy": Measure("accuracy", True),
    "nll": Measure("NLL", False, 1),
    "smece": Measure("smooth calibration error", False, biased=True),
    "aurc": Measure("AURC", False),
    "corrupted_accuracy": Measure("accuracy on corrupted pictures", True),
    "corrupted_ece": Measure("ECE on corrupted pictures", False, biased=True),
    "corrupted_auroc": Measure("AUROC of corrupted pictures", True),
    "student_accuracy": Measure("accuracy of students", True),
}
"""The measures; `--ood` adds `ood_NAME` for each data set."""


@dataclass(frozen=True, eq=False)
class _Setting:
    """Runs that differ in their seed alone; `cells` by measure and series, then by seed."""

    name: str
    recipe: Recipe
    remedy: bool
    runs: dict[int, Run]
    cells: dict[tuple[str, str], dict[Any, Cell]]


def tradeoff(
    runs: Sequence[Run],
    ood: Sequence[str] = (),
    students: Sequence[Run] = (),
    level: float = 0.95,
    *,
    device: str = "auto",
    watch: Callable[[str], None] = lambda text: None,
) -> Understood:
    """What each setting gives on test, over its seeds, and against hard targets, paired.

    A setting is a recipe without its seed; those that differ from the hard one in more than
    epsilon are remedies. Accuracy, NLL, smECE and AURC (before and after each run's temperature;
    AURC also by the p-norm score, p from validation), accuracy, ECE and AUROC of corrupted test
    pictures (means over `corruptions.AMOUNTS`), AUROC against test pictures of the data sets
    `ood`, accuracy of `students` (runs taught by one of `runs`) by distillation temperature; and
    mean confidence minus accuracy on validation after each epoch.
    Predictions are made once and kept in each run's outputs/; `watch` is told of each. Raises
    LevelheadError for runs that are judged on different pictures, a recipe and seed given twice,
    `ood` that is the runs' own data or not unique in name, and students of other teachers.
    Source: Müller et al. 2019; Xia et al. 2025 (AURC); Hendrycks and Dietterich 2019.
    """
    if not runs:
        raise LevelheadError("no run: give at least one")
    normal_quantile(level)
    elsewhere = listings(ood, runs[0])
    for run in (*runs, *students):
        if run.data["hashes"]["test"] != runs[0].data["hashes"]["test"]:
            raise LevelheadError(
                f"{run.folder}: judged on other test pictures than {runs[0].folder}; give runs "
                "that split the same data alike"
            )
    settings = _settings(runs)
    seen: dict[Any, Examples] = {}
    for setting in settings:
        for seed, run in setting.runs.items():
            look = functools.partial(kept_outputs, run, device, watch)
            cells = quality(run, level) | corrupted(run, level, look, seen)
            for key, cell in (cells | foreign(run, elsewhere, level, look)).items():
                setting.cells.setdefault(key, {})[seed] = cell
    _taught(settings, students, level)
    measures = MEASURES | {f"ood_{n}": Measure(f"AUROC, {n}", True) for n in elsewhere}
    hard = next((s for s in settings if not (s.remedy or s.recipe.smoothing)), None)
    told = [_told(setting, measures, level) for setting in settings]
    differences = [
        _difference(setting, hard, key, series, measures[key[0]], level)
        for setting in settings
        for key in setting.cells
        if hard is not None and setting is not hard
        for series in _AGAINST.get(key[1], (key[1],))
        if (key[0], series) in hard.cells
    ]
    used = {key for setting in settings for key in setting.cells}
    findings = {
        "schema": SCHEMA,
        "n": runs[0].data["counts"]["test"],
        "n_corrupted": min(PICTURES, runs[0].data["counts"]["test"]),
        "n_elsewhere": {
            name: min(PICTURES, len(listing.splits["test"])) for name, listing in elsewhere.items()
        },
        "corruptions": AMOUNTS,
        "interval": {"level": level, "method": METHOD},
        "measures": {
            name: dataclasses.asdict(measure)
            for name, measure in measures.items()
            if any(name == key[0] for key in used)
        },
        "hard": None if hard is None else hard.name,
        "settings": told,
        "differences": differences,
        "words": _words(told, differences, measures, hard),
    }
    return Understood(findings, findings)


def _settings(runs: Sequence[Run]) -> list[_Setting]:
    """Runs by recipe: hard targets first, then by epsilon, remedies last."""
    found: dict[Recipe, dict[int, Run]] = {}
    for run in runs:
        teacher, seed = Path(run.recipe.teacher or ""), run.recipe.seed
        if teacher.name.startswith("seed-"):  # each seed's own
            teacher = teacher.parent
        alike: dict[str, Any] = {"data": "", "seed": 0, "save_every": None, "device": "auto"}
        alike["teacher"] = teacher.name or None
        group = found.setdefault(run.recipe.replace(**alike), {})
        if seed in group:
            raise LevelheadError(
                f"{run.folder}: the same recipe and seed as {group[seed].folder}; give one of them"
            )
        group[seed] = run
    usual: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Recipe)}
    usual = {name: usual[name] for name in _TARGETS}
    plain = [recipe for recipe in found if recipe.replace(**usual) == recipe]
    plain = plain or [next(iter(found)).replace(**usual, smoothing=0)]
    base = min(plain, key=lambda recipe: recipe.smoothing)  # the first of equals
    settings = []
    for recipe, group in found.items():
        fields = [f.name for f in dataclasses.fields(Recipe)]
        differ = [f for f in fields if getattr(recipe, f) != getattr(base, f)]
        remedy = not {*differ} <= {"smoothing"}
        shown = [(f, getattr(recipe, f)) for f in differ] if remedy else []
        name = ", ".join(str(v) if f in ("loss", "targets") else f"{f}={v}" for f, v in shown)
        settings.append(_Setting(name or f"ε = {recipe.smoothing:g}", recipe, remedy, group, {}))
    return sorted(settings, key=lambda s: (s.remedy, s.recipe.smoothing, s.name))


def _taught(settings: Sequence[_Setting], students: Sequence[Run], level: float) -> None:
    """Put the students' accuracy into their teachers' settings, a series a temperature."""
    kinds = set()
    for student in students:
        recipe = student.recipe
        path = Path(recipe.teacher or "").resolve()
        own = [
            (setting, seed)
            for setting in settings
            for seed, run in setting.runs.items()
            if recipe.teacher and run.folder.resolve() in (path, *path.parents)
        ]
        if not own:
            raise LevelheadError(
                f"--students {student.folder}: its teacher ({recipe.teacher}) is none of the runs; "
                "give its teacher too, or leave it out"
            )
        alike: dict[str, Any] = {"data": "", "seed": 0, "save_every": None, "device": "auto"}
        alike |= {"teacher": None, "temperature": 1.0, "student_temperature": 1.0}
        kinds.add(recipe.replace(**alike))
        series = f"T = {recipe.temperature:g}"
        if recipe.student_temperature != 1:
            series += f", student's {recipe.student_temperature:g}"
        test = student.outputs("test")
        told = judge(test, metrics=("accuracy",), level=level)["metrics"]["accuracy"]
        (setting, seed), key = own[0], ("student_accuracy", series)
        group = setting.cells.setdefault(key, {})
        if (seed, recipe.seed) in group:
            raise LevelheadError(
                f"--students {student.folder}: a second one of the same teacher, temperature and "
                "seed; give one of them"
            )
        group[seed, recipe.seed] = cell_of(told, test.rows.correct)
    if len(kinds) > 1:
        raise LevelheadError(
            "--students: differ in more than teacher, temperature and seed; give those of one kind"
        )


def _combined(cells: Sequence[Cell], level: float) -> SeedInterval:
    """Mean over seeds: the examples' interval, widened about its own centre by the seeds'."""
    low, high = (float(np.mean([getattr(cell, end) for cell in cells])) for end in ("low", "high"))
    return widened([cell.value for cell in cells], low, high, level)


def _told(setting: _Setting, measures: Mapping[str, Measure], level: float) -> dict[str, Any]:
    """A setting for JSON."""
    numbers: dict[str, dict[str, Any]] = {}
    for (name, series), cells in setting.cells.items():
        found = _combined([*cells.values()], level)
        high = found.high if measures[name].scale == 1 else min(found.high, 1.0)
        entry = {"value": found.mean, "low": found.low, "high": high}
        values = [cell.value for cell in cells.values()]
        numbers.setdefault(name, {})[series] = entry | {"per_seed": values}
    return {
        "name": setting.name,
        "smoothing": setting.recipe.smoothing,
        "remedy": setting.remedy,
        "seeds": [*setting.runs],
        "runs": [str(run.folder) for run in setting.runs.values()],
        "measures": numbers,
        "confidence": confidence_course([*setting.runs.values()], level),
    }


def _difference(
    setting: _Setting,
    hard: _Setting,
    key: tuple[str, str],
    series: str,
    measure: Measure,
    level: float,
) -> dict[str, Any]:
    """Setting − hard targets in one measure, paired over the seeds that both have."""
    own, other = setting.cells[key], hard.cells[key[0], series]
    entry: dict[str, Any] = {"setting": setting.name, "measure": key[0], "series": key[1]}
    entry |= {"against": series, "value": None, "low": None, "high": None, "per_seed": []}
    both = [seed for seed in own if seed in other]
    if not both:
        return entry | {"verdict": "cannot tell", "reason": "no seed is in both settings"}
    pairs = [(own[seed], other[seed]) for seed in both]
    values = [a.value - b.value for a, b in pairs]
    parts = range(len(pairs[0][0].rows))
    samples = [torch.stack([a.rows[i] - b.rows[i] for a, b in pairs]) for i in parts]
    variance = math.fsum(map(example_variance, samples))
    if key[0].endswith("accuracy"):  # networks alike on all n may differ on the next: count one
        variance = max(variance, 1 / samples[0].shape[1] ** 2)
    found = paired_seeds(values, variance, level)
    low, high = found.low, found.high
    if measure.biased:  # the far end of two independent intervals, if that lies farther (study.py)
        x, y = _combined([*own.values()], level), _combined([*other.values()], level)
        centre = (x.low + x.high - y.low - y.high) / 2
        half = math.hypot(x.high - x.low, y.high - y.low) / 2
        high = max(high, centre + half) if found.mean > 0 else high
        low = min(low, centre - half) if found.mean < 0 else low
    better = "better" if (found.mean > 0) == measure.up else "worse"
    verdict = "cannot tell" if low <= 0 <= high else better
    entry |= {"value": found.mean, "low": low, "high": high, "per_seed": values}
    return entry | {"verdict": verdict}


def _words(
    settings: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Measure],
    hard: _Setting | None,
) -> list[str]:
    """What smoothing bought and cost here."""
    if hard is None:
        return [
            "No setting has hard targets, so nothing says what smoothing bought: give runs with "
            "--smoothing 0 too."
        ]
    said = []
    for name in (s["name"] for s in settings if s["name"] != hard.name):
        own = {
            (d["measure"], d["series"], d["against"]): d
            for d in differences
            if d["setting"] == name and d["value"] is not None
        }
        said += _said(name, own, measures) or [f"{name}: no seed in common with {hard.name}."]
    if not said:
        said = ["Hard targets alone: give smoothed runs to see what smoothing buys."]
    if any(len(setting["seeds"]) == 1 for setting in settings):
        said.append("Mind: one seed speaks for these models, not for their settings.")
    return said


def _said(
    name: str, own: Mapping[Any, Mapping[str, Any]], measures: Mapping[str, Measure]
) -> list[str]:
    """Of one setting: its quality, its ranking of mistakes, and what else can be told."""
    if not own:
        return []

    def change(key: tuple[str, str, str], title: str = "") -> str:
        told, measure = own[key], measures[key[0]]
        unit = "" if measure.scale == 1 else " points"
        digits = 4 if not unit else 1 if measure.up else 2
        value, low, high = (f"{told[end] * measure.scale:+.{digits}f}" for end in _ENDS)
        title = title or measure.title
        return f"{title} {value}{unit} [{low}, {high}] ({told['verdict']})"

    changes = [
        change(("accuracy", "raw", "raw")),
        change(("nll", "raw", "temperature"), "NLL without temperature"),
        change(("nll", "temperature", "temperature"), "NLL with it"),
        change(("smece", "temperature", "temperature")),
    ]
    said = [f"{name} against hard targets plus temperature: {'; '.join(changes)}."]
    keys = [("aurc", series, "temperature") for series in ("temperature", "pnorm")]
    ranks = map(change, keys, ("AURC by the top probability", "by the p-norm score"))
    before, after = (own[key]["verdict"] for key in keys)
    mended = {"worse": "does not mend it", "better": "more than mends it"}
    end = f", which {mended.get(after, 'mends it as far as can be told')}"
    said.append(f"{name}, ranking its mistakes: {'; '.join(ranks)}{end * (before == 'worse')}.")
    elsewhere = [("corrupted_accuracy", "raw", "raw")]
    elsewhere += [("corrupted_ece", "temperature", "temperature")]
    elsewhere += [k for k in own if k[1] == "energy"]  # AUROC
    taught = sorted(k for k in own if k[0] == "student_accuracy")
    for where, keys in (("on other pictures", elsewhere), ("as a teacher", taught)):
        titles = {
            k: measures[k[0]].title + (f" ({k[1]})" if k in taught else "")
            + (" by energy" if k[1] == "energy" else "") for k in keys
        }  # fmt: skip
        clear = [change(k, titles[k]) for k in keys if own[k]["verdict"] != "cannot tell"]
        rest = [titles[k] for k in keys if own[k]["verdict"] == "cannot tell"]
        clear += [f"cannot tell of {', '.join(rest)}"] if rest else []
        said += [f"{name}, {where}: {'; '.join(clear)}."] if clear else []
    return said
