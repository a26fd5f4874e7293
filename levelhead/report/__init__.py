"""Reports: what a run, a study or a judgement found, as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.files import read_object, reading, write
from levelhead.report.judgement_page import write_judgement
from levelhead.report.page import metric_table, shown
from levelhead.report.run_page import (
    augmented_panels,
    calibrated,
    curve_panels,
    pictures_of,
    reliability_panels,
    run_images,
    run_report,
    run_words,
    template_panels,
)
from levelhead.report.study_page import study_report
from levelhead.runs import MAKE_ANEW, finished_run

__all__ = [
    "metric_table",
    "run_images",
    "run_report",
    "run_words",
    "shown",
    "study_report",
    "write_figures",
    "write_judgement",
    "write_report",
]


def write_report(folder: str | Path, images: Mapping[str, np.ndarray] | None = None) -> Path:
    """Write `report.html` into the folder of a finished run or study; returns its path.

    `images` as for `run_report`; by default the images are read again from the run's data.
    """
    folder = Path(folder)
    if _is_study(folder):
        findings = _study_findings(folder)
        with reading(folder / "findings.json", "give the study's command again"):
            page = study_report(findings)
    else:
        with reading(folder / "findings.json", MAKE_ANEW):
            page = (
                run_report(folder, pictures=pictures_of(folder))
                if images is None
                else run_report(folder, images)
            )
    write(folder / "report.html", page)
    return folder / "report.html"


def write_figures(folder: str | Path, into: str | Path) -> list[Path]:
    """Write the figures of a run or study as PNG files into a folder; returns their paths."""
    from levelhead.figures import comparison, confusion, write_panels

    folder, into = Path(folder), Path(into)
    panels: dict[str, tuple[Any, ...]]
    if _is_study(folder):
        findings = _study_findings(folder)
        with reading(folder / "findings.json", "give the study's command again"):
            panels = {"comparison": comparison.data(findings)}
    else:
        run = finished_run(folder)
        test = run.outputs("test")
        panels = {
            "reliability": reliability_panels(run, test, calibrated(run, test)),
            "confusion": confusion.data(test),
            "curves": curve_panels(run),
            "templates": template_panels(run),
            "augmented": augmented_panels(run),
        }
    return write_panels(panels, into, (".png",))


def _study_findings(folder: Path) -> dict[str, Any]:
    """The findings of a study. Raises LevelheadError for those of other commands."""
    findings = read_object(folder / "findings.json")
    if "settings" not in findings:
        raise LevelheadError(
            f"{folder}: holds what audit, calibrate, decide or another command found, whose page "
            "is report.html there; give that command again for a new one"
        )
    return findings


def _is_study(folder: Path) -> bool:
    return not (folder / "recipe.toml").exists() and (folder / "findings.json").exists()
