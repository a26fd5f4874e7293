"""A tiny Transformer trained and searched, beside the same network in a plain PyTorch loop.

    LEVELHEAD_DATA=FOLDER python benchmarks/translation.py [--steps 12] [--sentences 128]

Training: ours by `fit` (batches of 4,096 tokens of like length, logits of tokens alone, the
machine's arithmetic); theirs on torch.nn.Transformer in float32, shuffled batches of as many
sentences padded to the longest, cross-entropy with `ignore_index`. Real tokens of translation a
second, in turn. Search: beam 5 by ours (cache of keys and values) and by a loop that decodes the
whole prefix anew at every step, both to the same number of pieces, with first weights (which end no
sentence early). Medians, and their ratio.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from levelhead.machine import tune_malloc
from levelhead.training import optim
from levelhead.training.checkpoint import State
from levelhead.training.loop import fit
from levelhead.translation.search import SENTENCES, most_pieces, search
from levelhead.translation.tokens import HeldSentences, TokenBatch, TokenBatches, Tokens, padded
from levelhead.translation.train_translator import objective_of
from levelhead.translation.transformer import Translator, sinusoids
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import corpus_of, encoded, size_of
from levelhead.translation.vocabulary import PAD, START, Vocabulary

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Some:
    """The first few batches of an epoch."""

    whole: TokenBatches
    steps: int

    @property
    def examples(self) -> int:
        return sum(len(batch.labels) for batch in self(0))

    def __len__(self) -> int:
        return self.steps

    def __call__(self, epoch: int) -> Iterator[TokenBatch]:
        for batch, _ in zip(self.whole(epoch), range(self.steps), strict=False):
            yield batch


class Plain(nn.Module):
    """torch.nn.Transformer with tied embeddings, as notebooks have it."""

    def __init__(self, pieces: int, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(pieces, width, padding_idx=PAD)
        self.net = nn.Transformer(width, 4, 4, 4, 256, 0.3, batch_first=True, norm_first=True)
        self.table, self.width = sinusoids(256, width), width

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) * math.sqrt(self.width) + self.table[: tokens.shape[1]]

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(before.shape[1])
        out = self.net(
            self.embed(source), self.embed(before), tgt_mask=causal, tgt_is_causal=True,
            src_key_padding_mask=source == PAD, memory_key_padding_mask=source == PAD,
        )  # fmt: skip
        return out @ self.embedding.weight.T


def ours_trained(
    recipe: TranslationRecipe, vocabulary: Vocabulary, tokens: Tokens, steps: int
) -> float:
    """Tokens a second."""
    network = Translator(size_of(recipe, len(vocabulary)))
    network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    batches = Some(TokenBatches(tokens, 4096, 0, CPU), steps)
    objective = objective_of(recipe, vocabulary, tokens)
    state = State(network, optim.optimisers(network, recipe), objective)
    few = HeldSentences(Tokens(tokens.source[:4], tokens.target[:4]), CPU)
    list(fit(state, batches, few, recipe))
    return batches.examples / state.step_seconds


def theirs_trained(pieces: int, tokens: Tokens, steps: int) -> float:
    """Tokens a second."""
    network = Plain(pieces)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    order = np.random.default_rng(0).permutation(len(tokens))
    size = round(4096 * len(tokens) / len(tokens.labels))
    seen, began = 0, time.perf_counter()
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        source = padded([tokens.source[i] for i in rows])
        target = padded([tokens.target[i] for i in rows])
        start = torch.full((len(rows), 1), START)
        logits = network(source, torch.cat([start, target[:, :-1]], 1))
        loss = functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=0.1
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += int((target != PAD).sum())
    return seen / (time.perf_counter() - began)


@torch.no_grad()
def theirs_searched(network: Plain, sources: list[np.ndarray], beam: int = 5) -> float:
    """Seconds for beam search without a cache."""
    network.eval()
    began = time.perf_counter()
    order = sorted(sources, key=len, reverse=True)
    for place in range(0, len(order), SENTENCES):
        rows = order[place : place + SENTENCES]
        source = padded(rows)
        memory = network.net.encoder(network.embed(source), src_key_padding_mask=source == PAD)
        memory = memory.repeat_interleave(beam, 0)
        mask = (source == PAD).repeat_interleave(beam, 0)
        before = torch.full((len(rows) * beam, 1), START)
        sums = torch.full((len(rows), beam), -math.inf)
        sums[:, 0] = 0
        for _ in range(most_pieces(len(rows[0]), 256)):
            causal = nn.Transformer.generate_square_subsequent_mask(before.shape[1])
            x = network.net.decoder(
                network.embed(before), memory, tgt_mask=causal, memory_key_padding_mask=mask
            )
            logs = (x[:, -1] @ network.embedding.weight.T).log_softmax(1)
            totals = (sums[:, :, None] + logs.view(len(rows), beam, -1)).flatten(1)
            sums, index = totals.topk(beam, 1)
            parent = index // logs.shape[1] + beam * torch.arange(len(rows))[:, None]
            piece = index % logs.shape[1]
            before = torch.cat([before[parent.flatten()], piece.flatten()[:, None]], 1)
    return time.perf_counter() - began


def main() -> None:
    """Time both sides, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tune_malloc()
    data = Path(os.environ["LEVELHEAD_DATA"]) / "multi30k"
    recipe = TranslationRecipe(str(data), source="en", target="de", smoothing=0.1, epochs=1)
    recipe = recipe.resolved().replace(precision="bfloat16")
    corpus = corpus_of(recipe)
    train = corpus.splits["train"]
    vocabulary = Vocabulary.of((*train.source, *train.target), recipe.vocabulary or 10_000)
    _, tokens = encoded(corpus, vocabulary, recipe)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(options.repeats):
        rates["ours"].append(ours_trained(recipe, vocabulary, tokens["train"], options.steps))
        rates["plain"].append(theirs_trained(len(vocabulary), tokens["train"], options.steps))
    ours, plain = (statistics.median(rates[name]) for name in ("ours", "plain"))
    print(f"training: {ours:,.0f} tokens/s, plain loop {plain:,.0f}: ratio {ours / plain:.2f}")
    sources = tokens["test"].source[: options.sentences]
    network, other = Translator(size_of(recipe, len(vocabulary))), Plain(len(vocabulary))
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(options.repeats):
        began = time.perf_counter()
        search(network, sources, beam=5)
        seconds["ours"].append(time.perf_counter() - began)
        seconds["plain"].append(theirs_searched(other, sources))
    ours, plain = (statistics.median(seconds[name]) for name in ("ours", "plain"))
    print(
        f"beam search of {len(sources)}: {ours:.1f} s, plain {plain:.1f} s: "
        f"ratio {plain / ours:.2f}"
    )


if __name__ == "__main__":
    main()
