"""What smoothing buys and what it costs: finished runs by epsilon, held against hard targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.data import Examples
from levelhead.data.corruptions import AMOUNTS
from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.statistics.examples import normal_quantile
from levelhead.statistics.measured import Estimate, Quantity, difference, mean
from levelhead.studies.confidence_course import confidence_course
from levelhead.studies.qualities import (
    IMAGES,
    corrupted,
    estimate_of,
    kept_outputs,
    listings,
    out_of_distribution,
    quality,
)
from levelhead.studies.understood import SCHEMA, Understood
from levelhead.text import interval_text

METHOD = (
    "the examples' variance of the seeds' mean (shares: Wilson, calibration errors: the seeds' "
    "bias-corrected intervals, AUROC: DeLong, else by influence values), widened by the seeds' "
    "variance s²/S, Student's t with the degrees of freedom of Welch and Satterthwaite; one seed: "
    "the examples alone; differences are paired by seed and example; each interval stands for "
    "itself, however many there are"
)
# Hard and smoothed targets have these fields as they are by default.
_TARGETS = ("loss", "strength", "margin", "smoothing_by_class", "prior", "targets", "mix",
            "mix_alpha", "teacher", "noise")  # fmt: skip
# What is held against which series of hard targets: smoothing against hard plus temperature, too.
_AGAINST = {"raw": ("raw", "temperature"), "pnorm": ("pnorm", "temperature", "raw")}


MEASURES = {
    "accuracy": Quantity("accuracy", "up", 100, 1, share=True),
    "nll": Quantity("NLL", "down"),
    "smece": Quantity("smooth calibration error", "down", 100, 2, biased=True),
    "aurc": Quantity("AURC", "down", 100, 2),
    "corrupted_accuracy": Quantity("accuracy on corrupted images", "up", 100, 1, share=True),
    "corrupted_ece": Quantity("ECE on corrupted images", "down", 100, 2, biased=True),
    "corrupted_auroc": Quantity("AUROC of corrupted images", "up", 100, 1),
    "student_accuracy": Quantity("accuracy of students", "up", 100, 1, share=True),
}
"""The measures; `--ood` adds `ood_NAME` for each data set."""


@dataclass(frozen=True, eq=False)
class _Setting:
    """Runs that differ in their seed alone; `estimates` by measure and series, then by seed."""

    name: str
    recipe: Recipe
    remedy: bool
    runs: dict[int, Run]
    estimates: dict[tuple[str, str], dict[Any, Estimate]]


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
    images (means over `corruptions.AMOUNTS`), AUROC against test images of the data sets
    `ood`, accuracy of `students` (runs taught by one of `runs`) by distillation temperature; and
    mean confidence minus accuracy on validation after each epoch.
    Predictions are made once and kept in each run's outputs/; `watch` gets a sentence of each.
    Raises LevelheadError for runs that are judged on different images, a recipe and seed given
    twice, `ood` that is the runs' own data or not unique in name, and students of other teachers.
    Source: Müller et al. 2019; Xia et al. 2025 (AURC); Hendrycks and Dietterich 2019.
    """
    if not runs:
        raise LevelheadError("no run: give at least one")
    normal_quantile(level)
    elsewhere = listings(ood, runs[0])
    for run in (*runs, *students):
        if run.data["hashes"]["test"] != runs[0].data["hashes"]["test"]:
            raise LevelheadError(
                f"{run.folder}: judged on other test images than {runs[0].folder}; give runs "
                "that split the same data alike"
            )
    settings = _settings(runs)
    clean: dict[Any, Examples] = {}
    for setting in settings:
        for seed, run in setting.runs.items():
            look = functools.partial(kept_outputs, run, device, watch)
            estimates = quality(run, level) | corrupted(run, level, look, clean)
            estimates |= out_of_distribution(run, elsewhere, level, look)
            for key, estimate in estimates.items():
                setting.estimates.setdefault(key, {})[seed] = estimate
    _taught(settings, students, level)
    measures = MEASURES | {
        f"ood_{name}": Quantity(f"AUROC, {name}", "up", 100, 1) for name in elsewhere
    }
    hard = next((s for s in settings if not (s.remedy or s.recipe.smoothing)), None)
    rows = [_setting_json(setting, measures, level) for setting in settings]
    differences = [
        _difference(setting, hard, key, series, measures[key[0]], level)
        for setting in settings
        for key in setting.estimates
        if hard is not None and setting is not hard
        for series in _AGAINST.get(key[1], (key[1],))
        if (key[0], series) in hard.estimates
    ]
    used = {key for setting in settings for key in setting.estimates}
    findings = {
        "schema": SCHEMA,
        "n": runs[0].data["counts"]["test"],
        "n_corrupted": min(IMAGES, runs[0].data["counts"]["test"]),
        "n_elsewhere": {
            name: min(IMAGES, len(listing.splits["test"])) for name, listing in elsewhere.items()
        },
        "corruptions": AMOUNTS,
        "interval": {"level": level, "method": METHOD},
        "measures": {
            name: measure.to_json()
            for name, measure in measures.items()
            if any(name == key[0] for key in used)
        },
        "hard": None if hard is None else hard.name,
        "settings": rows,
        "differences": differences,
        "words": _words(rows, differences, measures, hard),
    }
    return Understood(findings, findings)


