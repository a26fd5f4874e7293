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
import time
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.data import Listing
from levelhead.data.entries import Dataset
from levelhead.data.memory import is_name
from levelhead.errors import LevelheadError, nearest
from levelhead.files import locked, read_json, refuse_pipes, write, write_json
from levelhead.models import MODELS
from levelhead.recipe import Recipe
from levelhead.runs import Run, new_folder
from levelhead.studies.recommendation import MARGIN, recommend, sentence, sentences
from levelhead.studies.settings import (
    LEVEL,
    METHOD,
    METRICS,
    RESAMPLES,
    Cell,
    Change,
    Judged,
    Setting,
    changes,
    judged,
)
from levelhead.studies.workers import LATE, Job, carry_on, side_by_side
from levelhead.text import interval_text
from levelhead.training import board
from levelhead.training.defaults import frozen
from levelhead.training.events import Event, Note, Progress
from levelhead.training.prepare import prepare, relabelled
from levelhead.training.run import objective_of, untrained

# Fields that say which images are which, or that --seeds varies: one value a study.
FIXED = ("data", "seed", "split_seed", "validation", "test")


@dataclass(frozen=True)
class Study:
    """A judged study; `findings` is what its findings.json holds."""

    folder: Path
    findings: dict[str, Any]

    @property
    def words(self) -> tuple[str, ...]:
        """Which setting to use, why, and what to mind."""
        return tuple(self.findings["recommendation"])

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json into a folder."""
        write_json(Path(folder) / "findings.json", self.findings)


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
                f"{flag}: a study has one, so that all settings are judged on the same images"
            )
    base = recipe.replace(**{name: some[0] for name, some in values.items()})
    fields = [name for name in known if len(values.get(name, ())) > 1]
    fields.sort(key=lambda field: field == "smoothing")  # last, so that it varies fastest
    trainings: list[Cell] = []
    for number, chosen in enumerate(itertools.product(*(values[name] for name in fields))):
        changes = dict(zip(fields, chosen, strict=True))
        shown = changes or {"smoothing": base.smoothing}
        name = ", ".join(f"{field}={_shown(value)}" for field, value in shown.items())
        folder = re.sub(r"[^\w=.+,-]+", "-", name.replace(", ", ","), flags=re.ASCII)[:100]
        if any(cell.folder.startswith(f"{folder}/") for cell in trainings):
            folder += f"-{number}"
        for seed in range(base.seed, base.seed + seeds):
            cell = base.replace(**changes, seed=seed)
            trainings.append(Cell(name, changes, seed, f"{folder}/seed-{seed}", cell))
    return trainings


def compare(
    recipe: Recipe,
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    data: Dataset | Listing | None = None,
    jobs: int = 1,
    margin: float = MARGIN,
    deadline: float = math.inf,
    watch: Callable[[Event], None] = lambda event: None,
) -> Study:
    """Train every cell and judge the settings (default folder: the next runs/NAME-study-N).

    What is finished is kept and what was stopped goes on, so that the same call with the same
    `out` continues a study; without `out`, the newest unfinished study of this very request in
    runs/. A training that fails is listed, and the others go on; so is one that would end after
    `deadline` (by time.monotonic), going by the longest so far. `jobs` trains so many at once, each
    in a process with its share of the cores; another share may round otherwise in the last digit,
    so that the runs are like, not equal to, those of another `jobs`. A head on a frozen body comes
    out the same with every seed: it is trained once. Differences within `margin` (a share of
    accuracy, and as many nats) are as good as none. `watch` is told every Event.
    Raises LevelheadError for bad input, for another request than the folder's, for settings
    that would be judged on different images, and if every training failed.
    """
    if jobs < 1:
        raise LevelheadError(f"--jobs {jobs}: must be 1 or more, for example 2")
    if jobs > 1 and isinstance(data, Listing):
        raise LevelheadError(f"jobs {jobs}: other processes cannot have data from memory; take 1")
    if out is not None:
        recipe = _as_begun(Path(out), recipe, grid)
    todo = cells(recipe, grid, seeds)
    request = _request(recipe, grid, seeds)
    folder = _unfinished(request) if out is None else Path(out)
    known: dict[str, Dataset] = {}
    if folder is not None and (folder / "study.toml").exists():
        _check_request(folder, request)
        runs = [(cell.name, Run(folder / cell.folder)) for cell in todo]
        seedless = {name for name, run in runs if run.finished and frozen(run.recipe)}
        todo = _seeded(todo, seedless)
        if not all(Run(folder / cell.folder).finished for cell in todo):
            known, seedless = _prepare(todo, data, watch)
            todo = _seeded(todo, seedless)
    else:
        known, seedless = _prepare(todo, data, watch)
        todo = _seeded(todo, seedless)
        folder = new_folder(out, f"{known[todo[0].name].listing.name}-study")
        write(folder / "study.toml", request)
    groups: dict[str, list[Judged]] = {}
    failed: list[dict[str, Any]] = []
    hashes = [data.hashes for data in known.values()]
    notes: set[str] = set()

    def once(event: Event) -> None:
        """Every run says the same about the data."""
        if not isinstance(event, Note) or event.text not in notes:
            watch(event)
        notes.update([event.text] if isinstance(event, Note) else [])

    with locked(folder, "study"):
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
                    f"{run.folder}: trained on other splits than the rest of the study; the data "
                    "has changed: restore it, or compare anew into another --out"
                )
            groups.setdefault(cell.name, []).append(judged(cell, run))
    if late := sum(one["why"] == LATE for one in failed):
        watch(Note(f"{late} of {len(todo)} trainings wait: the time is spent, go on by this again"))
    if not groups:
        raise LevelheadError(f"{folder}: every training failed; the first: {failed[0]['why']}")
    settings = [Setting(tuple(group)) for group in groups.values()]
    study = Study(folder, _findings(folder, settings, failed, margin))
    if recipe.tensorboard:
        rows = [
            (one.name, one.cells[0].run.recipe, {n: one.mean("raw", n).value for n in METRICS})
            for one in settings
        ]
        board.add_study(folder, rows, study.words)
    study.save(folder)
    return study


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
        row = [s["name"], _cell(s["raw"]["accuracy"], digits=1, scale=100)]
        row += [_cell(stage["nll"], digits=3) for stage in stages]
        row += [_cell(stage["ece"], digits=1, scale=100) for stage in stages]
        rows.append([*row, _cell(s["temperature"], digits=2)])
    return header, rows


def _seeded(todo: Sequence[Cell], seedless: Collection[str]) -> list[Cell]:
    """The trainings to do: of a setting that no seed changes, the first."""
    first = {cell.name: cell for cell in reversed(todo)}
    return [cell for cell in todo if cell.name not in seedless or cell is first[cell.name]]


def _prepare(
    todo: list[Cell], data: Dataset | Listing | None, watch: Callable[[Event], None]
) -> tuple[dict[str, Dataset], set[str]]:
    """Data by setting, read once for all that see the same, and the settings that no seed changes.

    Refuses before anything is trained.
    """
    known: dict[str, Dataset] = {}
    seedless = set()
    read: dict[tuple[Any, ...], Dataset] = {}
    latest = data  # other settings may see the same
    for cell in todo:
        if cell.name in known:
            continue
        alike = (cell.recipe.model, cell.recipe.image_size, cell.recipe.resize)
        recipe, own = prepare(
            cell.recipe,
            known=read.get(alike, latest),
            progress=lambda done, total: watch(Progress("reading images", done, total)),
        )
        latest = read[alike] = known[cell.name] = own
        objective_of(recipe, relabelled(recipe, own))  # refuses
        if frozen(recipe):
            seedless.add(cell.name)
        if recipe.model not in MODELS:  # a name that no library knows is refused by building it
            untrained(recipe, own)
        if own.hashes != known[todo[0].name].hashes:
            raise LevelheadError(
                f"{cell.name}: would be judged on other images than {todo[0].name}; compare "
                "only settings that split the data alike"
            )
    return known, seedless


def _job(folder: Path, cell: Cell) -> Job:
    return Job(f"{cell.name}, seed {cell.seed}", cell.recipe, folder / cell.folder)


def _request(recipe: Recipe, grid: Mapping[str, Sequence[Any]], seeds: int) -> str:
    """study.toml. JSON's strings, numbers, booleans and flat lists are also TOML's."""
    if not is_name(recipe.data):
        recipe = recipe.replace(data=str(Path(recipe.data).expanduser().absolute()))
    base = [line for line in recipe.to_toml().splitlines() if line.split(" = ")[0] not in grid]
    lists = {name: json.dumps(list(some), ensure_ascii=False) for name, some in grid.items()}
    lines = ["# The same levelhead compare with this --out goes on where it stopped."]
    lines += [f"seeds = {seeds}", "", "[recipe]", *base, "", "[grid]"]
    return "\n".join([*lines, *(f"{name} = {some}" for name, some in lists.items()), ""])


def _as_begun(folder: Path, recipe: Recipe, grid: Mapping[str, Any]) -> Recipe:
    """The recipe with --no-finetune, where a study was begun when that was the default."""
    path = folder / "study.toml"
    if recipe.finetune is not None or "finetune" in grid or not path.is_file():
        return recipe
    try:
        begun = tomllib.loads(path.read_text(encoding="utf-8")).get("recipe", {})
    except (OSError, ValueError):
        return recipe  # said when it is checked
    return recipe.replace(finetune=False) if begun.get("finetune") is False else recipe


def _check_request(folder: Path, asked: str) -> None:
    """Raise LevelheadError, naming the difference, if the folder's study is another."""
    refuse_pipes(folder / "study.toml")
    try:
        stored = (folder / "study.toml").read_text(encoding="utf-8")
        requests = [tomllib.loads(text) for text in (stored, asked)]
        there, here = ({**t["recipe"], **t["grid"], "seeds": t["seeds"]} for t in requests)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LevelheadError(
            f"{folder / 'study.toml'}: cannot be read ({error}); compare into another --out"
        ) from None
    for name in {**there, **here}:
        if name not in there and here[name] == _default(name):
            continue  # a field that came after this study was begun
        if there.get(name) != here.get(name):
            old, new = (_shown(fields.get(name, "unset")) for fields in (there, here))
            raise LevelheadError(
                f"--out {folder}: holds a study with {name} {old}, not {new}; ask for the same, "
                "or choose another folder"
            )


