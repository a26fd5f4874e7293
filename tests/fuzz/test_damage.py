"""A short pass of the campaign of damage; `campaign.py` beside it is the long one."""

from __future__ import annotations

import importlib.util
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
