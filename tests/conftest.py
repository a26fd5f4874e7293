"""What several tests share: a cache of their own, the real data, and small folders of images."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    os.environ["LEVELHEAD_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """real_data("trashnet") -> its folder under LEVELHEAD_DATA, or skip."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("LEVELHEAD_DATA", "")) / name
        if "LEVELHEAD_DATA" not in os.environ or not path.exists():
            pytest.skip(f"LEVELHEAD_DATA has no {name}")
        return path

    return find


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder({"train/cat": 3, ...}) -> a folder with that many different images in each."""

    def make(counts: dict[str, int], size: tuple[int, int] = (12, 10), suffix: str = "png") -> Path:
        root = tmp_path / "photos"
        for number, (name, n) in enumerate(counts.items()):
            (root / name).mkdir(parents=True)
            for i in range(n):
                rng = np.random.default_rng([number, i])
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i}.{suffix}")
        return root

    return make


@pytest.fixture
def quick_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are judged with 64 draws instead of 1,000: for tests that look at no interval's end."""
    from levelhead.judging import run_findings

    quick = functools.partial(run_findings, resamples=64)
    monkeypatch.setattr("levelhead.training.run.run_findings", quick)
