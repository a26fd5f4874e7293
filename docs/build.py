"""Write docs/reference.md from the code, so that flags and tables are described in one place.

python docs/build.py            # write it (make docs)
python docs/build.py --check    # exit code 1 where it is out of date (make check)
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from levelhead.calibrators import CALIBRATORS
from levelhead.cli.flags import explanations
from levelhead.data import LAYOUTS
from levelhead.decisions import SCORES
from levelhead.figures import FIGURES
from levelhead.losses import LOSSES
from levelhead.metrics import METRICS
from levelhead.models import MODELS
from levelhead.papers import PAPERS
from levelhead.recipe import Recipe, Settings
from levelhead.training.defaults import FINETUNE
from levelhead.translation.translation_recipe import TranslationRecipe

TARGET = Path(__file__).with_name("reference.md")


def reference() -> str:
    """The whole page, as Markdown."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Written by `make docs` from the code: change it there.",
            "",
            "## Recipe",
            "",
            "Fields of `levelhead.Recipe`, keys of `recipe.toml`, and flags of `levelhead train`",
            "(`batch_size` is `--batch-size`; a switch is turned off by `--no-NAME`).",
            "`levelhead compare` takes several values of any of them but the seeds.",
            "A dash: chosen for the model and the data, then printed and written to the run.",
            "",
            *table("field | values | default | meaning", fields()),
            "",
            "## Translation",
            "",
            "Fields of `TranslationRecipe`, and flags of `levelhead train-translator`; a dash: the",
            "preset's, or chosen for the machine.",
            "",
            *table("field | values | default | meaning", fields(TranslationRecipe)),
            "",
            "## Models",
            "",
            *table(
                "`--model` | network", ((f"`{n}`", summary(m.build)) for n, m in MODELS.items())
            ),
            "",
            "`timm:NAME` and `torchvision:NAME` take any network of those libraries. What a model",
            "chooses for the fields left open (smaller data also shrinks the batch and lengthens",
            "training, see `levelhead/training/defaults.py`):",
            "",
            *table(" | ".join(("model", *CHOSEN)), choices()),
            "",
            "## Data",
            "",
            *table(
                "kind | what it is", ((f"`{n}`", d.words) for n, d in LAYOUTS.items() if d.words)
            ),
            "",
            "## Losses",
            "",
            *table("`--loss` | knobs | what it is", losses()),
            "",
            "## Metrics",
            "",
            *table("key | title | unit | better | interval | definition", metrics()),
            "",
            "## Calibrators",
            "",
            *table("name | what it does", ((f"`{n}`", summary(c)) for n, c in CALIBRATORS.items())),
            "",
            "## Scores of certainty",
            "",
            *table("name | title | needs | definition", scores()),
            "",
            "## Figures",
            "",
            *table(
                "name | what it shows",
                ((f"`{n}`", summary(sys.modules[f.data.__module__])) for n, f in FIGURES.items()),
            ),
            "",
            "## Reproductions",
            "",
            "What `levelhead reproduce PAPER --experiment NAME` measures; a page each:",
            f"{', '.join(f'[{name}]({name}/README.md)' for name in PAPERS)}.",
            "",
            *table(
                "paper | `--experiment` | what it measures",
                (
                    (f"`{paper}`", f"`{name}`", experiment.title)
                    for paper, module in PAPERS.items()
                    for name, experiment in module.EXPERIMENTS.items()
                ),
            ),
            "",
        ]
    )


def fields(recipe: type[Settings] = Recipe) -> Iterable[tuple[str, ...]]:
    """A row for each field of a recipe."""
    told, hints = explanations(recipe), typing.get_type_hints(recipe)
    for field in dataclasses.fields(recipe):
        default = "required" if field.default is dataclasses.MISSING else value(field.default)
        yield f"`{field.name}`", values(hints[field.name]), default, told[field.name]


def values(hint: Any) -> str:
    """The values that a field takes, in words."""
    inside = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inside)
    if typing.get_origin(hint) is tuple:
        return "numbers" if inside[0] is float else "words"
    if inside:
        return values(inside[0])
    return {bool: "switch", int: "whole number", float: "number", str: "text"}[hint]


def value(default: Any) -> str:
    """A default, in words."""
    if default is None:
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{' '.join(map(str, default)) if isinstance(default, tuple) else default}`"


DEFAULTS = {name: entry.defaults for name, entry in MODELS.items()}
DEFAULTS |= {"timm:, torchvision:": DEFAULTS.pop("lite0"), "--finetune": FINETUNE}
CHOSEN = tuple(dict.fromkeys(key for row in DEFAULTS.values() for key in row))


def choices() -> Iterable[tuple[str, ...]]:
    """A row for each model: what it takes where a field is open."""
    for name, row in DEFAULTS.items():
        yield f"`{name}`", *(value(row.get(key)) for key in CHOSEN)


def metrics() -> Iterable[tuple[str, ...]]:
    """A row for each metric."""
    for name, metric in METRICS.items():
        better = {"up": "higher", "down": "lower", "none": "–"}[metric.direction]
        yield f"`{name}`", metric.title, metric.unit or "–", better, metric.interval, metric.source


def losses() -> Iterable[tuple[str, ...]]:
    """A row for each loss."""
    for name, loss in LOSSES.items():
        knobs = ", ".join(f"{knob} {of.letter} = {of.default:g}" for knob, of in loss.knobs.items())
        yield f"`{name}`", knobs or "–", summary(loss)


def scores() -> Iterable[tuple[str, ...]]:
    """A row for each score of certainty."""
    for name, score in SCORES.items():
        yield f"`{name}`", score.title, score.needs, score.source


def summary(thing: Any) -> str:
    """First line of a docstring; of a partial's function."""
    return (getattr(thing, "func", thing).__doc__ or "").strip().splitlines()[0]


def table(header: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    rule = "|".join("---" for _ in header.split(" | "))
    return [f"| {header} |", f"|{rule}|", *(f"| {line} |" for line in lines)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    page = reference()
    if not parser.parse_args().check:
        TARGET.write_text(page, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        sys.exit(f"{TARGET.name} is out of date; run: make docs")
