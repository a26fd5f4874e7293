"""The page of a run, its figures as files, and what a person reads when training has ended."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.files import read_json, reading
from levelhead.metrics import HEADLINE, METRICS
from levelhead.metrics.counts import taken_for
from levelhead.models import find_model
from levelhead.report.next_steps import after_training, more_of_the_weakest
from levelhead.report.next_steps import lines as lines_of
from levelhead.report.page import metric_table, page, svgs
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.text import duration

if TYPE_CHECKING:
    from levelhead.data import Listing
    from levelhead.outputs import Outputs
    from levelhead.recipe import Recipe

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
    pictures: Pictures | None = None,
) -> str:
    """The page of a finished run. Raises LevelheadError for what is missing or damaged.

    `images` holds the images to show by id of the test split, uint8 [H,W] or [H,W,1 or 3]
    (`run_images` finds them); those that are missing are named instead. `pictures` holds these and
    more (`pictures_of`).
    """
    from levelhead.figures import confusion, samples

    pictures = pictures or Pictures(images or {})
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
        paths=pictures.paths,
        augmented=svgs("augmented", pictures.augmented),
        card=_card(run),
        policy=run.policy if (run.folder / "policy.json").exists() and "policy" in found else None,
        reliability=svgs("reliability", reliability_panels(run, test, after)),
        galleries=samples.data(after or test, pictures.images),
        matrix=svgs("confusion", (matrix,))[0],
        weakest=WEAKEST,
        headline=headline_of(found),
        metrics=METRICS,
        templates=svgs("templates", template_panels(run)),
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


def headline_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that stand first; accuracy by superclass beside accuracy, where there are any."""
    kinds = found["test"]["metrics"].get("superclass_accuracy") or {}
    first, *rest = HEADLINE
    return (first, "superclass_accuracy", *rest) if kinds.get("value") is not None else HEADLINE


def template_panels(run: Run) -> tuple[Any, ...]:
    """The weights of a classifier that is linear in its pixels, as images; none of any other."""
    from levelhead.figures import templates

    data = run.data
    shape = data["channels"], data["image_size"], data["image_size"]
    if not find_model(run.recipe.model).linear:
        return ()
    return templates.data(run.network().head.weight, data["class_names"], shape)


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
    from levelhead.training.defaults import augments

    recipe = run.recipe
    return curves.data(
        run.history if (run.folder / "history.csv").exists() else [],
        classes=len(run.data["class_names"]),
        smoothing=recipe.smoothing if _plainly_smoothed(recipe) else 0.0,
        convention=recipe.convention,
        augmented=augments(recipe),
    )


def _plainly_smoothed(recipe: Recipe) -> bool:
    """Whether ε alone makes the targets of cross-entropy."""
    others = (recipe.prior, recipe.smoothing_by_class, recipe.teacher, recipe.labels)
    mixes = recipe.mix != "none" or bool(recipe.mix_maps) or recipe.targets == "online"
    weighed = recipe.class_weights != "none"
    return recipe.loss == "cross_entropy" and not (any(others) or mixes or weighed)


def run_images(folder: str | Path) -> dict[str, np.ndarray]:
    """The test images that a run's report shows, by id, read again from the run's data.

    Full size, uint8 [H,W] or [H,W,3]. Empty where the data has moved: a report does without.
    """
    return dict(pictures_of(folder).images)


@dataclass(frozen=True)
class Pictures:
    """What a page shows of the run's data: test images by id, what such an image is called where
    its id is a number, and panels of training images as training saw them."""

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    augmented: tuple[Any, ...] = ()


def pictures_of(folder: str | Path) -> Pictures:
    """The pictures of a run's page; none where the data has moved."""
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
        return Pictures()  # the data has moved
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
    return Pictures(images, paths, augmented_panels(run, listing))


def augmented_panels(run: Run, listing: Listing | None = None) -> tuple[Any, ...]:
    """A few training images as they are and as training saw them.

    None without augmentation, and where the data has moved. `listing`: of the run's data, where it
    is known already.
    """
    from levelhead.data.decode import Broken
    from levelhead.training.prepare import listing_of

    try:
        return _augmented_panels(run, listing or listing_of(run.recipe))
    except (LevelheadError, OSError, Broken):
        return ()


def _augmented_panels(run: Run, listing: Listing) -> tuple[Any, ...]:
    import torch

    from levelhead.data.decode import fit, pixels
    from levelhead.data.entries import Examples
    from levelhead.figures import augmented
    from levelhead.training.augmentation import SHOWN, shown, spread_out
    from levelhead.training.defaults import augments

    recipe, kept = run.recipe, run.data
    if not (augments(recipe) or recipe.mix != "none") or "train" not in listing.splits:
        return ()
    entries, members, names = listing.splits["train"], run.ids("train"), kept["class_names"]
    first: dict[str, int] = {}
    for i, (id_, label) in enumerate(zip(entries.ids, entries.labels.tolist(), strict=True)):
        name = listing.class_names[label]
        if id_ in members and name in names:
            first.setdefault(name, i)
    chosen = spread_out(sorted(first, key=names.index), SHOWN)
    size, channels = kept["image_size"], kept["channels"]
    pictures = []
    for name in chosen:
        i = first[name]
        if entries.images is not None:
            pictures.append(fit(entries.images[i], size, channels, recipe.resize))
        elif entries.read is not None:
            image = pixels(entries.read(i), listing.bits)
            pictures.append(fit(image, size, channels, recipe.resize))
    labels = np.array([names.index(name) for name in chosen])
    few = Examples(np.stack(pictures), labels, tuple(chosen), np.zeros(len(chosen), np.uint64))
    mean = torch.tensor(kept["mean"]).round()
    return augmented.data(chosen, *shown(recipe, few, names, mean))


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
        *metric_table(stages_of(run), headline_of(found)).splitlines(),
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