def _default(name: str) -> Any:
    """What recipe.toml holds of a field that nobody set."""
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    value = fields.get(name)
    return list(value) if isinstance(value, tuple) else value


def _unfinished(asked: str) -> Path | None:
    """The newest study of this request in runs/ that has no findings yet."""
    same = []
    for path in Path("runs").glob("*/study.toml"):
        with suppress(OSError, ValueError):  # not one of ours
            if path.is_file() and path.read_text(encoding="utf-8") == asked:
                same.append(path.parent)
    stopped = [path for path in same if not (path / "findings.json").exists()]
    return max(stopped, key=lambda path: path.stat().st_mtime, default=None)


def _findings(
    folder: Path, settings: Sequence[Setting], failed: list[dict[str, Any]], margin: float
) -> dict[str, Any]:
    """What findings.json of a study holds."""
    data = settings[0].cells[0].run.data
    rows, pairs = [setting.to_json() for setting in settings], list(changes(settings))
    choice = recommend(settings, failed)
    return {
        "schema": 1,
        "data": data,
        "n": data["counts"]["test"],
        "classes": len(data["class_names"]),
        "class_names": data["class_names"],
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "method": METHOD},
        "settings": rows,
        "differences": [_difference(change) for change in pairs],
        "failed": failed,
        "recommended": choice.to_json(),
        "margin": margin,
        "recommendation": sentences(folder, choice, pairs, failed, margin),
        "seconds": sum(row["seconds"]["total"] for row in rows),
    }


def _difference(change: Change) -> dict[str, Any]:
    return {
        "setting": change.setting,
        "baseline": change.baseline,
        "kind": change.kind,
        "calibrated": change.kind == "calibrated",
        "metric": change.metric,
        **change.difference.to_json(),
        "words": sentence(change),
    }


def _shown(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _cell(entry: Mapping[str, Any], **how: Any) -> str:
    return interval_text(entry["value"], entry["low"], entry["high"], **how)
