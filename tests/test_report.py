"""The report page: what is on it, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from levelhead.calibrators import Temperature
from levelhead.errors import LevelheadError
from levelhead.findings import run_findings
from levelhead.flags import Parser, add_recipe, recipe_of
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.report import (
    command,
    metric_table,
    pictures,
    run_report,
    run_words,
    shown,
    study_report,
    write_report,
)
from levelhead.runs import Run, write_json

NASTY = (
    "<script>document.title='owned'</script>",
    "\"quoted\" & 'single'",
    "חתול שחור",
    "猫 – naïve $x_1$",
    "{{ 7 * 7 }}",
    "a very long name of a class that goes on and on without an end_" + "x" * 60,
)
"""Class names that would break a page made without care."""


def scores(
    n: int, classes: int, seed: int, split: str, *, scale: float = 2.0, names: Any = None
) -> Outputs:
    """Overconfident logits with some structure among the mistakes."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), labels] += 2.2 + 0.3 * np.log(classes)
    logits[np.arange(n), (labels + 1) % classes] += 1.0
    names = [f"class {k}" for k in range(classes)] if names is None else names
    ids = [f"{split}/{names[k] if len(names[k]) < 20 else k}/{i}.png" for i, k in enumerate(labels)]
    return Outputs.from_logits(scale * logits, labels, names, ids=ids, split=split)


def make_run(
    folder: Path,
    validation: Outputs,
    test: Outputs,
    *,
    recipe: Recipe | None = None,
    history: list[Mapping[str, float]] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run folder without any training, as train.py writes it."""
    recipe = recipe or Recipe(
        "digits", model="cnn", image_size=8, optimizer="adamw", lr=0.004, epochs=12, smoothing=0.1
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    counts = {"train": 5000, "validation": len(validation), "test": len(test)}
    about = {
        "name": "digits",
        "source": recipe.data,
        "fingerprint": "ab" * 32,
        "class_names": test.class_names,
        "channels": 1,
        "image_size": recipe.image_size,
        "mean": [78.0],
        "std": [96.0],
        "counts": counts,
        "hashes": dict.fromkeys(counts, "cd" * 32),
        "notes": ["val/ is taken as the test set."],
        "skipped": [["train/cat/<b>.jpg", "damaged or cut off (truncated)"]],
    }
    write_json(folder / "data.json", about | dict(data or {}))
    validation.save(folder / "outputs" / "validation.safetensors")
    test.save(folder / "outputs" / "test.safetensors")
    calibrator = Temperature.fit_on(validation)
    write_json(folder / "calibration.json", calibrator.to_json())
    found = run_findings(validation, test, calibrator, 75.2, 1333.3, counts, resamples=100)
    write_json(folder / "findings.json", found)
    told = {"levelhead": "0.1.0", "machine": "a <machine>", "cores": 2, "git": None}
    more = {"seconds": 75.2, "images_per_second": 1333.3, "peak_memory_bytes": 2_000_000_000}
    write_json(folder / "environment.json", told | more)
    if history is None:
        history = epochs(12)
    lines = [",".join(history[0]), *(",".join(f"{v:g}" for v in row.values()) for row in history)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


def epochs(n: int) -> list[Mapping[str, float]]:
    """Rows of history.csv of a training with smoothed targets."""
    rows = []
    for epoch in range(1, n + 1):
        left = float(np.exp(-4 * epoch / n))
        rows.append(
            {
                "epoch": epoch,
                "step": 5 * epoch,
                "seconds": 6.0 * epoch,
                "lr": 0.004 * (1 - epoch / n),
                "train_loss": 0.55 + 1.6 * left,
                "train_nll": 0.12 + 1.9 * left,
                "train_accuracy": 0.98 - 0.7 * left,
                "validation_nll": 0.2 + 1.7 * left,
                "validation_accuracy": 0.95 - 0.6 * left,
                "images_per_second": 1333.0,
            }
        )
    return rows


def study(settings: int = 3, seeds: int = 3, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """A study's findings by hand, as report.py's docstring says."""
    draw = np.random.default_rng(0)

    def cell(value: float, width: float) -> dict[str, Any]:
        per_seed = (value + width / 2 * draw.normal(size=seeds)).tolist()
        return {"value": value, "low": value - width, "high": value + width, "per_seed": per_seed}

    empty = {"value": None, "low": None, "high": None, "reason": "K <= 5", "per_seed": None}
    rows, differences = [], []
    for i in range(settings):
        name = names[i] if i < len(names) else f"smoothing={0.1 * i:g}"
        accuracy = cell(0.93 + 0.002 * i, 0.005)
        row: dict[str, Any] = {
            "name": name,
            "changes": {"smoothing": 0.1 * i},
            "seeds": list(range(seeds)),
            "runs": [f"runs/digits-study-1/{name}-seed{s}" for s in range(seeds)],
            "seconds": {"mean": 61.0},
            "temperature": cell(1.8 - 0.4 * i, 0.06),
        }
        for stage, nll, ece in (("raw", 0.34 - 0.03 * i, 0.045 - 0.01 * i), ("calibrated", 0.25, 0.01)):
            row[stage] = {
                "accuracy": accuracy,
                "top5": empty,
                "nll": cell(nll + 0.005 * i, 0.012),
                "brier": cell(0.1 + 0.001 * i, 0.004),
                "ece": cell(ece, 0.004),
            }
        rows.append(row)
        for calibrated in (False, True) if i else ():
            words = "lower NLL" if not calibrated else "cannot tell"
            change = {"value": -0.03 * i, "low": -0.05 * i, "high": 0.01, "words": words}
            named = {"setting": name, "baseline": rows[0]["name"], "metric": "nll"}
            differences.append(named | {"calibrated": calibrated} | change)
    return {
        "schema": 1,
        "data": {
            "name": "digits",
            "source": "digits",
            "fingerprint": "ab" * 32,
            "class_names": ["0", "1"],
            "counts": {"train": 1293, "validation": 144, "test": 360},
            "hashes": {"train": "cd" * 32},
            "image_size": 8,
            "notes": [],
            "skipped": [],
        },
        "n": 360,
        "classes": 2,
        "class_names": ["0", "1"],
        "settings": rows,
        "differences": differences,
        "recommendation": [
            "Train with smoothing=0 and keep the temperature: cannot tell the settings apart.",
            "Without a temperature, smoothing=0.1 has the lower NLL.",
        ],
        "seconds": 366.0,
    }