def _settings(runs: Sequence[Run]) -> list[_Setting]:
    """Runs by recipe: hard targets first, then by epsilon, remedies last."""
    groups: dict[Recipe, dict[int, Run]] = {}
    for run in runs:
        teacher, seed = Path(run.recipe.teacher or ""), run.recipe.seed
        if teacher.name.startswith("seed-"):  # each seed's own
            teacher = teacher.parent
        alike: dict[str, Any] = {"data": "", "seed": 0, "save_every": None, "device": "auto"}
        alike["teacher"] = teacher.name or None
        group = groups.setdefault(run.recipe.replace(**alike), {})
        if seed in group:
            raise LevelheadError(
                f"{run.folder}: the same recipe and seed as {group[seed].folder}; give one of them"
            )
        group[seed] = run
    usual: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Recipe)}
    usual = {name: usual[name] for name in _TARGETS}
    plain = [recipe for recipe in groups if recipe.replace(**usual) == recipe]
    plain = plain or [next(iter(groups)).replace(**usual, smoothing=0)]
    base = min(plain, key=lambda recipe: recipe.smoothing)  # the first of equals
    settings = []
    for recipe, group in groups.items():
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
        entry = judge(test, metrics=("accuracy",), level=level)["metrics"]["accuracy"]
        (setting, seed), key = own[0], ("student_accuracy", series)
        group = setting.estimates.setdefault(key, {})
        if (seed, recipe.seed) in group:
            raise LevelheadError(
                f"--students {student.folder}: a second one of the same teacher, temperature and "
                "seed; give one of them"
            )
        group[seed, recipe.seed] = estimate_of(entry, test.rows.correct)
    if len(kinds) > 1:
        raise LevelheadError(
            "--students: differ in more than teacher, temperature and seed; give those of one kind"
        )


def _setting_json(
    setting: _Setting, measures: Mapping[str, Quantity], level: float
) -> dict[str, Any]:
    """A setting as findings.json has it."""
    numbers: dict[str, dict[str, Any]] = {}
    for (name, series), estimates in setting.estimates.items():
        entry = mean(estimates, measures[name], level).to_json()
        numbers.setdefault(name, {})[series] = entry
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
    measure: Quantity,
    level: float,
) -> dict[str, Any]:
    """Setting minus hard targets in one measure, paired over the seeds that both have."""
    own, other = setting.estimates[key], hard.estimates[key[0], series]
    change = difference(own, other, measure, level)
    return {
        "setting": setting.name,
        "measure": key[0],
        "series": key[1],
        "against": series,
        **change.to_json(),
        "verdict": change.verdict,
    }


def _words(
    settings: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Quantity],
    hard: _Setting | None,
) -> list[str]:
    """What smoothing bought and cost here."""
    if hard is None:
        return [
            "No setting has hard targets, so nothing says what smoothing bought: give runs with "
            "--smoothing 0 too."
        ]
    lines: list[str] = []
    for name in (s["name"] for s in settings if s["name"] != hard.name):
        own = {
            (d["measure"], d["series"], d["against"]): d
            for d in differences
            if d["setting"] == name and d["value"] is not None
        }
        shared = _setting_sentences(name, own, measures) if own else []
        lines += shared or [f"{name}: no seed in common with {hard.name}."]
    if not lines:
        lines = ["Hard targets alone: give smoothed runs to see what smoothing buys."]
    if any(len(setting["seeds"]) == 1 for setting in settings):
        lines.append("Mind: one seed speaks for these models, not for their settings.")
    return lines


Key = tuple[str, str, str]  # measure, series, against which series of hard targets
REMEDIED = {"worse": "does not fix it", "better": "more than fixes it"}


def _setting_sentences(
    name: str, own: Mapping[Key, Mapping[str, Any]], measures: Mapping[str, Quantity]
) -> list[str]:
    """Of one setting: its quality, its ranking of errors, and what else can be told."""

    def change(key: Key, title: str = "") -> str:
        quantity = measures[key[0]]
        return f"{title or quantity.title} {_change(own[key], quantity)}"

    changes = [
        change(("accuracy", "raw", "raw")),
        change(("nll", "raw", "temperature"), "NLL without temperature"),
        change(("nll", "temperature", "temperature"), "NLL with it"),
        change(("smece", "temperature", "temperature")),
    ]
    top, pnorm = (("aurc", series, "temperature") for series in ("temperature", "pnorm"))
    ranking = (
        f"{change(top, 'AURC by the top probability')}; {change(pnorm, 'by the p-norm score')}"
    )
    if own[top]["verdict"] == "worse":
        ranking += (
            f", which {REMEDIED.get(own[pnorm]['verdict'], 'fixes it as far as can be told')}"
        )
    corrupted: list[Key] = [
        ("corrupted_accuracy", "raw", "raw"),
        ("corrupted_ece", "temperature", "temperature"),
    ]
    by_energy = {key: f"{measures[key[0]].title} by energy" for key in own if key[1] == "energy"}
    elsewhere = {key: measures[key[0]].title for key in corrupted} | by_energy
    students = {
        key: f"{measures[key[0]].title} ({key[1]})"
        for key in sorted(own)
        if key[0] == "student_accuracy"
    }
    lines = [
        f"{name} against hard targets plus temperature: {'; '.join(changes)}.",
        f"{name}, ranking its errors: {ranking}.",
    ]
    for where, titles in (("on other images", elsewhere), ("as a teacher", students)):
        verdicts = {key: own[key]["verdict"] for key in titles}
        clear = [change(key, titles[key]) for key in titles if verdicts[key] != "cannot tell"]
        rest = [titles[key] for key in titles if verdicts[key] == "cannot tell"]
        clear += [f"cannot tell of {', '.join(rest)}"] if rest else []
        lines += [f"{name}, {where}: {'; '.join(clear)}."] if clear else []
    return lines


def _change(entry: Mapping[str, Any], quantity: Quantity) -> str:
    """`+0.4 points [-0.2, +1.0] (cannot tell)`."""
    text = interval_text(
        entry["value"],
        entry["low"],
        entry["high"],
        digits=quantity.digits,
        scale=quantity.scale,
        sign=True,
        unit=quantity.unit,
    )
    return f"{text} ({entry['verdict']})"
