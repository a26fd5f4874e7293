"""A short pass of the campaign of damage; `campaign.py` beside it is the long one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    """campaign.py, as a module."""
    file = Path(__file__).with_name("campaign.py")
    spec = importlib.util.spec_from_file_location("campaign", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("part", "n"), [("inputs", 40), ("runs", 20)])
def test_damage_ends_in_a_result_or_one_line(
    part: str, n: int, campaign: ModuleType, tmp_path: Path, quick_judging: None
) -> None:
    """A damaged file would give a traceback, hang, or reach the terminal."""
    faults = [
        f"{what}\n{fault}"
        for what, fault in getattr(campaign, part)(n, 7, tmp_path)
        if fault is not None
    ]
    assert not faults, "\n\n".join(faults)


def test_damage_is_damage(tmp_path: Path) -> None:
    """A campaign that damages nothing would find nothing."""
    sys.path.insert(0, str(Path(__file__).parent))
    from damage import damaged, damaged_json, damaged_text

    data = bytes(range(200))
    rng = np.random.default_rng(0)
    assert np.mean([damaged(data, rng) != data for _ in range(200)]) > 0.95
    text = "a,b,label\n1,2,a\n3,4,b\n"
    assert np.mean([damaged_text(text, rng) != text for _ in range(200)]) > 0.8
    tree = '{"a": [1, 2, {"b": 3}]}'
    assert np.mean([damaged_json(tree, rng) != tree for _ in range(200)]) > 0.9


def test_no_reader_waits_for_a_pipe(tmp_path: Path) -> None:
    """A pipe (or a link to a device) in a folder of data or in place of predictions would hang."""
    sys.path.insert(0, str(Path(__file__).parent))
    from damage import datasets, fault_of, predictions

    rng = np.random.default_rng(0)
    places = [
        ("check", file) for folder in datasets(tmp_path / "data", rng) for file in _few(folder)
    ]
    places += [("audit", file) for file in predictions(tmp_path / "predictions", rng)]
    faults = []
    for command, file in places:
        whole = file.read_bytes()
        target = file.parent if command == "check" else file
        if command == "check":
            target = next(p for p in file.parents if p.parent == tmp_path / "data")
        for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
            file.unlink()
            make(file)
            flags = ["--json", "--logits"] if file.suffix in (".csv", ".parquet") else ["--json"]
            fault = fault_of([command, str(target), *(flags if command == "audit" else [])], 10)
            faults += [f"{command} {file.relative_to(tmp_path)}: {fault}"] if fault else []
            file.unlink()
            file.write_bytes(whole)
    assert not faults, "\n".join(faults)


def _few(folder: Path) -> list[Path]:
    """A file of each kind in a folder."""
    return list({file.suffix: file for file in sorted(folder.rglob("*.*"))}.values())
