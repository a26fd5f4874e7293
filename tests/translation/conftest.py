"""A small language that can be learned in seconds, and a run that learned it."""

from __future__ import annotations

from pathlib import Path

import pytest

from levelhead.translation.train_translator import train_translator
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun
from worlds import write_parallel

SMALL = {
    "source": "aa", "target": "bb", "vocabulary": 340, "layers": 2, "width": 32, "heads": 2,
    "feed_forward": 64, "dropout": 0.1, "batch_tokens": 600, "lr": 0.005, "average": 2,
    "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="session")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of train, val and test in the languages aa and bb."""
    folder = tmp_path_factory.mktemp("parallel")
    write_parallel(folder)
    return folder


@pytest.fixture(scope="session")
def learned(parallel: Path, tmp_path_factory: pytest.TempPathFactory) -> TranslationRun:
    """A run that has learned most of it."""
    recipe = TranslationRecipe(str(parallel), **SMALL, epochs=40, smoothing=0.1)
    return train_translator(recipe, tmp_path_factory.mktemp("run") / "learned")
