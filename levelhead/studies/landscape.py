"""The loss landscape of finished runs beside each other: along lines, and over a plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from levelhead.data.batches import as_batch
from levelhead.errors import LevelheadError
from levelhead.machine import pick_device
from levelhead.representation.directions import Slice, along, direction
from levelhead.runs import Run
from levelhead.statistics.measured import Measured, spread
from levelhead.studies.understood import SCHEMA, Understood, name_of
from levelhead.text import count
from levelhead.training.run_data import run_data, stratified

AT = 0.5
"""How far from the weights the rise is measured, in lengths of the filters."""


def landscape(
    runs: Sequence[Run],
    *,
    directions: int = 5,
    points: int = 21,
    radius: float = 1.0,
    grid: int = 0,
    images: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Understood:
    """NLL and accuracy on test images along filter-normalised directions, the same for every run.

    `points` from −radius to radius along each of so many directions; with `grid`, also over the
    plane of the first two, so many places a side. What a run loses at half a filter's length is the
    mean over the directions and both sides, its interval over the directions (Student's t); every
    run after the first is held against it, paired by direction. Raises LevelheadError for runs of
    other test images, and for numbers that are no use.
    """
    _check(runs, directions, points, radius, grid, images)
    where, line = pick_device(device), np.linspace(-radius, radius, points)
    side = np.linspace(-radius, radius, grid)
    total = len(runs) * (directions * (points + 2) + grid * grid)
    done, drawn, rows = 0, {}, []
    losses: list[np.ndarray] = []
    falls: list[np.ndarray] = []
    data = run_data(runs[0])
    test = data.test.take(stratified(data.test.labels, images))
    split = as_batch(test, where)
    for run in runs:
        if run.data["hashes"]["test"] != runs[0].data["hashes"]["test"]:
            raise LevelheadError(
                f"{run.folder}: has other test images than {runs[0].folder}; give runs of one data"
            )
        network = run.network(where)
        steps = [direction(network, seed + place) for place in range(directions)]
        slices: list[Slice] = []
        ends: list[Slice] = []
        for one in steps:
            slices.append(along(network, [one], [[float(a)] for a in line], split))
            ends.append(along(network, [one], [[-AT], [AT]], split))
            done += points + 2
            progress(done, total)
        here = along(network, [steps[0]], [[0.0]], split)
        plane = None
        if grid:
            places = [[float(a), float(b)] for b in side for a in side]
            plane = along(network, steps[:2], places, split).nll.numpy().reshape(grid, grid)
            done += grid * grid
            progress(done, total)
        nll, accuracy = float(here.nll[0]), float(here.accuracy[0])
        losses.append(np.array([float(end.nll.mean()) - nll for end in ends]))
        falls.append(np.array([float(end.accuracy.mean()) - accuracy for end in ends]))
        drawn[name_of(run)] = {
            "line": line,
            "nll": torch.stack([one.nll for one in slices]).numpy(),
            "accuracy": torch.stack([one.accuracy for one in slices]).numpy(),
            "side": side,
            "plane": plane,
        }
        rows.append(
            {
                "run": name_of(run),
                "model": run.recipe.model,
                "nll": nll,
                "accuracy": accuracy,
                "rise": _measured(spread(losses[-1].tolist(), level)),
                "fall": _measured(spread(falls[-1].tolist(), level)),
            }
        )
    compared = [
        {
            "run": rows[i]["run"],
            "baseline": rows[0]["run"],
            "rise": _measured(spread((losses[i] - losses[0]).tolist(), level)),
            "fall": _measured(spread((falls[i] - falls[0]).tolist(), level)),
        }
        for i in range(1, len(runs))
    ]
    findings = {
        "schema": SCHEMA,
        "n": len(test),
        "directions": directions,
        "radius": radius,
        "at": AT,
        "seed": seed,
        "runs": rows,
        "differences": compared,
        "words": [*_words(rows, directions), *map(_difference, compared), *_careful(rows)],
    }
    return Understood(findings, drawn)


def _check(
    runs: Sequence[Run], directions: int, points: int, radius: float, grid: int, images: int
) -> None:
    if not runs:
        raise LevelheadError("no run: give at least one")
    for name, value, least in (
        ("directions", directions, 2),
        ("points", points, 3),
        ("images", images, 10),
    ):
        if value < least:
            raise LevelheadError(f"--{name} {value}: must be {least} or more")
    if not 0 < radius <= 10:
        raise LevelheadError(f"--radius {radius}: must be above 0, at most 10")
    if grid and not 3 <= grid <= 201:
        raise LevelheadError(f"--plane {grid}: must be 3 to 201 places a side")


def _measured(measured: Measured) -> dict[str, Any]:
    return {"value": measured.value, "low": measured.low, "high": measured.high}


def _ends(entry: dict[str, Any], scale: float = 1.0, unit: str = "") -> str:
    value, low, high = (scale * entry[end] for end in ("value", "low", "high"))
    digits = 1 if scale != 1 else 3
    return f"{value:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−")


def _words(rows: Sequence[dict[str, Any]], directions: int) -> list[str]:
    return [
        f"{row['run']}: NLL {row['nll']:.3f}, accuracy {100 * row['accuracy']:.1f} %; half a "
        f"filter's length away NLL {_ends(row['rise'])}, accuracy {_ends(row['fall'], 100)} points "
        f"(mean and interval over {count(directions, 'direction')})."
        for row in rows
    ]


def _difference(row: dict[str, Any]) -> str:
    parts = []
    for name, what, more, less, scale in (
        ("rise", "its NLL rises", "more", "less", 1.0),
        ("fall", "its accuracy falls", "less", "more", 100.0),
    ):
        entry = row[name]
        if entry["low"] > 0 or entry["high"] < 0:
            how = f"{what} {more if entry['low'] > 0 else less}"
        else:
            how = f"cannot tell whether {what} more or less"
        parts.append(f"{how} ({_ends(entry, scale)})")
    return f"{row['run']} against {row['baseline']}, along the same directions: {'; '.join(parts)}."


def _careful(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a picture of two landscapes does not show."""
    sentences = []
    if len({row["model"] for row in rows}) > 1:
        sentences.append(
            "The networks are of several designs: their directions are other ones, and only runs "
            "of one design are moved alike."
        )
    if len(rows) > 1:
        sentences.append(
            "NLL is counted in nats of each network's own confidence, which smoothing lowers: of "
            "two networks that lose the same accuracy the surer one's NLL rises more."
        )
    return sentences
