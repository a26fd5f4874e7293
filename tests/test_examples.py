"""The examples run as they stand, as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, folder: Path, *words: str) -> str:
    """Standard output of an example, started in a folder of its own."""
    command = [sys.executable, "-W", "error", EXAMPLES / script, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_digits(tmp_path: Path) -> None:
    """Else the first training that a newcomer copies would fail, or leave no run behind."""
    said = run("train_digits.py", tmp_path, "run", "--epochs", "2")
    assert "after temperature, " in said
    assert (tmp_path / "run" / "findings.json").exists()


def test_audit_predictions(tmp_path: Path) -> None:
    """Else the first audit that a newcomer copies would fail, or miss a model that is too sure."""
    said = run("audit_predictions.py", tmp_path)
    assert said.startswith("Overconfident: it claims 99.0 % on average and is right in 95.6 %")
    assert "calibration would help: NLL" in said
    assert "ECE 0.0" in said
    assert not list(tmp_path.iterdir())
