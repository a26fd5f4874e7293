"""The page of a run, its figures as files, and what a person reads when training has ended."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.files import read_json, reading
from levelhead.metrics import HEADLINE, METRICS
from levelhead.metrics.counts import taken_for
from levelhead.report.next_steps import after_training, more_of_the_weakest
from levelhead.report.next_steps import lines as lines_of
from levelhead.report.page import metric_table, page, svgs
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.text import duration

if TYPE_CHECKING:
    from levelhead.outputs import Outputs

WEAKEST = 20
"""So many classes stand in the open; the others behind a fold."""


def stages_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """What a page judges, by its heading: validation, test, and test as predictions give it."""
    found = run.findings
    stages = {name: found[name] for name in ("validation", "test")}
    if (pair := run.calibrated_test) is not None:
        method, judgement = pair
        stages[f"test, after {method.replace('_', ' ')}"] = judgement
    return stages


def run_report(
    folder: str | Path,
    images: Mapping[str, np.ndarray] | None = None,
    paths: Mapping[str, str] | None = None,
) -> str:
    """The page of a finished run. Raises LevelheadError for what is missing or damaged.

    `images` holds the images to show by id of the test split, uint8 [H,W] or [H,W,1 or 3]
    (`run_images` finds them); those that are missing are named instead. `paths`, by id, are what
    some are called.
    """
    from levelhead.figures import confusion, samples

    run = finished_run(folder)
    recipe, data, found, test = run.recipe, run.data, run.findings, run.outputs("test")
    after, stages = calibrated(run, test), stages_of(run)
    (matrix,) = confusion.data(test)
    lines = curve_panels(run)
    return page(
        "run",
        title=f"{data['name']} · {recipe.model}",
        stages=stages,
        last=[*stages.values()][-1],
        found=found,
        data=data,
        paths=paths or {},
        card=_card(run),
        policy=run.policy if (run.folder / "policy.json").exists() and "policy" in found else None,
        reliability=svgs("reliability", reliability_panels(run, test, after)),
        galleries=samples.data(after or test, images or {}),
        matrix=svgs("confusion", (matrix,))[0],
        weakest=WEAKEST,
        headline=HEADLINE,
        metrics=METRICS,
        least=round(min(96 * matrix.size[0], 460)),  # px; narrower, its numbers are too small
        pairs=matrix.pairs(WEAKEST if test.classes > WEAKEST else 10),
        classes=weakest_first(found["report"]["classes"], test),
        curves=list(zip(svgs("curves", lines), lines, strict=True)),
        recipe={k: v for k, v in dataclasses.asdict(recipe).items() if v is not None},
        environment=_environment(run),
        command=recipe.command(),
        steps=(*more_of_the_weakest(after or test, "images"), *after_training(run)),
        again=f"levelhead report {shlex.quote(str(folder))}",
    )


def reliability_panels(run: Run, test: Outputs, after: Outputs | None) -> tuple[Any, ...]:
    """Panels of the test split as it is, and as predictions give it."""
    from levelhead.figures import reliability

    stages = stages_of(run)
    ece = [judged["metrics"]["ece"] for name, judged in stages.items() if name != "validation"]
    titles = ("As it is", f"{[*stages][-1].removeprefix('test, ').capitalize()}")
    return reliability.data(test, after, titles, ece=ece)


def calibrated(run: Run, test: Outputs) -> Outputs | None:
    """The test outputs as predictions give them, where a calibrator is used."""
    calibrator = run.calibrator
    return None if calibrator is None else calibrator.apply(test)


def curve_panels(run: Run) -> tuple[Any, ...]:
    """Panels of the training's course."""
    from levelhead.figures import curves

    recipe = run.recipe
    return curves.data(
        run.history if (run.folder / "history.csv").exists() else [],
        classes=len(run.data["class_names"]),
        smoothing=recipe.smoothing,
        convention=recipe.convention,
        augmented=bool(recipe.crop or recipe.flip or recipe.cutout or recipe.window),
    )


def run_images(folder: str | Path) -> dict[str, np.ndarray]:
    """The test images that a run's report shows, by id, read again from the run's data.

    Full size, uint8 [H,W] or [H,W,3]. Empty where the data has moved: a report does without.
    """
    return images_and_paths(folder)[0]


def images_and_paths(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`run_images`, and by id too what such an image is called, where its id is a number."""
    from levelhead.data.decode import Broken, pixels
    from levelhead.figures import samples
    from levelhead.training.prepare import listing_of

    run = finished_run(folder)
    test = run.outputs("test")
    ids = set(samples.wanted(calibrated(run, test) or test))
    images: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}
    try:
        listing = listing_of(run.recipe)
    except LevelheadError:
        return images, paths
    for entries in listing.splits.values():
        for i, name in enumerate(entries.ids):
            if name in ids and name not in images:
                if entries.paths is not None:
                    paths[name] = entries.paths[i]
                try:
                    if entries.images is not None:
                        images[name] = entries.images[i]
                    elif entries.read is not None:
                        images[name] = pixels(entries.read(i), listing.bits)
                except (OSError, Broken):
                    continue
    return images, paths


def run_words(run: Run) -> list[str]:
    """What a person wants to read when training has ended, ending in the next command to type."""
    data, found = run.data, run.findings
    counts = ", ".join(f"{n:,} {name}" for name, n in data["counts"].items())
    rate = found["images_per_second"]  # none where the features were there already
    speed = "" if rate is None else f" ({rate:,.0f} images/s)"
    lines = [
        f"Trained {run.recipe.model} on {data['name']}: {counts} images of "
        f"{len(data['class_names'])} classes, in {duration(found['seconds'] or 0)}{speed}."
    ]
    lines += [f"Note: {note}" for note in data["notes"]]
    if data["skipped"]:
        lines.append(f"Broken images left out, listed in data.json: {len(data['skipped'])}.")
    return [
        *lines,
        *found["words"],
        "",
        *metric_table(stages_of(run), HEADLINE).splitlines(),
        "",
        f"Report: {run.folder / 'report.html'}",
        *lines_of(after_training(run)),
    ]


def weakest_first(report: Sequence[Mapping[str, Any]], outputs: Outputs) -> list[dict[str, Any]]:
    """The rows of a classification report by F1, each with what the class is taken for.

    Classes without examples come last: nothing of theirs was missed.
    """
    rows: list[dict[str, Any]] = []
    others, counts = (values.tolist() for values in taken_for(outputs))
    for row, other, times in zip(report, others, counts, strict=True):
        taken = outputs.class_names[other] if times else None
        rows.append({**row, "taken_for": taken, "times": times})
    return sorted(rows, key=lambda row: (row["support"] == 0, row["f1"] is None, row["f1"] or 0.0))


def _card(run: Run) -> str | None:
    """The model card, where it was written."""
    path = run.folder / "card.md"
    with reading(path, MAKE_ANEW):
        return path.read_text(encoding="utf-8") if path.exists() else None


def _environment(run: Run) -> dict[str, str]:
    path = run.folder / "environment.json"
    fields = dict(read_json(path)) if path.exists() else {}
    if (seconds := fields.pop("seconds", None)) is not None:
        fields["training time"] = duration(seconds)
    if (rate := fields.pop("images_per_second", None)) is not None:
        fields["images per second"] = f"{rate:,.0f}"
    if memory := fields.pop("peak_memory_bytes", None):
        fields["peak memory"] = f"{memory / 1e9:.2f} GB"
    return {name: str(value) for name, value in fields.items() if value is not None}
