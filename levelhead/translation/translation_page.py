"""The page of a translator: what it is worth, where it is wrong, where it is unsure."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from levelhead.files import reading, write
from levelhead.report.page import page, svgs
from levelhead.runs import MAKE_ANEW
from levelhead.translation.text_scores import TEXT_METRICS
from levelhead.translation.translation_findings import ANSWERS, TOKEN_METRICS
from levelhead.translation.translation_run import TranslationRun

ROWS = 8
"""Sentences shown of a kind."""
LABELS = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)"}
assert LABELS.keys() == TEXT_METRICS.keys()


def write_translation_page(run: TranslationRun, figures: str | None = None) -> Path:
    """Write report.html, with `figures` also its figures as PNG and SVG; returns its path."""
    from levelhead.figures import write_panels

    findings, panels = run.findings, panels_of(run)
    answers = read_answers(run)
    worst = sorted(answers, key=lambda row: row["chrf"])[:ROWS]
    unsure = sorted(answers, key=lambda row: row["sure"])[:ROWS]
    source, target = findings["languages"]
    content = page(
        "translation",
        title=f"{source} to {target}, {run.data['name']}",
        found=findings,
        metrics=[name for name in TOKEN_METRICS if name in findings["test"]["metrics"]],
        labels=LABELS,
        reliability=svgs("reliability", panels["reliability"]),
        course=svgs("curves", panels["curves"]),
        sentences=[
            ("Least like the reference", worst),
            ("Least sure", unsure),
        ],
        command=run.recipe.command(),
    )
    path = run.folder / "report.html"
    write(path, content)
    if figures is not None:
        write_panels(panels, Path(figures))
    return path


def panels_of(run: TranslationRun) -> dict[str, tuple[Any, ...]]:
    """Its figures: reliability of test as it is and calibrated, the course of training."""
    from levelhead.figures import curves, reliability

    recipe, findings = run.recipe, run.findings
    bins = reliability.data(
        run.outputs("test"),
        run.outputs("test_calibrated"),
        ece=[findings[key]["metrics"]["ece"] for key in ("test", "test_calibrated")],
    )
    plain = recipe.loss == "cross_entropy" and recipe.class_weights == "none"
    course = curves.data(
        run.history,
        classes=int(run.data["pieces"]),
        smoothing=recipe.smoothing if plain else 0.0,
        convention=recipe.convention,
        augmented=False,
    )
    return {"reliability": bins, "curves": course}


def read_answers(run: TranslationRun) -> list[dict[str, Any]]:
    """The translations of test: texts, `sure` (geometric mean of the pieces' probabilities)."""
    path = run.folder / ANSWERS
    with reading(path, MAKE_ANEW), path.open(newline="", encoding="utf-8") as file:
        return [
            {
                **{name: row[name] for name in ("source", "reference", "translation")},
                "sure": math.exp(float(row["log_probability"])),
                "chrf": float(row["chrf"]),
            }
            for row in csv.DictReader(file)
        ]
