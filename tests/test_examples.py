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
    assert "As it is: overconfident" in said
    assert "The temperature helps" in said
    assert not list(tmp_path.iterdir())
