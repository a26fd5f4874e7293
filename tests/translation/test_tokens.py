"""Sentences become pieces and batches, and every token is seen once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.translation.tokens import PIECE_TOKENS, TokenBatches, Tokens, in_pieces
from levelhead.translation.vocabulary import END, PAD, START, Vocabulary
from worlds import spelled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    source, target = spelled(400, 0)
    return Vocabulary.of((*source, *target), 340)


def drawn(n: int, seed: int, longest: int = 30) -> Tokens:
    draw = np.random.default_rng(seed)
    rows = [
        [np.array([*draw.integers(4, 50, draw.integers(0, longest)), END]) for _ in range(n)]
        for _ in range(2)
    ]
    return Tokens(*rows)


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z"))), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(vocabulary, words):
    """What no piece covers is spelled in bytes: a name in another script must not be lost."""
    line = " ".join(word for word in words if word)
    (row,) = vocabulary.encode([line])
    assert row[-1] == END
    assert vocabulary.decode([row.tolist()]) == [line.replace("▁", " ").strip()]


def test_a_translation_is_one_line(vocabulary):
    """A network may spell any byte; a newline would shift every line after it."""
    row = [vocabulary.pieces.index(f"<0x{byte:02X}>") for byte in b"a\nb"]
    assert vocabulary.decode([row]) == ["a b"]


@pytest.mark.parametrize(("size", "words"), [(100_000, "more than these lines"), (20, "too few")])
def test_sizes_that_cannot_be(size, words):
    source, _ = spelled(50, 0)
    with pytest.raises(LevelheadError, match=f"--vocabulary {size}: {words}"):
        Vocabulary.of(source, size)


def test_the_same_lines_give_the_same_pieces(vocabulary):
    source, target = spelled(400, 0)
    assert Vocabulary.of((*source, *target), 340).model == vocabulary.model


@given(st.integers(1, 60), st.integers(1, 300), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_every_token_once(n, size, epoch):
    """Else some sentence would be trained twice and another never."""
    tokens = drawn(n, n)
    batches = TokenBatches(tokens, size, 3, CPU)
    rows = batches.rows(epoch)
    assert len(rows) == len(batches)
    assert all(len(part) for part in rows)
    assert sorted(np.concatenate(rows).tolist()) == list(range(n))
    index = torch.cat([batch.index for batch in batches(epoch)])
    labels = torch.cat([batch.labels for batch in batches(epoch)])
    assert index.sort().values.tolist() == list(range(batches.examples))
    assert torch.equal(labels, tokens.labels[index])


def test_batches_are_even_and_little_padded():
    """Padding is computed and thrown away; a large batch takes a larger step."""
    tokens = drawn(5000, 0)
    batches = TokenBatches(tokens, 2000, 0, CPU)
    counts = [len(batch.labels) for batch in batches(0)]
    assert max(counts) - min(counts) <= 2 * 31
    padded = sum(batch.pairs.before.numel() for batch in batches(0))
    assert padded < 1.1 * batches.examples
    assert [r.tolist() for r in batches.rows(1)] == [r.tolist() for r in batches.rows(1)]
    assert [r.tolist() for r in batches.rows(1)] != [r.tolist() for r in batches.rows(2)]


def test_a_batch_is_laid_out():
    """The network must predict each piece from those before it."""
    tokens = Tokens(
        [np.array([7, 8, END]), np.array([9, END])], [np.array([5, END]), np.array([END])]
    )
    batch = tokens.batch(np.array([0, 1]), CPU)
    assert batch.pairs.source.tolist() == [[7, 8, END], [9, END, PAD]]
    assert batch.pairs.before.tolist() == [[START, 5], [START, PAD]]
    assert batch.pairs.kept.tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [5, END, END]


def test_judging_goes_in_pieces():
    """Logits of 10,000 pieces for every token at once would not fit."""
    tokens = drawn(900, 4)
    groups = list(in_pieces(tokens))
    assert sorted(np.concatenate(groups).tolist()) == list(range(900))
    assert all(tokens.lengths[1][group].max() * len(group) <= PIECE_TOKENS for group in groups)
