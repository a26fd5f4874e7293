"""BLEU, chrF and TER by sacrebleu, with intervals over sentences; differences are paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.statistics.measured import Measured
from levelhead.translation import extra

TEXT_METRICS = {"bleu": "BLEU", "chrf": "CHRF", "ter": "TER"}
"""By their names here: sacrebleu's classes. TER is better where it is lower."""


@dataclass(frozen=True, eq=False)
class TextScore:
    """A score of translations against references, 0 to 100, as sacrebleu has it.

    counts [N,S]: of each sentence what the score is worked out from, summed (BLEU: n-grams).
    """

    name: str
    signature: str
    value: float
    counts: np.ndarray
    metric: Any

    def of(self, sums: np.ndarray) -> float:
        """The score of summed counts [S]."""
        return float(self.metric._compute_score_from_stats(list(sums)).score)

    def draws(self, resamples: int, seed: int) -> np.ndarray:
        """The score of sentences drawn with replacement, [R]; the same draws for the same seed."""
        n = len(self.counts)
        index = np.random.default_rng(seed).integers(0, n, (resamples, n))
        weights = np.stack([np.bincount(row, minlength=n) for row in index])
        return np.array([self.of(row) for row in weights @ self.counts])

    @property
    def influence(self) -> Tensor:
        """What each sentence adds, float64 [N]: the jackknife's values (Efron & Stein 1981)."""
        n, total = len(self.counts), self.counts.sum(0)
        without = torch.tensor([self.of(total - own) for own in self.counts], dtype=torch.float64)
        return n * self.value - (n - 1) * without

    def measured(self, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Measured:
        """The score with its percentile interval (Koehn 2004)."""
        return _percentiles(self.value, self.draws(resamples, seed), level)


def text_scores(
    hypotheses: Sequence[str], references: Sequence[str], names: Sequence[str] = (*TEXT_METRICS,)
) -> dict[str, TextScore]:
    """Some scores by name. Raises LevelheadError where sacrebleu is missing or lengths differ."""
    if len(hypotheses) != len(references) or not hypotheses:
        raise LevelheadError(
            f"{len(hypotheses):,} translations for {len(references):,} references; give one a line"
        )
    extra("sacrebleu")
    metrics = extra("sacrebleu.metrics")
    scores = {}
    for name in names:
        metric = getattr(metrics, TEXT_METRICS[name])()
        counts = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
        total = metric.corpus_score(list(hypotheses), [list(references)])
        scores[name] = TextScore(
            name, str(metric.get_signature()), float(total.score), np.array(counts, float), metric
        )
    return scores


def resampled(
    one: TextScore, other: TextScore, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Measured:
    """`one` minus `other` on the same sentences, resampled together (Koehn 2004)."""
    assert len(one.counts) == len(other.counts), "of the same sentences"
    draws = one.draws(resamples, seed) - other.draws(resamples, seed)
    return _percentiles(one.value - other.value, draws, level)


def _percentiles(value: float, draws: np.ndarray, level: float) -> Measured:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Measured(value, float(low), float(high))
