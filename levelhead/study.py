"""Study: settings x seeds trained, judged on one test split, compared in pairs, put into words.

Every setting is judged before ("raw") and after temperature ("calibrated"), because smoothing is
always compared with hard targets plus temperature scaling. The setting to use is chosen on
validation; what it is worth is said by the test split.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError, nearest
from levelhead.intervals import (
    example_variance,
    normal_quantile,
    paired_seeds,
    seeds_mean,
    weights,
    wilson,
)
from levelhead.metrics import METRICS
from levelhead.metrics.ece import Binned
from levelhead.models import MODELS, Shape, build
from levelhead.outputs import Outputs
from levelhead.prepare import Data, prepare
from levelhead.recipe import Recipe
from levelhead.resolve import frozen
from levelhead.runs import Run, new_folder, read_json, write, write_json
from levelhead.targets import check_smoothing
from levelhead.train import Event, Note, Progress, resume, train

LEVEL, RESAMPLES = 0.95, 1000
METHOD = (
    "over seeds s²/S plus the variance over examples of the seeds' mean, Student's t with the "
    "degrees of freedom of Welch and Satterthwaite; accuracy's examples by Wilson, ECE's by the "
    "mean of the seeds' bias-corrected intervals; one seed: the examples alone; differences are "
    "paired by seed and example; each interval stands for itself, however many there are"
)
STAGES = ("raw", "calibrated")
MIXED = "raw against calibrated baseline"
# Kind of difference: (stage of the setting, stage of the baseline).
KINDS = {"raw": ("raw", "raw"), "calibrated": ("calibrated",) * 2, MIXED: STAGES}
# Fields that say which pictures are which, or that --seeds varies.
FIXED = ("data", "seed", "split_seed", "validation", "test")


@dataclass(frozen=True)
class Cell:
    """One training of a study: `name` is its setting's, `folder` is relative to the study's."""

    name: str
    changes: dict[str, Any]
    seed: int
    folder: str
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """A judged study; `findings` is what its findings.json holds."""

    folder: Path
    findings: dict[str, Any]


def cells(recipe: Recipe, grid: Mapping[str, Sequence[Any]], seeds: int) -> list[Cell]:
    """Every combination of the values in `grid`, times seeds recipe.seed .. + seeds - 1.

    Smoothing varies fastest, and names are of the fields with several values ("model=cnn,
    smoothing=0.1"). Raises LevelheadError for fields and values that cannot be compared.
    """
    if seeds < 1:
        raise LevelheadError(f"--seeds {seeds}: must be 1 or more, for example 3")
    known = [field.name for field in dataclasses.fields(Recipe)]
    values: dict[str, list[Any]] = {}
    for name, given in grid.items():
        if name not in known:
            raise LevelheadError(f"a study of {name!r}: no such field; {nearest(name, known)}")
        if not isinstance(given, Sequence) or isinstance(given, str) or not given or None in given:
            raise LevelheadError(f"{name}: {given!r} cannot be compared; give a tuple of values")
        values[name] = list(dict.fromkeys(given))
        flag = "--" + name.replace("_", "-")
        if name in FIXED and len(values[name]) > 1:
            raise LevelheadError(
                f"{flag}: a study keeps it at one value, so that all are judged on the same "
                "pictures; --seeds N repeats each setting"
            )
    base = recipe.replace(**{name: some[0] for name, some in values.items()})
    fields = [name for name in known if len(values.get(name, ())) > 1 and name != "smoothing"]
    fields += ["smoothing"] * (len(values.get("smoothing", ())) > 1)
    found, folders = [], set()
    for chosen in itertools.product(*(values[name] for name in fields)):
        changes = dict(zip(fields, chosen, strict=True))
        shown = changes or {"smoothing": base.smoothing}
        name = ", ".join(f"{field}={_shown(value)}" for field, value in shown.items())
        stem = re.sub(r"[^\w=.+,-]+", "-", name.replace(", ", ","), flags=re.ASCII)[:120]
        folder = next(
            f
            for n in itertools.count(1)
            if (f := f"{stem}-{n}"[: -2 * (n == 1) or None]) not in folders
        )
        folders.add(folder)
        for seed in range(base.seed, base.seed + seeds):
            cell = base.replace(**changes, seed=seed)
            found.append(Cell(name, changes, seed, f"{folder}/seed-{seed}", cell))
    return found


def compare(
    recipe: Recipe,
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    data: Data | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Study:
    """Train every cell and judge the settings (default folder: the next runs/NAME-study-N).

    What is finished already is kept and what was stopped goes on, so that the same call with the
    same `out` continues a study; without `out`, the newest unfinished study of this very request
    in runs/. A training that fails is listed, and the others go on. `watch` is told every Event.
    Raises LevelheadError for bad input, for another request than the folder's, for settings
    that would be judged on different pictures, and if every training failed.
    """
    todo = cells(recipe, grid, seeds)
    asked = _request(recipe, grid, seeds)
    folder = _unfinished(asked) if out is None else Path(out)
    if folder is not None and (folder / "study.toml").exists():
        _same_request(folder, asked)
    else:
        folder = None
    known: dict[str, Data] = {}
    if folder is None or not all(Run(folder / cell.folder).finished for cell in todo):
        known = _prepare(todo, data, watch)
    if folder is None:
        folder = new_folder(out, f"{next(iter(known.values())).name}-study")
        write(folder / "study.toml", _toml(asked))
    said: set[str] = set()

    def once(event: Event) -> None:
        if not isinstance(event, Note) or event.text not in said:
            watch(event)
        if isinstance(event, Note):
            said.add(event.text)

    runs: dict[str, list[tuple[Cell, Run]]] = {}
    failed: list[dict[str, Any]] = []
    for number, cell in enumerate(todo, 1):
        run = Run(folder / cell.folder)
        try:
            if not run.finished:
                watch(Note(f"{cell.name}, seed {cell.seed} ({number} of {len(todo)})"))
                run = _train(run.folder, cell, known[cell.name], once)
            runs.setdefault(cell.name, []).append((cell, run))
        except LevelheadError as error:
            watch(Note(f"Failed: {error}"))
            failed.append({"name": cell.name, "seed": cell.seed, "why": str(error)})
    if not runs:
        raise LevelheadError(f"{folder}: every training failed; the first: {failed[0]['why']}")
    hashes = [next(iter(known.values())).splits.hashes] if known else []
    for _, run in itertools.chain.from_iterable(runs.values()):
        hashes.append(run.data["hashes"])
        if hashes[-1] != hashes[0]:
            raise LevelheadError(
                f"{run.folder}: trained on other splits than the rest of the study; the data has "
                "changed: restore it, or compare anew into another --out"
            )
    findings = _findings(folder, list(runs.values()), failed)
    write_json(folder / "findings.json", findings)
    _report(folder)
    return Study(folder, findings)


def open_study(folder: str | Path) -> Study:
    """A study that was judged. Raises LevelheadError where there is none."""
    path = Path(folder)
    if not (path / "study.toml").exists():
        raise LevelheadError(
            f"{path}: not a study folder (no study.toml); give one that levelhead compare made"
        )
    if not (path / "findings.json").exists():
        raise LevelheadError(f"{path}: not finished; the same levelhead compare goes on with it")
    return Study(path, read_json(path / "findings.json"))


def table(findings: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a setting: accuracy, NLL and ECE before and after temperature, T."""
    header = ["", "accuracy %", "NLL", "NLL after T", "ECE %", "ECE % after T", "T"]
    rows = []
    for setting in findings["settings"]:
        raw, after = setting["raw"], setting["calibrated"]
        rows.append(
            [
                setting["name"],
                _cell(raw["accuracy"], 1, 100),
                _cell(raw["nll"], 3),
                _cell(after["nll"], 3),
                _cell(raw["ece"], 1, 100),
                _cell(after["ece"], 1, 100),
                _cell(setting["temperature"], 2),
            ]
        )
    return header, rows


# --- training -----------------------------------------------------------------------------------


def _prepare(
    todo: list[Cell], data: Data | None, watch: Callable[[Event], None]
) -> dict[str, Data]:
    """Data by setting, read once for all that see the same; refuses before anything is trained."""
    known: dict[str, Data] = {}
    seen: dict[tuple[Any, ...], Data] = {}
    for cell in {cell.name: cell for cell in reversed(todo)}.values():
        recipe = cell.recipe
        alike = (recipe.model, recipe.image_size, recipe.resize)
        last = seen.get(alike, data)
        recipe, data = prepare(
            recipe,
            known=last,
            progress=lambda done, total: watch(Progress("reading pictures", done, total)),
        )
        seen[alike] = known[cell.name] = data
        classes = len(data.splits.class_names)
        check_smoothing(recipe.smoothing, classes, recipe.convention)
        if recipe.model not in MODELS:
            # Refuses a name that no library knows.
            shape = Shape(data.channels, data.splits.train.images.shape[1], classes)
            build(recipe.model, shape, mean=data.mean, std=data.std)
        first = next(iter(known))
        if data.splits.hashes != known[first].splits.hashes:
            raise LevelheadError(
                f"{cell.name} and {first}: would be judged on different pictures; compare only "
                "settings that split the data alike"
            )
    return known


def _train(folder: Path, cell: Cell, data: Data, watch: Callable[[Event], None]) -> Run:
    if (folder / "recipe.toml").exists():
        return resume(folder, watch=watch)
    (folder / ".recipe.toml.part").unlink(missing_ok=True)  # stopped while it was being written
    return train(cell.recipe, out=folder, data=data, watch=watch)


def _request(recipe: Recipe, grid: Mapping[str, Sequence[Any]], seeds: int) -> dict[str, Any]:
    """What was asked for, as study.toml gives it back: no None, no tuples."""
    base = {k: v for k, v in dataclasses.asdict(recipe).items() if v is not None and k not in grid}
    if base["data"] != "digits":
        base["data"] = str(Path(base["data"]).expanduser().absolute())
    asked = {"seeds": seeds, "recipe": base, "grid": {k: list(v) for k, v in grid.items()}}
    return dict(json.loads(json.dumps(asked)))


def _toml(asked: Mapping[str, Any]) -> str:
    """JSON's strings, numbers, booleans and flat lists are also TOML's."""
    lines = ["# What is compared here; the same levelhead compare goes on where it stopped."]
    lines.append(f"seeds = {asked['seeds']}")
    for part in ("recipe", "grid"):
        lines += ["", f"[{part}]"]
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in asked[part].items()]
    return "\n".join(lines) + "\n"


