"""The penultimate layer of finished runs: projections and geometry (Müller et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from levelhead.errors import LevelheadError
from levelhead.representation.geometry import (
    MEASURES,
    Projection,
    geometry,
    plane_ratio,
    project,
    tightening,
    triples,
)
from levelhead.runs import Run
from levelhead.studies.understood import SCHEMA, Understood, name_of
from levelhead.training.run_data import train_outputs


def penultimate(
    runs: Sequence[Run],
    classes: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "validation"),
    *,
    per_class: int = 100,
    examples: int | None = 10_000,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    device: str = "auto",
) -> Understood:
    """The penultimate layer of runs on some splits: projections, and `geometry` in numbers.

    `classes` are three names; by default the two that are most alike and one that is not, chosen
    on the first run's validation split. Every run after the first is held against it on each split
    (`tightening`: within- over between-class spread, paired). Of train so many `examples`, the
    same of every run, are looked at (None: all). Source: Müller et al. 2019, Figure 1.
    """
    if not runs:
        raise LevelheadError("no run: give at least one")
    outputs = {
        (place, split): train_outputs(run, examples, device=device)
        if split == "train"
        else run.outputs(split)
        for place, run in enumerate(runs)
        for split in splits
    }
    first = runs[0].outputs("validation")
    if classes is None:
        classes = [first.class_names[k] for k in triples(first)["two similar, one different"]]
    if len(classes) != 3:
        raise LevelheadError(f"--classes {' '.join(classes)}: must be three names")
    columns, drawn = [], {}
    compared = []
    for (place, split), found in outputs.items():
        name = name_of(runs[place])
        projection: Projection = project(found, classes, per_class, seed)
        drawn[f"{name}, {split}"] = projection
        measured = geometry(found, level, resamples, seed)
        plane = plane_ratio(projection)
        columns.append({"run": name, "split": split, "plane": plane, **measured})
        if place:
            change = tightening(outputs[0, split], found, level, resamples=1000, seed=seed)
            before = next(c for c in columns if c["split"] == split)  # the first run's
            both = before, columns[-1]
            row = {"run": name, "baseline": before["run"], "split": split}
            row["plane"] = [column["plane"] for column in both]
            row["nc1"] = [column["metrics"]["nc1"]["value"] for column in both]
            compared.append(row | change)
    findings = {
        "schema": SCHEMA,
        "classes": list(classes),
        "measures": MEASURES,
        "columns": columns,
        "tightening": compared,
        "words": [_tightened(row) for row in compared],
    }
    return Understood(findings, drawn)


def _tightened(row: Mapping[str, Any]) -> str:
    ratio = row["ratio"]
    if ratio.get("value") is None:
        return f"{row['run']}, {row['split']}: {ratio.get('reason')}."
    ends = f"interval {ratio['low']:.3f} to {ratio['high']:.3f}"
    amount = f"{ratio['value']:.3f} times that of {row['baseline']} ({ends})"
    verdict = (
        "cannot tell whether its clusters are tighter"
        if ratio["low"] <= 1 <= ratio["high"]
        else f"its clusters are {'tighter' if ratio['value'] < 1 else 'looser'}"
    )
    # Most directions of the features tell no classes apart, and the figure does not show them.
    before, after = row["nc1"]
    return (
        f"{row['run']} on {row['split']}: over all directions {verdict}; within- over "
        f"between-class spread is {amount}. In the directions that tell classes apart (NC1): "
        f"{after:.3g} against {before:.3g}. In the plane drawn: {row['plane'][1]:.3g} against "
        f"{row['plane'][0]:.3g}."
    )
