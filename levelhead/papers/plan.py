"""What a paper is made of: studies to train, experiments to read off them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from levelhead.papers.rows import Row
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun

R = TypeVar("R", Run, TranslationRun)


@dataclass(frozen=True)
class Planned:
    """One study: a recipe, the values compared, and the studies that teach it."""

    recipe: Recipe | TranslationRecipe
    grid: Mapping[str, tuple[Any, ...]]
    taught_by: str | None = None  # its runs' predictions on train are made first


@dataclass(frozen=True)
class Found:
    """What an experiment found: rows of its table, sentences, panels by figure."""

    rows: list[Row]
    words: list[str]
    panels: Mapping[str, Any]  # what a figure's `data` takes, or a tuple of its panels


@dataclass(frozen=True)
class Experiment:
    """What to read off which studies."""

    title: str
    studies: tuple[str, ...]  # what their names begin with
    judge: Callable[[Mapping[str, Path]], Found]
    scaled: str  # what the light version leaves out


def by_field(folder: Path, field: str, kind: Callable[[Path], R]) -> dict[Any, list[R]]:
    """The finished runs of a study by a field of their recipes, in the order of their seeds."""
    groups: dict[Any, list[R]] = {}
    for run in (kind(path.parent) for path in sorted(folder.glob("*/seed-*/recipe.toml"))):
        if run.finished:
            groups.setdefault(getattr(run.recipe, field), []).append(run)
    return groups


def settings(folder: Path) -> dict[float, list[Run]]:
    """The finished runs of a study by smoothing, in the order of their seeds."""
    return by_field(folder, "smoothing", Run)


def finished(folder: Path) -> list[Run]:
    """The finished runs of a study, by smoothing and seed."""
    return [run for runs in settings(folder).values() for run in runs]


def paired(a: Sequence[R], b: Sequence[R]) -> list[tuple[R, R]]:
    """Runs of the same seed."""
    by_seed = {run.recipe.seed: run for run in b}
    return [(run, by_seed[run.recipe.seed]) for run in a if run.recipe.seed in by_seed]