def _stored(folder: Path) -> dict[str, Any]:
    path = folder / "study.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return {"seeds": found["seeds"], "recipe": found["recipe"], "grid": found["grid"]}
    except (OSError, ValueError, KeyError) as error:
        raise LevelheadError(
            f"{path}: cannot be read ({error}); restore it, or compare into another --out"
        ) from None


def _same_request(folder: Path, asked: dict[str, Any]) -> None:
    """Raise LevelheadError, naming the difference, if the folder's study is another."""
    there, here = (
        {**a["recipe"], **a["grid"], "seeds": a["seeds"]} for a in (_stored(folder), asked)
    )
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            old, new = (_shown(a[name]) if name in a else "unset" for a in (there, here))
            raise LevelheadError(
                f"--out {folder}: holds a study with {name} {old}, not {new}; ask for the same, "
                "or choose another folder"
            )


def _unfinished(asked: dict[str, Any]) -> Path | None:
    """The newest study of this request in runs/ that has no findings yet."""
    stopped = [p.parent for p in Path("runs").glob("*-study-*/study.toml")]
    stopped = [p for p in stopped if not (p / "findings.json").exists() and _stored(p) == asked]
    return max(stopped, key=lambda path: path.stat().st_mtime, default=None)


def _report(folder: Path) -> None:
    from levelhead.report import write_report

    write_report(folder)


