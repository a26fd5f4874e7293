"""Published experiments, run again: PAPERS holds their recipes, their numbers and their claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.errors import LevelheadError, nearest
from levelhead.files import read_json, write_json
from levelhead.papers import followups, keras_notebook, mueller2019, pytorch_notebook, xia2025
from levelhead.papers.document import write_page
from levelhead.papers.plan import Planned, finished
from levelhead.papers.translation_claims import COMPARED
from levelhead.recipe import Recipe
from levelhead.report import write_report
from levelhead.runs import Run
from levelhead.studies import train_outputs
from levelhead.studies.compare import cells, compare
from levelhead.studies.workers import LATE, Job, carry_on_translator, side_by_side
from levelhead.training.events import Event, Note
from levelhead.translation.translation_recipe import TranslationRecipe

PAPERS: dict[str, Any] = {
    "mueller2019": mueller2019,
    "xia2025": xia2025,
    "followups": followups,
    "keras-notebook": keras_notebook,
    "pytorch-notebook": pytorch_notebook,
}


@dataclass(frozen=True)
class Reproduction:
    """A paper's experiments, held against what was published: rows and sentences by name."""

    findings: dict[str, Any]

    @property
    def experiments(self) -> dict[str, Any]:
        """By name: title, rows (`rows.Row` as JSON), words, figures."""
        experiments: dict[str, Any] = self.findings["experiments"]
        return experiments

    @property
    def words(self) -> tuple[str, ...]:
        """The sentences of all experiments."""
        return tuple(text for one in self.experiments.values() for text in one["words"])

    def chosen(self, names: Sequence[str]) -> dict[str, Any]:
        """Some of the experiments; all where no name is given."""
        return {n: e for n, e in self.experiments.items() if n in (names or [n])}

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json into a folder."""
        write_json(Path(folder) / "findings.json", self.findings)


def reproduce(
    paper: str,
    data: str | Path,
    out: str | Path,
    *,
    experiments: Sequence[str] = (),
    seeds: int = 3,
    full: bool = False,
    jobs: int = 1,
    deadline: float = math.inf,
    watch: Callable[[Event], None] = lambda event: None,
) -> Reproduction:
    """Train what some experiments (default: all) of a paper need, and hold it against the paper.

    data: folder of the paper's data sets, each a folder. out: gets a study a setting, which are
    kept and gone on with, and PAPER/: README.md, findings.json and figures. `full` takes the
    published settings instead of those scaled down to two CPU cores, `jobs` trains so many at once
    (see `compare`). No training is begun that would end after `deadline` (by time.monotonic); what
    is missing then is said so. Experiments not asked for keep what was found of them before, by its
    date. Raises LevelheadError for an unknown paper or experiment and for data
    that is missing.
    """
    if paper not in PAPERS:
        raise LevelheadError(f"{paper}: no such paper; {nearest(paper, list(PAPERS))}")
    module, out = PAPERS[paper], Path(out)
    for name in experiments:
        if name not in module.EXPERIMENTS:
            known = list(module.EXPERIMENTS)
            raise LevelheadError(f"--experiment {name}: unknown; {nearest(name, known)}")
    chosen = {n: e for n, e in module.EXPERIMENTS.items() if n in (experiments or [n])}
    planned = module.studies(Path(data).expanduser().absolute(), out.absolute(), full)
    needed = {name for e in chosen.values() for name in planned if name.startswith(e.studies)}
    needed |= {by for name in needed if (by := planned[name].taught_by)}
    runs = {
        name: [Run(folder) for folder in _folders(plan, out / name, seeds)]
        for name, plan in planned.items()
        if name in needed
    }
    for name, todo in runs.items():
        plan = planned[name]
        judged_before = (
            isinstance(plan.recipe, TranslationRecipe) or (out / name / "findings.json").exists()
        )
        if judged_before and all(run.finished for run in todo):
            continue
        watch(Note(f"Study {name}:"))
        try:
            if isinstance(plan.recipe, TranslationRecipe):
                _translators(plan, out / name, seeds, jobs, deadline, watch)
                continue
            if plan.taught_by is not None and time.monotonic() < deadline:
                assert isinstance(plan.recipe, Recipe)
                lessons = {
                    str(cell.recipe.teacher).replace("{seed}", str(cell.seed))
                    for cell in cells(plan.recipe, plan.grid, seeds)
                    if not Run(out / name / cell.folder).finished
                }
                for run in finished(out / plan.taught_by):
                    if str(run.path_of("train").absolute()) in lessons:
                        train_outputs(run)
            compare(
                plan.recipe,
                plan.grid,
                seeds=seeds,
                out=out / name,
                jobs=jobs,
                deadline=deadline,
                watch=watch,
            )
            write_report(out / name)
        except LevelheadError as error:
            if not todo or not Path(plan.recipe.data).exists():
                raise
            watch(Note(f"Study {name}: {error}"))
    results: dict[str, Any] = {}
    panels: dict[str, Any] = {}
    for name, experiment in chosen.items():
        watch(Note(f"Judging {name}"))
        judged = experiment.judge({study: out / study for study in planned})
        wait = {
            study: (sum(not run.finished for run in todo), len(todo))
            for study, todo in runs.items()
            if study.startswith(experiment.studies)
        }
        results[name] = {
            "title": experiment.title,
            "judged": time.strftime("%Y-%m-%d"),
            "scaled": None if full else experiment.scaled,
            "not_trained": {study: counts for study, counts in wait.items() if counts[0]},
            "rows": [row.to_json() for row in judged.rows],
            "words": judged.words,
            "figures": list(judged.panels),
        }
        panels |= judged.panels
    results = _before(out / paper / "findings.json", full) | results
    results = {name: results[name] for name in module.EXPERIMENTS if name in results}
    findings = {"schema": 1, "paper": paper, "full": full, "seeds": seeds, "experiments": results}
    result = Reproduction(findings)
    result.save(out / paper)
    write_page(out / paper, module.TITLE, findings, panels)
    return result


def _folders(plan: Planned, folder: Path, seeds: int) -> list[Path]:
    """Where the runs of a study are."""
    if isinstance(plan.recipe, TranslationRecipe):
        return [job.folder for job in translators(plan, folder, seeds)]
    return [folder / cell.folder for cell in cells(plan.recipe, plan.grid, seeds)]


def translators(plan: Planned, folder: Path, seeds: int) -> list[Job]:
    """The trainings of a study of translators: those that are compared, seed by seed, then the
    others, which draw a curve and have one seed."""
    recipe, epsilons = plan.recipe, sorted(plan.grid["smoothing"])
    compared = [(e, seed) for seed in range(seeds) for e in epsilons if e in COMPARED]
    others = [(e, 0) for e in epsilons if e not in COMPARED]
    return [
        Job(
            f"ε = {epsilon:g}, seed {seed}",
            recipe.replace(smoothing=epsilon, seed=recipe.seed + seed),
            folder / f"smoothing={epsilon:g}" / f"seed-{recipe.seed + seed}",
        )
        for epsilon, seed in compared + others
    ]


def _translators(
    plan: Planned,
    folder: Path,
    seeds: int,
    jobs: int,
    deadline: float,
    watch: Callable[[Event], None],
) -> None:
    """Train what a study of translators lacks, seed by seed."""
    waiting = [job for job in translators(plan, folder, seeds) if not Run(job.folder).finished]
    if jobs > 1:
        side_by_side(waiting, jobs, deadline, watch)
        return
    longest = 0.0
    for number, job in enumerate(waiting, 1):
        began = time.monotonic()
        if began + longest > deadline:
            watch(Note(f"{job.name}: {LATE}"))
            continue
        watch(Note(f"{job.name} ({number} of {len(waiting)})"))
        carry_on_translator(job, watch)
        longest = max(longest, time.monotonic() - began)


def _before(path: Path, full: bool) -> dict[str, Any]:
    """The experiments that were judged before, in the same settings."""
    before = read_json(path) if path.exists() else {}
    return dict(before["experiments"]) if before.get("full") == full else {}
