"""Next-token probabilities given the true beginning, worked out in pieces, never held whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators import Temperature
from levelhead.calibrators.temperature import slopes_of, spread, sums_of
from levelhead.outputs import Outputs
from levelhead.translation.search import Hypothesis
from levelhead.translation.tokens import PIECE_TOKENS, Tokens, in_pieces
from levelhead.translation.transformer import Translator
from levelhead.translation.vocabulary import END

FIRST_GUESS = 2_000
"""Tokens of which a temperature is fitted first."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Features float32 [N,D] of the tokens of a split in order, their labels int64 [N], the
    sentence of each int64 [N], and the head's weights [K,D]: logits are made from them when asked.

    Of 15,000 tokens and 10,000 pieces the features are 8 MB, the logits would be 600.
    """

    features: Tensor
    labels: Tensor
    sentences: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n,K] and labels [n] of some tokens at a time."""
        for features, labels in zip(
            self.features.split(PIECE_TOKENS), self.labels.split(PIECE_TOKENS), strict=True
        ):
            yield features @ self.weight.T, labels

    def take(self, places: Tensor) -> TokenScores:
        """Some of the tokens."""
        some = self.features[places], self.labels[places], self.sentences[places]
        return TokenScores(*some, self.weight)

    def outputs(self, pieces: Sequence[str], temperature: float = 1.0) -> Outputs:
        """The prediction, its probability and the label's log-probability of each token; tokens of
        a sentence are a group, for they are no independent draws."""
        sure, best, own = [], [], []
        for logits, labels in self.pieces():
            z = logits / temperature
            norm = z.logsumexp(1)
            top, place = z.max(1)
            sure.append((top - norm).double().exp().clamp(max=1.0))
            best.append(place)
            own.append((z.gather(1, labels[:, None])[:, 0] - norm).double().clamp(max=0.0))
        return Outputs(
            "confidence",
            torch.cat(sure)[:, None],
            self.labels,
            tuple(pieces),
            predicted=torch.cat(best),
            label_log_probability=torch.cat(own),
            groups=tuple(map(str, self.sentences.tolist())),
        )

    def losses(self, temperatures: Sequence[float]) -> Tensor:
        """NLL of each token at each temperature, in nats, float64 [T,N]."""
        parts = []
        for logits, labels in self.pieces():
            scaled = (logits / temperature for temperature in temperatures)
            own = [z.logsumexp(1) - z.gather(1, labels[:, None])[:, 0] for z in scaled]
            parts.append(torch.stack(own).double())
        return torch.cat(parts, 1)

    def temperature(self, fitted_on: str) -> Temperature:
        """The temperature that minimises the NLL, as `Temperature.fit` has it."""
        step = max(1, len(self) // FIRST_GUESS)
        few = self.take(torch.arange(0, len(self), step))
        logits = few.features @ few.weight.T
        guess = Temperature.fit(logits, few.labels).temperature
        del logits

        def sums(log_beta: float) -> tuple[float, float, float, float]:
            parts = [sums_of("logits", *pair, math.exp(log_beta)) for pair in self.pieces()]
            a, b, c, d = (sum(column) for column in zip(*parts, strict=True))
            return a, b, c, d

        def slopes(log_beta: float) -> Tensor:
            beta = math.exp(log_beta)
            return torch.cat([slopes_of("logits", *pair, beta) for pair in self.pieces()])

        return Temperature.of_sums(
            sums,
            max(spread("logits", logits) for logits, _ in self.pieces()),
            len(self),
            -math.log(guess),
            fitted_on=fitted_on,
            units=self.sentences,
            slopes=slopes,
        )


@torch.no_grad()
def token_scores(network: Translator, tokens: Tokens) -> TokenScores:
    """The scores of every token of a split, each given the true ones before it."""
    network.eval()
    features = torch.empty(len(tokens.labels), network.size.width)
    for rows in in_pieces(tokens):
        batch = tokens.batch(rows, network.device)
        features[batch.index] = network.features(batch.pairs).cpu()
    sentences = np.repeat(np.arange(len(tokens)), tokens.lengths[1])
    weight = network.head.weight.detach().cpu()
    return TokenScores(features, tokens.labels, torch.from_numpy(sentences), weight)


@torch.no_grad()
def hypothesis_logs(
    network: Translator,
    sources: Sequence[np.ndarray],
    hypotheses: Sequence[Sequence[Hypothesis]],
    temperature: float,
) -> list[list[np.ndarray]]:
    """Log-probability of each piece of each hypothesis, END included, of logits / temperature."""
    pairs = [(row, one) for row, own in zip(sources, hypotheses, strict=True) for one in own]
    if not pairs:
        return [[] for _ in hypotheses]
    targets = [np.array([*one.pieces, END], np.int64) for _, one in pairs]
    tokens = Tokens([row for row, _ in pairs], targets)
    logs = torch.empty(len(tokens.labels))
    for group in in_pieces(tokens):
        batch = tokens.batch(group, network.device)
        z = network(batch.pairs) / temperature
        own = z.gather(1, batch.labels[:, None])[:, 0] - z.logsumexp(1)
        logs[batch.index] = own.cpu()
    each = np.split(logs.numpy(), tokens.starts[1:])
    ends = np.cumsum([len(own) for own in hypotheses])
    return [each[end - len(own) : end] for end, own in zip(ends, hypotheses, strict=True)]