# --- judging ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """A run's test outputs at one stage, by metric."""

    values: dict[str, float]
    # What the variance over examples comes from: [N] of means over examples, of ECE its bootstrap
    # values [R] (first the sorted bins).
    rows: dict[str, Any]
    ends: dict[str, tuple[float, float]]  # of the run alone
    reasons: dict[str, str]  # why there is no number


@dataclass(frozen=True)
class _Setting:
    name: str
    changes: dict[str, Any]
    recipe: Recipe
    seeds: list[int]
    folders: list[str]
    runs: list[Run]
    stages: dict[str, list[_Judged]]
    validation: dict[str, list[float]]  # NLL by stage, a value a seed

    @property
    def validated(self) -> float:
        return float(np.mean(self.validation["calibrated"]))


def _findings(
    folder: Path, runs: list[list[tuple[Cell, Run]]], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    settings = [_setting(group) for group in runs]
    judged = [one for s in settings for stage in STAGES for one in s.stages[stage]]
    for one, drawn in zip(judged, _ece_bootstrap([j.rows["ece"] for j in judged]), strict=True):
        one.rows["ece"] = drawn
    shown = [_shown_setting(setting) for setting in settings]
    differences = [
        entry
        for pair in _pairs(settings)
        for kind in _kinds(*pair)
        for entry in _differ(*pair, kind)
    ]
    data = settings[0].runs[0].data
    best, sentences = _recommend(folder, settings, shown, differences, failed)
    return {
        "schema": 1,
        "data": data,
        "n": data["counts"]["test"],
        "classes": len(data["class_names"]),
        "class_names": data["class_names"],
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "method": METHOD},
        "settings": shown,
        "differences": differences,
        "failed": failed,
        "recommended": best,
        "recommendation": sentences,
        "seconds": sum(s["seconds"]["total"] for s in shown),
    }


