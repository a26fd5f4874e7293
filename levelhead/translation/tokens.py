"""Sentences as tokens, and batches of them: a token of the translation is an example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from levelhead.data.batches import seeded
from levelhead.targets import Targets
from levelhead.translation.corpus import Sentences
from levelhead.translation.vocabulary import PAD, START, Vocabulary

POOL = 32
"""So many batches' sentences are sorted by length at once."""
PIECE_TOKENS = 2048
"""Tokens whose logits are made at once in judging: of 10,000 pieces 80 MB."""


class Pairs(NamedTuple):
    """What the network takes: source [B,S] int64, the translation after START [B,T] int64, both
    padded with PAD; `kept` [N] int64, the places in [B·T] that are tokens."""

    source: Tensor
    before: Tensor
    kept: Tensor


@dataclass(frozen=True)
class TokenBatch:
    """A batch of sentences: labels int64 [N], their tokens row by row, and `index` int64 [N], the
    place of each among all tokens of the split."""

    pairs: Pairs
    labels: Tensor
    index: Tensor
    targets: Targets | None = None

    @property
    def inputs(self) -> Pairs:
        """What the network takes."""
        return self.pairs


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sentences as numbers of pieces: rows of int64, each ending with END."""

    source: list[np.ndarray]
    target: list[np.ndarray]

    @classmethod
    def of(cls, sentences: Sentences, vocabulary: Vocabulary) -> Tokens:
        """Both sides of the pairs."""
        return cls(vocabulary.encode(sentences.source), vocabulary.encode(sentences.target))

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the source and of the target rows, int64 [N] each."""
        sides = self.source, self.target
        lengths = [np.array([len(row) for row in side], np.int64) for side in sides]
        return lengths[0], lengths[1]

    @cached_property
    def labels(self) -> Tensor:
        """Every token of the translations, int64, row after row."""
        return torch.from_numpy(np.concatenate(self.target))

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each row begins among all tokens."""
        return np.concatenate([[0], np.cumsum(self.lengths[1])[:-1]])

    def batch(self, rows: np.ndarray, device: torch.device) -> TokenBatch:
        """Some of the pairs as a batch."""
        targets = [self.target[i] for i in rows]
        before = padded([np.concatenate([[START], row[:-1]]) for row in targets])
        length = before.shape[1]
        kept = np.concatenate([b * length + np.arange(len(t)) for b, t in enumerate(targets)])
        index = np.concatenate([self.starts[i] + np.arange(len(self.target[i])) for i in rows])
        labels = torch.from_numpy(np.concatenate(targets))
        pairs = Pairs(
            padded([self.source[i] for i in rows]).to(device),
            before.to(device),
            torch.from_numpy(kept).to(device),
        )
        return TokenBatch(pairs, labels.to(device), torch.from_numpy(index))


def padded(rows: list[np.ndarray]) -> Tensor:
    """Rows of numbers side by side, int64 [B, longest], PAD behind the shorter ones."""
    table = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


@dataclass(frozen=True, eq=False)
class TokenBatches:
    """The batches of an epoch: about `size` tokens of translation each, of like length.

    Sentences are shuffled, sorted by length within pools of 32 batches (up and down in turn, and
    by the source's length so too, so that neighbours are alike), cut where the tokens add up, and
    the batches shuffled. An epoch has the same number of batches each time.
    """

    tokens: Tokens
    size: int
    seed: int
    device: torch.device

    @property
    def examples(self) -> int:
        """Tokens an epoch."""
        return len(self.tokens.labels)

    def __len__(self) -> int:
        return min(len(self.tokens), -(-self.examples // self.size))

    def rows(self, epoch: int) -> list[np.ndarray]:
        """Which pairs are in each batch of an epoch."""
        draw = np.random.default_rng(seeded(self.seed, epoch).initial_seed())
        order = draw.permutation(len(self.tokens))
        source, target = self.tokens.lengths
        pool = POOL * max(1, len(self.tokens) // len(self))
        runs = []
        for number, start in enumerate(range(0, len(order), pool)):
            part = order[start : start + pool]
            turned = np.where(target[part] % 2, -source[part], source[part])
            part = part[np.lexsort((turned, target[part]))]
            runs.append(part[::-1] if number % 2 else part)
        order = np.concatenate(runs)
        middle = np.cumsum(target[order]) - target[order] / 2
        cuts = np.searchsorted(middle, self.examples * np.arange(1, len(self)) / len(self))
        batches = np.split(order, cuts)
        if not all(map(len, batches)):  # sentences longer than a batch
            batches = np.array_split(order, len(self))
        return [batches[i] for i in draw.permutation(len(batches))]

    def __call__(self, epoch: int) -> Iterator[TokenBatch]:
        """The batches of one epoch, counted from 0."""
        for rows in self.rows(epoch):
            yield self.tokens.batch(rows, self.device)


def in_pieces(tokens: Tokens, most: int = PIECE_TOKENS) -> Iterator[np.ndarray]:
    """All pairs, the longest first, in groups of at most so many tokens (or one pair)."""
    source, target = tokens.lengths
    order = np.lexsort((source, target))[::-1]
    start = 0
    while start < len(order):
        fits = max(1, most // int(target[order[start]]))
        yield order[start : start + fits]
        start += fits


@dataclass(frozen=True, eq=False)
class HeldSentences:
    """The tokens of a split, judged in pieces, each given its true beginning."""

    tokens: Tokens
    device: torch.device

    def pieces(self, network: Any) -> Iterable[tuple[Tensor, Tensor]]:
        """Logits [n,K] and labels of some tokens at a time."""
        network.eval()
        for rows in in_pieces(self.tokens):
            batch = self.tokens.batch(rows, self.device)
            yield network(batch.pairs), batch.labels
