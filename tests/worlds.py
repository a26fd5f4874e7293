"""Synthetic classifiers whose truth is known: what the tests judge, draw and calibrate."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from levelhead.metrics import Metric
from levelhead.outputs import Outputs
from levelhead.statistics.examples import weights


def logits_and_labels(
    n: int, k: int, temperature: float = 1.0, seed: int = 0, scale: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits z [n, k] and labels drawn from softmax(z / temperature): calibrated at 1."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(n, k)) * scale
    return z, (z / temperature + draw.gumbel(size=(n, k))).argmax(1)


def sampled(
    n: int, k: int = 4, temperature: float = 1.0, seed: int = 0, scale: float = 3.0, **more: Any
) -> Outputs:
    """Outputs of `logits_and_labels`; above 1 they are overconfident, below 1 underconfident."""
    return Outputs.from_logits(*logits_and_labels(n, k, temperature, seed, scale), **more)


def annotated(n: int, k: int, seed: int = 0, scale: float = 2.0) -> Outputs:
    """Overconfident logits: labels, and 20 annotators each, drawn from softmax of half of them."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(n, k)) * scale
    y = (z / 2 + draw.gumbel(size=(n, k))).argmax(1)
    p = np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True)
    return Outputs.from_logits(z, y, label_distribution=draw.multinomial(20, p))


def skewed(n: int = 400, k: int = 3, seed: int = 0, bias: float = 0.5, **more: Any) -> Outputs:
    """Overconfident logits, whose weights and biases are wrong for each class, and labels."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(n, k)) * 3
    truth = z * draw.uniform(0.3, 0.8, k) + bias * draw.normal(size=k)
    return Outputs.from_logits(z, (truth + draw.gumbel(size=z.shape)).argmax(1), **more)


def truthful(
    n: int, k: int = 5, seed: int = 0, scale: float = 1.0, dtype: Any = np.float64
) -> Outputs:
    """Logits whose softmax, at scale 1, is the truth; labels by its cumulative sums."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 2
    labels = (softmax(z, 1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=k - 1)
    return Outputs.from_logits((z * scale).astype(dtype), labels)


def mostly_right(
    n: int = 300, classes: int = 6, seed: int = 0, names: Any = None, gain: float = 2.0
) -> Outputs:
    """Logits that are right in most rows, with ids."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    return Outputs.from_logits(gain * logits, labels, names, ids=[f"{i}.png" for i in range(n)])


def confused(
    n: int, classes: int, seed: int, split: str, *, scale: float = 2.0, names: Any = None
) -> Outputs:
    """Overconfident logits that take a class for its neighbour, of a split, with ids."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), labels] += 2.2 + 0.3 * np.log(classes)
    logits[np.arange(n), (labels + 1) % classes] += 1.0
    names = [f"class {k}" for k in range(classes)] if names is None else names
    ids = [f"{split}/{names[k] if len(names[k]) < 20 else k}/{i}.png" for i, k in enumerate(labels)]
    return Outputs.from_logits(scale * logits, labels, names, ids=ids, split=split)


def certainties(n: int, rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Certainties and errors of a classifier: one that ranks well, in "steps", or "flat"."""
    sure = rng.exponential(size=n) * 1.5
    if kind == "steps":
        sure = np.round(sure * 2) / 2
    risk = np.full(n, 0.05) if kind == "flat" else 0.008 + 0.4 * np.exp(-2 * sure)
    return sure, rng.random(n) < risk


def replicates(
    metric: Metric, prepared: Sequence[Any], resamples: int = 1000, seed: int = 0
) -> torch.Tensor:
    """Bootstrap values of a metric for sources on the same examples, draw by draw, [M, R]."""
    n = len(prepared[0])
    draws = [
        torch.stack([metric.value(one, block)[metric.name] for one in prepared])
        for block in weights(n, resamples, seed)
    ]
    return torch.cat(draws, 1)


def half_over_seeds(rows: np.ndarray, level: float = 0.95) -> float:
    """Half-width of the interval of a mean over seeds [S, N], by the plain formula.

    √(t² s²/S + z² (examples − interaction)): two-way analysis of variance; at least √examples.
    """
    from scipy import stats

    seeds, n = rows.shape
    over_seeds = rows.mean(1).var(ddof=1) / seeds
    examples = rows.mean(0).var(ddof=1) / n
    own = rows - rows.mean(1, keepdims=True) - rows.mean(0) + rows.mean()
    both = (own**2).sum() / ((seeds - 1) * (n - 1)) / (seeds * n)
    t, z = stats.t.ppf((1 + level) / 2, seeds - 1), stats.norm.ppf((1 + level) / 2)
    half = np.sqrt(t**2 * over_seeds + z**2 * max(examples - both, 0))
    return float(max(half, np.sqrt(examples)))


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, name: str, after: int = 0) -> None:
    """From now on a file of this name, written once more than `after` times, does not fit."""
    original, times = Path.open, [0]

    def open_(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        mine = f".{name}." in path.name and "x" in mode
        times[0] += mine
        if mine and times[0] > after:
            with original(path, mode) as file:
                file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", open_)


SPELLED = (
    ("ba", "ko", "mi", "tu", "re", "so", "na", "ve", "li", "po"),
    ("Um", "Dois", "Tres", "Quatro", "Cinco", "Seis", "Sete", "Oito", "Nove", "Dez"),
)


def spelled(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n sentences and their translations: digits spelled in order there, in reverse here."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(0, 10, draw.integers(2, 7)) for _ in range(n)]
    there = [" ".join(SPELLED[0][i] for i in row) + " ." for row in rows]
    return there, [" ".join(SPELLED[1][i] for i in row[::-1]) + "." for row in rows]


def write_parallel(folder: Path, counts: Sequence[int] = (600, 60, 60)) -> None:
    """train, val and test of `spelled` in the languages aa and bb."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, n) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        for language, lines in zip(("aa", "bb"), spelled(n, seed), strict=True):
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