def _setting(group: list[tuple[Cell, Run]]) -> _Setting:
    first = group[0][0]
    stages: dict[str, list[_Judged]] = {stage: [] for stage in STAGES}
    validation: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _, run in group:
        calibrator, told = run.calibration, run.findings
        for split in ("test", "validation"):
            raw = run.outputs(split)
            for stage, outputs in zip(STAGES, (raw, calibrator.apply(raw)), strict=True):
                if split == "validation":
                    validation[stage].append(float(outputs.rows.nll.mean()))
                else:
                    name = "test" if stage == "raw" else "test_calibrated"
                    stages[stage].append(_judge(outputs, told[name]["metrics"]))
    return _Setting(
        first.name,
        first.changes,
        first.recipe,
        [cell.seed for cell, _ in group],
        [cell.folder for cell, _ in group],
        [run for _, run in group],
        stages,
        validation,
    )


def _judge(outputs: Outputs, told: Mapping[str, Any]) -> _Judged:
    judged = _Judged({}, {}, {}, {})
    for name, metric in METRICS.items():
        reason = metric.undefined(outputs)
        if reason is not None:
            judged.reasons[name] = reason
            continue
        prepared = metric.prepare(outputs)
        judged.values[name], judged.rows[name] = metric.value(prepared)[name], prepared
        judged.ends[name] = (told[name]["low"], told[name]["high"])
    return judged


def _ece_bootstrap(binned: Sequence[Binned]) -> Tensor:
    """ECE of several sources under the same bootstrap weights, float64 [M, RESAMPLES].

    What `intervals.replicates` gives, by one matrix product for all sources and bins.
    """
    n, bins = len(binned[0].index), len(binned[0].bins.count)
    gaps = torch.zeros(n, len(binned) * bins, dtype=torch.float64)
    for m, one in enumerate(binned):
        gaps[torch.arange(n), one.index + m * bins] = one.gap
    drawn = [(block @ gaps).view(len(block), -1, bins) for block in weights(n, RESAMPLES)]
    return torch.cat([block.abs().sum(2) / n for block in drawn]).T


def _variance(name: str, rows: Tensor) -> float:
    """Variance over examples of the mean over seeds, from [S, N], or of ECE from [S, RESAMPLES]."""
    return float(rows.mean(0).var()) if name == "ece" else example_variance(rows)


def over_seeds(values: Sequence[float], ends: tuple[float, float]) -> tuple[float, float, float]:
    """Mean over seeds, and its interval: `ends`, the examples' part, widened by the seeds' part.

    An interval of the examples that is not centred at the mean keeps its centre.
    """
    centre, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    found = seeds_mean(values, (half / normal_quantile(LEVEL)) ** 2, LEVEL)
    shift = centre - found.mean
    return found.mean, found.low + shift, found.high + shift


