"""What every study of runs ends in: findings, and what its figures draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.files import write_json
from levelhead.runs import Run

SCHEMA = 1


@dataclass(frozen=True)
class Understood:
    """What a study of runs says, and what its figures draw: columns or curves by title."""

    findings: dict[str, Any]
    drawn: Mapping[str, Any]

    @property
    def words(self) -> tuple[str, ...]:
        """What was found, as sentences."""
        return tuple(self.findings["words"])

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json into a folder."""
        write_json(Path(folder) / "findings.json", self.findings)


def name_of(run: Run) -> str:
    """A run in a table or figure: its folder and what smooths it."""
    recipe = run.recipe
    if recipe.loss != "cross_entropy":
        return f"{run.folder.name} ({recipe.loss})"
    how = "online" if recipe.targets == "online" else f"ε = {recipe.smoothing:g}"
    return f"{run.folder.name} ({how})"
