"""The batched search with its cache is a slow literal one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from levelhead.errors import LevelheadError
from levelhead.translation.search import length_divisor, most_pieces, search
from levelhead.translation.tokens import Pairs, padded
from levelhead.translation.transformer import Size, Translator
from levelhead.translation.vocabulary import END, PAD, START


def network(seed: int, **more) -> Translator:
    size = Size(12, layers=2, width=16, heads=2, feed_forward=32, longest=24, **more)
    made = Translator(size, seed).eval()
    nn.init.normal_(made.head.weight, std=0.5)  # so that answers differ
    with torch.no_grad():
        made.head.weight[END] *= 4  # and some end early
    return made


def sentences(n: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [np.array([*draw.integers(4, 12, draw.integers(1, 8)), END], np.int64) for _ in range(n)]


@torch.no_grad()
def following(made: Translator, source: np.ndarray, before: list[int], temperature: float):
    """Log-probabilities of what follows, from the whole sentence anew."""
    row = torch.tensor([[START, *before]])
    kept = torch.tensor([len(before)])
    features = made.features(Pairs(torch.from_numpy(source)[None], row, kept))
    return (made.head(features)[0] / temperature).log_softmax(0).tolist()


def literal(made, source, beam, penalty, temperature):
    """Steps 1 to 4 of `search`, one prefix at a time."""
    live, finished = [((), 0.0)], []
    limit = most_pieces(len(source), made.size.longest)
    for length in range(1, limit + 1):
        grown = []
        for prefix, total in live:
            logs = following(made, source, list(prefix), temperature)
            for piece, log in enumerate(logs):
                if piece not in (PAD, START) and (length < limit or piece == END):
                    grown.append(((*prefix, piece), total + log))
        grown.sort(key=lambda pair: -pair[1])
        if length == limit:
            ended, grown = grown, []
        else:
            grown = grown[: 2 * beam]
            ended = [pair for pair in grown[:beam] if pair[0][-1] == END]
        finished += [
            (pieces[:-1], total, total / length_divisor(length, penalty)) for pieces, total in ended
        ]
        live = [pair for pair in grown if pair[0][-1] != END][:beam]
        if len(finished) >= beam or not live:
            break
    return sorted(finished, key=lambda one: -one[2])[:beam]


@pytest.mark.parametrize("more", [{}, {"norm": "pre", "positions": "learned"}])
@pytest.mark.parametrize(("beam", "temperature"), [(1, 1.0), (3, 1.0), (5, 0.7), (4, 2.0)])
def test_search_is_the_literal_one(beam, temperature, more):
    """Else a prefix saw another's cache, or a finished sentence took a live one's place."""
    ends = 0
    for seed in range(3):
        made, rows = network(seed, **more), sentences(9, seed)
        batch = search(made, rows, beam=beam, length_penalty=0.6, temperature=temperature)
        for row, hypotheses in zip(rows, batch, strict=True):
            expected = literal(made, row, beam, 0.6, temperature)
            assert [one.pieces for one in hypotheses] == [pieces for pieces, _, _ in expected]
            for one, (_, total, score) in zip(hypotheses, expected, strict=True):
                assert one.log_probability == pytest.approx(total, abs=1e-4)
                assert one.score == pytest.approx(score, abs=1e-4)
            ends += len(hypotheses[0].pieces) + 1 < most_pieces(len(row), 24)
    assert ends  # some sentences end by themselves


def test_a_sentence_is_translated_alike_alone_and_in_a_batch():
    """Else padding would leak into the answer."""
    made, rows = network(1), sentences(20, 5)
    together = search(made, rows, beam=4)
    for row, expected in zip(rows, together, strict=True):
        (alone,) = search(made, [row], beam=4)
        assert [one.pieces for one in alone] == [one.pieces for one in expected]


def test_padding_does_not_change_features():
    """Else a token's probability would depend on its neighbours in the batch."""
    made, rows = network(2), sentences(6, 6)
    targets = [row[:-1] for row in sentences(6, 7)]
    before = padded([np.array([START, *row]) for row in targets])
    kept = [b * before.shape[1] + i for b, row in enumerate(targets) for i in range(len(row) + 1)]
    whole = made.features(Pairs(padded(rows), before, torch.tensor(kept)))
    parts = [
        made.features(
            Pairs(
                torch.from_numpy(row)[None],
                torch.tensor([[START, *target]]),
                torch.arange(len(target) + 1),
            )
        )
        for row, target in zip(rows, targets, strict=True)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("choices", "words"),
    [({"beam": 0}, "--beam 0"), ({"temperature": 0.0}, "--temperature 0: must be above 0")],
)
def test_what_cannot_be(choices, words):
    with pytest.raises(LevelheadError, match=words):
        search(network(0), sentences(1, 0), **choices)