def _summary(name: str, judged: Sequence[_Judged]) -> dict[str, Any]:
    """One metric of one setting at one stage: mean over seeds, interval, values by seed."""
    reason = next((j.reasons[name] for j in judged if name in j.reasons), None)
    if reason is not None:
        return _entry(math.nan, math.nan, math.nan, reason) | {"per_seed": []}
    values = [j.values[name] for j in judged]
    value, (low, high) = float(np.mean(values)), judged[0].ends[name]
    if len(values) > 1:
        share = METRICS[name].interval == "wilson"
        if name == "ece":
            low, high = np.mean([j.ends[name] for j in judged], axis=0).tolist()
        else:
            rows = torch.stack([j.rows[name] for j in judged])
            variance = _variance(name, rows)
            half = normal_quantile(LEVEL) * math.sqrt(variance)
            low, high = value - half, value + half
            if share:
                # Wilson at the number of examples that would vary as the seeds' mean does.
                number = value * (1 - value) / variance if variance > 0 else rows.shape[1]
                low, high = wilson(value * number, number or rows.shape[1], LEVEL)
        value, low, high = over_seeds(values, (low, high))
        low = max(low, 0.0)
        high = min(high, 1.0) if share else high
    return _entry(value, low, high) | {"per_seed": values}


def _temperature(setting: _Setting) -> dict[str, Any]:
    """Geometric mean over seeds; the fits' own variances, of one validation split, are averaged."""
    told = [run.findings["test_calibrated"]["temperature"] for run in setting.runs]
    values = [t["value"] for t in told]
    value = math.exp(float(np.mean(np.log(values))))
    seeds = {"per_seed": values}
    if any(not t["low"] or t["high"] is None for t in told):
        reason = "a seed's validation split sets it no limit on one side"
        return _entry(value, math.nan, math.nan, reason) | seeds
    if len(told) == 1:
        return _entry(value, told[0]["low"], told[0]["high"]) | seeds
    spread = [math.log(t["high"] / t["low"]) / 2 / normal_quantile(LEVEL) for t in told]
    found = seeds_mean(np.log(values), float(np.mean(np.square(spread))), LEVEL)
    return _entry(value, math.exp(found.low), math.exp(found.high)) | seeds


def _shown_setting(setting: _Setting) -> dict[str, Any]:
    seconds = [run.findings["seconds"] for run in setting.runs]
    stages = {s: {name: _summary(name, setting.stages[s]) for name in METRICS} for s in STAGES}
    return {
        "name": setting.name,
        "changes": setting.changes,
        "seeds": setting.seeds,
        "runs": setting.folders,
        **stages,
        "temperature": _temperature(setting),
        "validation_nll": {s: float(np.mean(setting.validation[s])) for s in STAGES},
        "seconds": {"mean": float(np.mean(seconds)), "total": float(np.sum(seconds))},
    }


# --- comparing ----------------------------------------------------------------------------------


def _baseline(settings: Sequence[_Setting]) -> _Setting:
    """Hard targets if there are any, else the first setting."""
    return next((s for s in settings if s.recipe.smoothing == 0), settings[0])


def _twin(setting: _Setting, settings: Sequence[_Setting]) -> _Setting | None:
    """The setting with hard targets that differs in nothing else."""
    wanted = setting.recipe.replace(smoothing=0.0)
    return next((s for s in settings if s.recipe == wanted and s is not setting), None)


def _pairs(settings: Sequence[_Setting]) -> Iterator[tuple[_Setting, _Setting]]:
    """Every setting against the baseline, and a smoothed one against its own hard targets."""
    base = _baseline(settings)
    for setting in settings:
        twin = _twin(setting, settings)
        if setting is not base:
            yield setting, base
        if twin is not None and twin is not base:
            yield setting, twin


def _kinds(setting: _Setting, base: _Setting) -> list[str]:
    smoothed = setting.recipe.smoothing > 0 and base.recipe.smoothing == 0
    return list(KINDS) if smoothed else [kind for kind in KINDS if kind != MIXED]


