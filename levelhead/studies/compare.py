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
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead import metrics
from levelhead.errors import LevelheadError, nearest
from levelhead.files import read_json, write, write_json
from levelhead.metrics.ece import Binned
from levelhead.models import MODELS
from levelhead.recipe import Recipe
from levelhead.report import command, write_report
from levelhead.runs import Run, new_folder
from levelhead.statistics.examples import example_variance, normal_quantile, weights
from levelhead.statistics.seeds import paired_seeds, seeds_mean, seeds_share, widened
from levelhead.studies.workers import LATE, Job, carry_on, side_by_side
from levelhead.targets import check_smoothing
from levelhead.text import duration
from levelhead.training.defaults import frozen
from levelhead.training.events import Event, Note, Progress
from levelhead.training.prepare import Data, prepare
from levelhead.training.run import untrained

LEVEL, RESAMPLES = 0.95, 1000
METHOD = (
    "s²/S over seeds plus the variance over examples of the seeds' mean, Student's t with the "
    "degrees of freedom of Welch and Satterthwaite (shares: Wilson, ECE: bias-corrected, in place "
    "of the examples' part); one seed: the examples alone; differences are paired by seed and "
    "example; each interval stands for itself, however many there are"
)
# A run's findings by stage, and the stages (setting's, baseline's) of each kind of difference.
STAGES = {"raw": "test", "calibrated": "test_calibrated"}
MIXED = "raw against calibrated baseline"
KINDS = {"raw": ("raw", "raw"), "calibrated": ("calibrated", "calibrated"), MIXED: tuple(STAGES)}
# Few, so that a table of settings can be read: a run's own findings hold the others.
METRICS = {name: metrics.METRICS[name] for name in ("accuracy", "top5", "nll", "brier", "ece")}
# Fields that say which pictures are which, or that --seeds varies: one value a study.
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

    Smoothing varies fastest; names tell the fields with several values ("model=cnn,
    smoothing=0.1"). Raises LevelheadError for fields and values that cannot be compared.
    """
    if seeds < 1:
        raise LevelheadError(f"--seeds {seeds}: must be 1 or more, for example 3")
    known = [field.name for field in dataclasses.fields(Recipe)]
    values = {name: list(dict.fromkeys(given)) for name, given in grid.items()}
    for name, some in values.items():
        flag = "--" + name.replace("_", "-")
        if name not in known:
            raise LevelheadError(f"{flag}: no such field; {nearest(name, known)}")
        if not some or None in some:
            raise LevelheadError(f"{flag} {some}: cannot be compared; give plain values")
        if name in FIXED and len(some) > 1:
            raise LevelheadError(
                f"{flag}: a study has one, so that all settings are judged on the same pictures"
            )
    base = recipe.replace(**{name: some[0] for name, some in values.items()})
    fields = [name for name in known if len(values.get(name, ())) > 1]
    fields.sort(key="smoothing".__eq__)  # last
    found: list[Cell] = []
    for number, chosen in enumerate(itertools.product(*(values[name] for name in fields))):
        changes = dict(zip(fields, chosen, strict=True))
        told = changes or {"smoothing": base.smoothing}
        name = ", ".join(f"{field}={_shown(value)}" for field, value in told.items())
        folder = re.sub(r"[^\w=.+,-]+", "-", name.replace(", ", ","), flags=re.ASCII)[:100]
        if any(cell.folder.startswith(f"{folder}/") for cell in found):
            folder += f"-{number}"
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
    jobs: int = 1,
    deadline: float = math.inf,
    watch: Callable[[Event], None] = lambda event: None,
) -> Study:
    """Train every cell and judge the settings (default folder: the next runs/NAME-study-N).

    What is finished is kept and what was stopped goes on, so that the same call with the same
    `out` continues a study; without `out`, the newest unfinished study of this very request in
    runs/. A training that fails is listed, and the others go on; so is one that would end after
    `deadline` (by time.monotonic), going by the longest so far. `jobs` trains so many at once, each
    in a process with its share of the cores; another share may round otherwise in the last digit,
    so that the runs are like, not equal to, those of another `jobs`. `watch` is told every Event.
    Raises LevelheadError for bad input, for another request than the folder's, for settings
    that would be judged on different pictures, and if every training failed.
    """
    if jobs < 1:
        raise LevelheadError(f"--jobs {jobs}: must be 1 or more, for example 2")
    todo = cells(recipe, grid, seeds)
    asked = _request(recipe, grid, seeds)
    folder = _unfinished(asked) if out is None else Path(out)
    known: dict[str, Data] = {}
    if folder is not None and (folder / "study.toml").exists():
        _check_request(folder, asked)
        if not all(Run(folder / cell.folder).finished for cell in todo):
            known = _prepare(todo, data, watch)
    else:
        known = _prepare(todo, data, watch)
        folder = new_folder(out, f"{known[todo[0].name].name}-study")
        write(folder / "study.toml", asked)
    groups: dict[str, list[_Judged]] = {}
    failed: list[dict[str, Any]] = []
    hashes = [data.splits.hashes for data in known.values()]
    notes: set[str] = set()

    def once(event: Event) -> None:
        """Every run says the same about the data."""
        if not isinstance(event, Note) or event.text not in notes:
            watch(event)
        notes.update([event.text] if isinstance(event, Note) else [])

    wait = [cell for cell in todo if not Run(folder / cell.folder).finished]
    why: dict[Path, str] = {}
    if jobs > 1:
        why = side_by_side([_job(folder, cell) for cell in wait], jobs, deadline, once)
    longest = 0.0
    for number, cell in enumerate(todo, 1):
        run, began = Run(folder / cell.folder), time.monotonic()
        reason = why.get(run.folder)
        if reason is None and not run.finished and began + longest > deadline:
            reason = LATE
        try:
            if reason is None and not run.finished:
                watch(Note(f"{cell.name}, seed {cell.seed} ({number} of {len(todo)})"))
                run = carry_on(_job(folder, cell), known[cell.name], once)
                longest = max(longest, time.monotonic() - began)
        except LevelheadError as error:
            watch(Note(f"Failed: {error}"))
            reason = str(error)
        if reason is not None:
            failed.append({"name": cell.name, "seed": cell.seed, "why": reason})
            continue
        hashes.append(run.data["hashes"])
        if hashes[-1] != hashes[0]:
            raise LevelheadError(
                f"{run.folder}: trained on other splits than the rest of the study; the data has "
                "changed: restore it, or compare anew into another --out"
            )
        groups.setdefault(cell.name, []).append(_judge(cell, run))
    if late := sum(one["why"] == LATE for one in failed):
        watch(Note(f"{late} of {len(todo)} trainings wait: the time is spent, go on by this again"))
    if not groups:
        raise LevelheadError(f"{folder}: every training failed; the first: {failed[0]['why']}")
    findings = _findings(folder, list(groups.values()), failed)
    write_json(folder / "findings.json", findings)
    write_report(folder)
    return Study(folder, findings)


def open_study(folder: str | Path) -> Study:
    """A study that was judged. Raises LevelheadError where there is none."""
    path = Path(folder)
    if not ((path / "study.toml").exists() and (path / "findings.json").exists()):
        raise LevelheadError(
            f"{path}: no finished study; levelhead compare with --out {path} makes or ends one"
        )
    return Study(path, read_json(path / "findings.json"))


def table(findings: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a setting: accuracy, NLL and ECE before and after temperature, T."""
    header = ["", "accuracy %", "NLL", "NLL after T", "ECE %", "ECE % after T", "T"]
    rows = []
    for s in findings["settings"]:
        stages = s["raw"], s["calibrated"]
        row = [s["name"], _cell(s["raw"]["accuracy"], 1, 100)]
        row += [_cell(stage["nll"], 3) for stage in stages]
        row += [_cell(stage["ece"], 1, 100) for stage in stages]
        rows.append([*row, _cell(s["temperature"], 2)])
    return header, rows


def _prepare(
    todo: list[Cell], data: Data | None, watch: Callable[[Event], None]
) -> dict[str, Data]:
    """Data by setting, read once for all that see the same; refuses before anything is trained."""
    known: dict[str, Data] = {}
    seen: dict[tuple[Any, ...], Data] = {}
    for cell in todo:
        if cell.name in known:
            continue
        alike = (cell.recipe.model, cell.recipe.image_size, cell.recipe.resize)
        recipe, data = prepare(
            cell.recipe,
            known=seen.get(alike, data),
            progress=lambda done, total: watch(Progress("reading pictures", done, total)),
        )
        seen[alike] = known[cell.name] = data
        classes = len(data.splits.class_names)
        check_smoothing(recipe.smoothing, classes, recipe.convention)
        if recipe.model not in MODELS:  # a name that no library knows is refused by building it
            untrained(recipe, data)
        if data.splits.hashes != known[todo[0].name].splits.hashes:
            raise LevelheadError(
                f"{cell.name}: would be judged on other pictures than {todo[0].name}; compare "
                "only settings that split the data alike"
            )
    return known


def _job(folder: Path, cell: Cell) -> Job:
    return Job(f"{cell.name}, seed {cell.seed}", cell.recipe, folder / cell.folder)


def _request(recipe: Recipe, grid: Mapping[str, Sequence[Any]], seeds: int) -> str:
    """study.toml. JSON's strings, numbers, booleans and flat lists are also TOML's."""
    if recipe.data != "digits":
        recipe = recipe.replace(data=str(Path(recipe.data).expanduser().absolute()))
    base = [line for line in recipe.to_toml().splitlines() if line.split(" = ")[0] not in grid]
    lists = {name: json.dumps(list(some), ensure_ascii=False) for name, some in grid.items()}
    lines = ["# The same levelhead compare with this --out goes on where it stopped."]
    lines += [f"seeds = {seeds}", "", "[recipe]", *base, "", "[grid]"]
    return "\n".join([*lines, *(f"{name} = {some}" for name, some in lists.items()), ""])


def _check_request(folder: Path, asked: str) -> None:
    """Raise LevelheadError, naming the difference, if the folder's study is another."""
    try:
        stored = (folder / "study.toml").read_text(encoding="utf-8")
        told = [tomllib.loads(text) for text in (stored, asked)]
        there, here = ({**t["recipe"], **t["grid"], "seeds": t["seeds"]} for t in told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LevelheadError(
            f"{folder / 'study.toml'}: cannot be read ({error}); compare into another --out"
        ) from None
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            old, new = (_shown(fields.get(name, "unset")) for fields in (there, here))
            raise LevelheadError(
                f"--out {folder}: holds a study with {name} {old}, not {new}; ask for the same, "
                "or choose another folder"
            )


def _unfinished(asked: str) -> Path | None:
    """The newest study of this request in runs/ that has no findings yet."""
    same = [path.parent for path in Path("runs").glob("*/study.toml") if path.read_text() == asked]
    stopped = [path for path in same if not (path / "findings.json").exists()]
    return max(stopped, key=lambda path: path.stat().st_mtime, default=None)


@dataclass(frozen=True, eq=False)
class _Judged:
    """A finished cell: what its run found, and by stage and metric what variances come from."""

    cell: Cell
    run: Run
    found: dict[str, Any]
    # [N] of a mean over examples; of ECE first the bins, then its bootstrap values [RESAMPLES].
    rows: dict[str, dict[str, Any]]
    validation: dict[str, float]  # NLL by stage

    def entry(self, stage: str, metric: str) -> dict[str, Any]:
        """Value, low and high of this run alone."""
        return dict(self.found[STAGES[stage]]["metrics"][metric])


Group = Sequence[_Judged]  # a setting: its cells that finished


def _judge(cell: Cell, run: Run) -> _Judged:
    judged = _Judged(cell, run, run.findings, {}, {})
    raw, held, calibrator = run.outputs("test"), run.outputs("validation"), run.calibration
    for stage in STAGES:
        test, seen = (raw, held) if stage == "raw" else map(calibrator.apply, (raw, held))
        judged.rows[stage] = {
            name: metric.prepare(test)
            for name, metric in METRICS.items()
            if judged.entry(stage, name)["value"] is not None
        }
        judged.validation[stage] = float(seen.rows.nll.mean())
    return judged


def _findings(
    folder: Path, groups: Sequence[Group], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = [one.rows[stage] for group in groups for one in group for stage in STAGES]
    for row, drawn in zip(rows, _ece_bootstrap([row["ece"] for row in rows]), strict=True):
        row["ece"] = drawn
    settings = [_setting(group) for group in groups]
    differences = [d for a, b in _pairs(groups) for kind in KINDS for d in _differ(a, b, kind)]
    data = groups[0][0].run.data
    best, sentences = _recommend(folder, groups, settings, differences, failed)
    return {
        "schema": 1,
        "data": data,
        "n": data["counts"]["test"],
        "classes": len(data["class_names"]),
        "class_names": data["class_names"],
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "method": METHOD},
        "settings": settings,
        "differences": differences,
        "failed": failed,
        "recommended": best,
        "recommendation": sentences,
        "seconds": sum(setting["seconds"]["total"] for setting in settings),
    }


def _ece_bootstrap(binned: Sequence[Binned]) -> Tensor:
    """ECE of M sources under the same bootstrap weights, float64 [M, RESAMPLES].

    What `metrics.replicates` gives, by one matrix product for all sources and bins.
    """
    n, bins = len(binned[0]), binned[0].size
    gaps = torch.zeros(n, len(binned) * bins, dtype=torch.float64)
    for m, one in enumerate(binned):
        gaps[torch.arange(n), one.index + m * bins] = one.gap
    drawn = [(block @ gaps).view(len(block), -1, bins) for block in weights(n, RESAMPLES)]
    return torch.cat([block.abs().sum(2) / n for block in drawn]).T


def _setting(group: Group) -> dict[str, Any]:
    seconds = [one.found["seconds"] for one in group]
    return {
        "name": _name(group),
        "changes": group[0].cell.changes,
        "seeds": [one.cell.seed for one in group],
        "runs": [one.cell.folder for one in group],
        **{stage: {name: _mean(group, stage, name) for name in METRICS} for stage in STAGES},
        "temperature": _temperature(group),
        "validation_nll": {stage: _validated(group, stage) for stage in STAGES},
        "seconds": {"mean": float(np.mean(seconds)), "total": float(np.sum(seconds))},
    }


def _mean(group: Group, stage: str, name: str) -> dict[str, Any]:
    """One metric of a setting: mean over seeds, interval, values by seed.

    Several seeds: the examples' interval of the mean, widened about its own centre by the seeds'
    variance. Seen at level 0.95 for ECE, whose examples' interval is the mean of the seeds'
    bias-corrected ones: coverage 95-100 % (three seeds, n = 500 and 3,000).
    """
    told = [one.entry(stage, name) for one in group]
    values = [entry["value"] for entry in told]
    if None in values:
        reason = next(entry["reason"] for entry in told if entry["value"] is None)
        return _entry(math.nan, math.nan, math.nan, reason) | {"per_seed": values}
    if len(group) == 1:
        return told[0] | {"per_seed": values}
    if name == "ece":
        low, high = (float(np.mean([entry[end] for entry in told])) for end in ("low", "high"))
        found = widened(values, low, high, LEVEL)
    else:
        rows = torch.stack([one.rows[stage][name] for one in group])
        if METRICS[name].interval == "wilson":
            found = seeds_share(rows, LEVEL)
        else:
            half = normal_quantile(LEVEL) * math.sqrt(example_variance(rows))
            centre = float(np.mean(values))
            found = widened(values, centre - half, centre + half, LEVEL)
    return _entry(found.mean, found.low, found.high) | {"per_seed": values}


def _temperature(group: Group) -> dict[str, Any]:
    """Geometric mean over seeds; the fits share their examples, so their variances are averaged."""
    told = [one.found["test_calibrated"]["temperature"] for one in group]
    values = [entry["value"] for entry in told]
    low, high, value = math.nan, math.nan, math.exp(float(np.mean(np.log(values))))
    if all(entry["low"] and entry["high"] for entry in told):
        low, high = told[0]["low"], told[0]["high"]
        if len(told) > 1:
            spread = [math.log(t["high"] / t["low"]) / 2 / normal_quantile(LEVEL) for t in told]
            found = seeds_mean(np.log(values), float(np.mean(np.square(spread))), LEVEL)
            low, high = math.exp(found.low), math.exp(found.high)
    reason = "the validation split of a run sets the temperature no limit on one side"
    return _entry(value, low, high, reason) | {"per_seed": values}


def _validated(group: Group, stage: str = "calibrated") -> float:
    return float(np.mean([one.validation[stage] for one in group]))


def _name(group: Group) -> str:
    return group[0].cell.name


def _smoothing(group: Group) -> float:
    return group[0].cell.recipe.smoothing


def _baseline(groups: Sequence[Group]) -> Group:
    """Hard targets if there are any, else the first setting."""
    return next((group for group in groups if _smoothing(group) == 0), groups[0])


def _hard(group: Group, groups: Sequence[Group]) -> Group:
    """The setting with hard targets that differs in nothing else, or else the baseline."""
    wanted = group[0].cell.changes | {"smoothing": 0}
    same = (other for other in groups if other[0].cell.changes == wanted)
    return next(same, _baseline(groups))


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Every setting against the baseline, and a smoothed one against its own hard targets."""
    base = _baseline(groups)
    for group in groups:
        if group is not base:
            yield group, base
        hard = _hard(group, groups)
        if hard is not group and hard is not base:
            yield group, hard


def _differ(group: Group, base: Group, kind: str) -> Iterator[dict[str, Any]]:
    """Setting − baseline by metric, paired over the seeds that both have.

    The plug-in ECE of a finite sample is too large, most for the better calibrated one: that
    shrinks differences, and their paired intervals miss what is true by lying too near 0 (seen:
    coverage 62-74 %). So the far end is that of the difference of two independent bias-corrected
    intervals where that lies farther out (seen: 91-100 %); the end that decides stays paired.
    """
    own, other = KINDS[kind]
    if kind == MIXED and not _smoothing(group) > 0 == _smoothing(base):
        return
    pairs = [(a, b) for a in group for b in base if a.cell.seed == b.cell.seed]
    for name in METRICS:
        entry: dict[str, Any] = {"setting": _name(group), "baseline": _name(base), "kind": kind}
        entry |= {"calibrated": own == "calibrated", "metric": name}
        told = [(a.entry(own, name)["value"], b.entry(other, name)["value"]) for a, b in pairs]
        if not pairs:
            why = "no seed was trained in both settings"
            entry |= _entry(math.nan, math.nan, math.nan, why)
            yield entry | {"per_seed": [], "words": f"{TITLES[name]}: {why}."}
            continue
        if None in itertools.chain(*told):
            continue  # the settings say why
        values = [x - y for x, y in told]
        rows = torch.stack([a.rows[own][name] - b.rows[other][name] for a, b in pairs])
        variance = float(rows.mean(0).var()) if name == "ece" else example_variance(rows)
        if METRICS[name].interval == "wilson":
            # Networks that agree on all n examples may differ on the next: count one at least.
            variance = max(variance, 1 / rows.shape[1] ** 2)
        found = paired_seeds(values, variance, LEVEL)
        low, high = found.low, found.high
        if name == "ece":
            x, y = _mean(group, own, name), _mean(base, other, name)
            centre = (x["low"] + x["high"] - y["low"] - y["high"]) / 2
            half = math.hypot(x["high"] - x["low"], y["high"] - y["low"]) / 2
            high = max(high, centre + half) if found.mean > 0 else high
            low = min(low, centre - half) if found.mean < 0 else low
        entry |= _entry(found.mean, low, high) | {"per_seed": values}
        yield entry | {"words": _words(entry)}


TITLES = {"accuracy": "accuracy", "top5": "top-5 accuracy", "nll": "NLL", "brier": "Brier score"}
TITLES["ece"] = "ECE"


def verdict(entry: Mapping[str, Any]) -> str:
    """better, worse, or "cannot tell" where the interval of a difference holds 0."""
    if entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return "cannot tell"
    up = METRICS[entry["metric"]].direction == "up"
    return "better" if (entry["value"] > 0) == up else "worse"


def _change(entry: Mapping[str, Any]) -> str:
    """`accuracy by +0.4 points [-0.2, +1.0]`."""
    numbers = [entry[key] for key in ("value", "low", "high")]
    if None in numbers:
        return f"{TITLES[entry['metric']]} by an unknown amount ({entry['reason']})"
    share = METRICS[entry["metric"]].interval == "wilson"
    scale, digits, unit = (100, 1, " points") if share else (1, 4, "")
    if verdict(entry) != "cannot tell" and min(map(abs, numbers)) * scale < 0.5 * 10**-digits:
        digits += 1  # an end that is not 0 is not shown as 0
    value, low, high = (f"{number * scale:+.{digits}f}" for number in numbers)
    return f"{TITLES[entry['metric']]} by {value}{unit} [{low}, {high}]"


def _words(entry: Mapping[str, Any]) -> str:
    mixed = entry["kind"] == MIXED
    lead = "" if mixed else f"{'After' if entry['calibrated'] else 'Before'} temperature, "
    own, other = (" without temperature", " with temperature") if mixed else ("", "")
    one = " (one seed: these models, not these settings)" if len(entry["per_seed"]) == 1 else ""
    return (
        f"{lead}{entry['setting']}{own} changes {_change(entry)} against "
        f"{entry['baseline']}{other}: {verdict(entry)}{one}."
    )


def _recommend(
    folder: Path,
    groups: Sequence[Group],
    settings: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """The setting with the lowest validation NLL after temperature, its best run, and why."""
    lost = {entry["name"] for entry in failed}
    # A setting that failed with some seed stands behind all that did not.
    ranked = sorted(groups, key=lambda group: (_name(group) in lost, _validated(group)))
    shown = {setting["name"]: setting for setting in settings}
    best, base = ranked[0], _baseline(groups)
    run = min(best, key=lambda one: one.validation["calibrated"])
    keys = ("setting", "baseline", "kind", "metric")
    found = {tuple(entry[key] for key in keys): entry for entry in differences}
    n = f"{len(run.rows['raw']['accuracy']):,} test examples"
    said = [f"{_name(best)} is the only setting trained: nothing to choose; figures are of {n}."]
    if len(ranked) > 1:
        said = [
            f"Use {_name(best)} with temperature scaling: of {len(ranked)} settings it has the "
            f"lowest NLL after temperature on validation, {_validated(best):.4f} (next: "
            f"{_name(ranked[1])}, {_validated(ranked[1]):.4f}); validation chose, the figures "
            f"below are of {n}."
        ]
        name, plain = _name(best if best is not base else ranked[1]), _name(base)
        changes = [found[name, plain, "calibrated", metric] for metric in ("accuracy", "nll")]
        told = " and ".join(f"{_change(change)} ({verdict(change)})" for change in changes)
        took, instead = (duration(shown[s]["seconds"]["mean"]) for s in (name, plain))
        either = all(verdict(change) == "cannot tell" for change in changes)
        said.append(
            f"Against {plain}, after temperature, {name} changes {told}; it trains in "
            + ("the same time" if took == instead else f"{took} instead of {instead}")
            + ("; the data cannot tell the two apart: either will do." if either else ".")
        )
    smoothed = next((group for group in ranked if _smoothing(group) > 0), None)
    if smoothed is None:
        before, after = (shown[_name(best)][stage]["nll"]["value"] for stage in STAGES)
        said.append(f"Temperature scaling takes its NLL from {before:.4f} to {after:.4f}.")
    elif _smoothing(base) > 0:
        said.append(
            "No setting has hard targets, so nothing says whether temperature scaling alone does "
            "as well as smoothing: compare with --smoothing 0 too."
        )
    else:
        hard = _name(_hard(smoothed, groups))
        entry = found[_name(smoothed), hard, MIXED, "nll"]
        lead = {
            "better": "Temperature scaling alone does not do as well as smoothing alone",
            "worse": "Temperature scaling alone does better than smoothing alone",
            "cannot tell": "The data cannot tell temperature scaling alone from smoothing alone",
        }[verdict(entry)]
        said.append(
            f"{lead}: {_name(smoothed)} without temperature changes {_change(entry)} against "
            f"{hard} with it."
        )
    caveats = []
    if any(frozen(one.run.recipe) and _smoothing(group) > 0 for group in groups for one in group):
        caveats.append("the body is frozen, so smoothing touched the head alone")
    if all(len(group) == 1 for group in groups):
        caveats.append("one seed speaks for these models, not for the settings (--seeds 3)")
    if failed:
        count = sum(map(len, groups)) + len(failed)
        first = "{name}, seed {seed}: {why}".format(**failed[0])
        caveats.append(f"{len(failed)} of {count} trainings are missing (first: {first})")
    said += [f"Mind: {'; '.join(caveats)}."] if caveats else []
    path = shlex.quote(str(folder / run.cell.folder))
    said.append(
        f"Predict with its best seed on validation: levelhead predict {path} IMAGE; train it once "
        f"more: {command(best[0].cell.recipe)}"
    )
    return {"setting": _name(best), "seed": run.cell.seed, "run": run.cell.folder}, said


def _shown(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _entry(value: float, low: float, high: float, reason: str = "not finite") -> dict[str, Any]:
    """Numbers for JSON: what is not finite is None, beside a reason."""
    numbers = {"value": value, "low": low, "high": high}
    entry: dict[str, Any] = {k: float(x) if math.isfinite(x) else None for k, x in numbers.items()}
    return entry | ({"reason": reason} if None in entry.values() else {})


def _cell(entry: Mapping[str, Any], digits: int, scale: float = 1) -> str:
    """`0.412 ± 0.013`, or `1.1 [0.0, 0.9]` where the value is not in the middle."""
    if entry["value"] is None:
        return "–"
    value, shown = entry["value"] * scale, f"{entry['value'] * scale:.{digits}f}"
    if entry["low"] is None or entry["high"] is None:
        return shown
    low, high = entry["low"] * scale, entry["high"] * scale
    if low > 0 and abs(low + high - 2 * value) < 10**-digits:
        return f"{shown} ± {(high - low) / 2:.{digits}f}"
    return f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"
