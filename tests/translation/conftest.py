"""A small language that can be learned in seconds: numbers spelled in two made-up tongues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FROM = ["ba", "ko", "mi", "tu", "re", "so", "na", "ve", "li", "po"]
INTO = ["Um", "Dois", "Tres", "Quatro", "Cinco", "Seis", "Sete", "Oito", "Nove", "Dez"]


def written(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n pairs: words in order there, in reverse here, and a full stop."""
    draw = np.random.default_rng(seed)
    pairs = [draw.integers(0, 10, draw.integers(2, 7)) for _ in range(n)]
    source = [" ".join(FROM[i] for i in row) + " ." for row in pairs]
    return source, [" ".join(INTO[i] for i in row[::-1]) + "." for row in pairs]


@pytest.fixture(scope="session")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of train, val and test in the languages aa and bb."""
    folder = tmp_path_factory.mktemp("parallel")
    for seed, (name, n) in enumerate((("train", 600), ("val", 60), ("test", 60))):
        for language, lines in zip(("aa", "bb"), written(n, seed), strict=True):
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