def _differ(setting: _Setting, base: _Setting, kind: str) -> Iterator[dict[str, Any]]:
    """Setting − baseline by metric, over the seeds that both have."""
    shared = [seed for seed in setting.seeds if seed in base.seeds]
    there, here = (
        [one.stages[stage][one.seeds.index(seed)] for seed in shared]
        for one, stage in zip((setting, base), KINDS[kind], strict=True)
    )
    for name in METRICS:
        entry = {"setting": setting.name, "baseline": base.name, "kind": kind, "metric": name}
        if not shared or any(name in j.reasons for j in (*there, *here)):
            why = "not defined here" if shared else "no seed trained in both settings"
            yield (
                entry | _entry(math.nan, math.nan, math.nan, why) | {"words": f"No {name}: {why}."}
            )
            continue
        values = [a.values[name] - b.values[name] for a, b in zip(there, here, strict=True)]
        rows = [a.rows[name] - b.rows[name] for a, b in zip(there, here, strict=True)]
        variance = _variance(name, torch.stack(rows))
        if METRICS[name].interval == "wilson":
            # Two networks that agree on all n examples may differ on the next: never less than
            # one disagreement.
            variance = max(variance, 1 / rows[0].numel() ** 2)
        found = paired_seeds(values, variance, LEVEL)
        entry |= _entry(found.mean, found.low, found.high) | {"per_seed": values}
        yield entry | {"words": _words(entry)}


TITLES = {"accuracy": "accuracy", "top5": "top-5 accuracy", "nll": "NLL", "brier": "Brier score"}


def verdict(entry: Mapping[str, Any]) -> str:
    """better, worse, or "cannot tell" where the interval of the difference holds 0."""
    if entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return "cannot tell"
    return (
        "better"
        if (entry["value"] > 0) == (METRICS[entry["metric"]].direction == "up")
        else "worse"
    )


def _change(entry: Mapping[str, Any]) -> str:
    """`accuracy by +0.4 points [-0.2, +1.0]`."""
    title = TITLES.get(entry["metric"], entry["metric"].upper())
    numbers = [entry[key] for key in ("value", "low", "high")]
    if None in numbers:
        return f"{title} by an unknown amount ({entry['reason']})"
    scale, digits, unit = 1, 4, ""
    if METRICS[entry["metric"]].interval == "wilson":
        # An end that is not 0 is not shown as 0.0.
        scale, unit = 100, " points"
        digits = 1 if min(map(abs, numbers[1:])) >= 0.0005 or verdict(entry) == "cannot tell" else 2
    value, low, high = (f"{number * scale:+.{digits}f}" for number in numbers)
    return f"{title} by {value}{unit} [{low}, {high}]"


def _words(entry: Mapping[str, Any]) -> str:
    lead, own, other = {
        "raw": ("Before temperature, ", "", ""),
        "calibrated": ("After temperature, ", "", ""),
        MIXED: ("", " without temperature", " with temperature"),
    }[entry["kind"]]
    one = " (one seed: these models, not these settings)" if len(entry["per_seed"]) == 1 else ""
    return (
        f"{lead}{entry['setting']}{own} changes {_change(entry)} against "
        f"{entry['baseline']}{other}: {verdict(entry)}{one}."
    )


# --- recommending -------------------------------------------------------------------------------


def _recommend(
    folder: Path,
    settings: Sequence[_Setting],
    shown: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """The setting with the lowest validation NLL after temperature, its best run, and why."""
    n = settings[0].runs[0].data["counts"]["test"]
    by_name = {s["name"]: s for s in shown}
    lost = {f["name"] for f in failed}
    # A setting that failed with some seed stands behind all that did not.
    ranked = sorted(settings, key=lambda s: (s.name in lost, s.validated))
    best, base = ranked[0], _baseline(settings)
    run = int(np.argmin(best.validation["calibrated"]))
    path = folder / best.folders[run]

    def difference(setting: _Setting, to: _Setting, kind: str, metric: str) -> Mapping[str, Any]:
        wanted = (setting.name, to.name, kind, metric)
        keys = ("setting", "baseline", "kind", "metric")
        return next(d for d in differences if tuple(d[key] for key in keys) == wanted)

    if len(ranked) == 1:
        said = [
            f"{best.name} is the only setting that trained, so there is nothing to choose; the "
            f"figures are of {n:,} test examples."
        ]
    else:
        said = [
            f"Use {best.name} with temperature scaling: of {len(ranked)} settings it has the lowest "
            f"validation NLL after temperature, {best.validated:.4f} (next: {ranked[1].name}, "
            f"{ranked[1].validated:.4f}); validation chose, the figures below are of {n:,} test "
            "examples."
        ]
        other = best if best is not base else ranked[1]
        changes = [difference(other, base, "calibrated", metric) for metric in ("accuracy", "nll")]
        told = [f"{_change(change)}: {verdict(change)}" for change in changes]
        took, instead = (by_name[s.name]["seconds"]["mean"] for s in (other, base))
        tie = "; the data cannot tell the two apart, so either will do"
        said.append(
            f"After temperature, {other.name} changes {told[0]}; {told[1]}; against {base.name}, "
            f"and takes {took:.3g} s to train instead of {instead:.3g} s"
            f"{tie if all(verdict(c) == 'cannot tell' for c in changes) else ''}."
        )
    said.append(_against_temperature(ranked, settings, by_name, difference))
    caveats = []
    if any(frozen(r.recipe) and r.recipe.smoothing > 0 for s in settings for r in s.runs):
        caveats.append("the body is frozen, so smoothing touched the head alone")
    if all(len(s.seeds) == 1 for s in settings):
        caveats.append(
            "one seed a setting speaks for these models, not for the settings (--seeds 3)"
        )
    if failed:
        count = sum(len(s.seeds) for s in settings) + len(failed)
        first = failed[0]
        caveats.append(
            f"{len(failed)} of {count} trainings failed (first: {first['name']}, seed "
            f"{first['seed']}: {first['why']})"
        )
    if caveats:
        said.append(f"Mind: {'; '.join(caveats)}.")
    said.append(
        f"Predict with its best seed on validation: levelhead predict {shlex.quote(str(path))} "
        f"IMAGE; train it anew: {_command(best.recipe)}"
    )
    return {"setting": best.name, "seed": best.seeds[run], "run": best.folders[run]}, said


def _against_temperature(
    ranked: Sequence[_Setting],
    settings: Sequence[_Setting],
    shown: Mapping[str, Mapping[str, Any]],
    difference: Callable[..., Mapping[str, Any]],
) -> str:
    """Whether temperature scaling alone does as well as smoothing."""
    base = _baseline(settings)
    smoothed = next((s for s in ranked if s.recipe.smoothing > 0), None)
    if smoothed is None:
        entry = shown[ranked[0].name]
        before, after = entry["raw"]["nll"]["value"], entry["calibrated"]["nll"]["value"]
        return (
            f"Temperature ({entry['temperature']['value']:.2f}) takes the NLL of "
            f"{ranked[0].name} from {before:.4f} to {after:.4f}."
        )
    if base.recipe.smoothing > 0:
        return (
            "No setting has hard targets, so nothing says whether temperature scaling alone does "
            "as well as smoothing: compare with --smoothing 0 too."
        )
    hard = _twin(smoothed, settings) or base
    entry = difference(smoothed, hard, MIXED, "nll")
    lead = {
        "better": "Temperature scaling alone does not do as well as smoothing alone",
        "worse": "Temperature scaling alone does better than smoothing alone",
        "cannot tell": "The data cannot tell smoothing alone from temperature scaling alone",
    }[verdict(entry)]
    return (
        f"{lead}: {smoothed.name} without temperature changes {_change(entry)} against "
        f"{hard.name} with temperature."
    )


def _command(recipe: Recipe) -> str:
    """`levelhead train` with the flags that are not the defaults."""
    words = ["levelhead", "train", recipe.data]
    for field in dataclasses.fields(Recipe)[1:]:
        value = getattr(recipe, field.name)
        if value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(_shown, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


# --- small things -------------------------------------------------------------------------------


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))


def _shown(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _entry(value: float, low: float, high: float, reason: str = "not finite") -> dict[str, Any]:
    """Numbers for JSON: what is not finite is None, beside a reason."""
    entry: dict[str, Any] = {
        key: float(number) if math.isfinite(number) else None
        for key, number in (("value", value), ("low", low), ("high", high))
    }
    return entry | ({"reason": reason} if None in entry.values() else {})


def _cell(entry: Mapping[str, Any], digits: int, scale: float = 1) -> str:
    """`0.412 ± 0.013`, or `1.1 [0.0, 0.9]` where the value is not in the middle."""
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    shown = f"{value * scale:.{digits}f}"
    if low is None or high is None:
        return shown
    if abs(low + high - 2 * value) * scale < 10**-digits:
        return f"{shown} ± {(high - low) / 2 * scale:.{digits}f}"
    return f"{shown} [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"
