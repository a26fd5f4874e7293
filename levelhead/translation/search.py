"""Search: the likeliest translations by a beam, batched, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.translation.tokens import padded
from levelhead.translation.transformer import KeysValues, Translator
from levelhead.translation.vocabulary import END, PAD, START

SENTENCES = 64
"""Sentences searched at once."""


@dataclass(frozen=True)
class Hypothesis:
    """A translation: its pieces (without END), the natural logarithm of the probability of each
    and of END, and the score that search ranks by."""

    pieces: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    score: float

    @property
    def log_probability(self) -> float:
        """Of the whole sentence."""
        return sum(self.log_probabilities)


def length_divisor(length: int, penalty: float) -> float:
    """((5 + length) / 6)^penalty (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** penalty)


def most_pieces(source: int, longest: int) -> int:
    """How long a translation of so many pieces may become, END included."""
    return min(longest, 3 * source // 2 + 10)


@torch.no_grad()
def search(
    network: Translator,
    sources: Sequence[np.ndarray],
    *,
    beam: int = 5,
    length_penalty: float = 0.6,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Hypothesis]]:
    """Translations of sentences (rows of pieces, ending with END), the best first, at most `beam`.

    1. `beam` prefixes live, ranked by the sum of their log-probabilities, of logits / temperature.
    2. Of all their continuations the best 2·beam are looked at, best first: those of the first
       `beam` that end are finished, the first `beam` that do not end live on.
    3. A sentence ends with `beam` finished, or at 1.5 times its own length + 10 pieces, where every
       live prefix is ended.
    4. The finished are ranked by log-probability / ((5 + length) / 6)^length_penalty.

    Beam 1 is greedy. Raises LevelheadError for a beam or temperature that cannot be.
    """
    if beam < 1:
        raise LevelheadError(f"--beam {beam}: must be 1 or more (1: greedy)")
    if not 0 < temperature < float("inf"):
        raise LevelheadError(f"--temperature {temperature:g}: must be above 0")
    network.eval()
    order = np.argsort([len(row) for row in sources], kind="stable")[::-1]
    hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
    for start in range(0, len(order), SENTENCES):
        places = order[start : start + SENTENCES]
        rows = [sources[i] for i in places]
        batch = _search(network, rows, beam, length_penalty, temperature)
        for place, finished in zip(places, batch, strict=True):
            hypotheses[place] = finished
        progress(min(start + SENTENCES, len(order)), len(order))
    return hypotheses


@dataclass
class _Beam:
    """Live prefixes of sentences, [B,G] and more; `rows` says which sentences they are of."""

    rows: Tensor  # int64 [B]
    sums: Tensor  # float32 [B,G]
    pieces: Tensor  # int64 [B,G,t + 1], START first
    logs: Tensor  # float32 [B,G,t]
    source: list[KeysValues]
    mask: Tensor | None
    earlier: list[KeysValues]

    def live_on(self, parent: Tensor, piece: Tensor, total: Tensor) -> None:
        """Prefixes [B,G] become those of `parent` with one more piece."""
        b, g = parent.shape
        grown = (piece, total - self.sums.gather(1, parent))
        for name, new in zip(("pieces", "logs"), grown, strict=True):
            old = getattr(self, name)
            old = old.gather(1, parent[:, :, None].expand(-1, -1, old.shape[2]))
            setattr(self, name, torch.cat([old, new[:, :, None]], 2))
        self.sums = total
        flat = (parent + g * torch.arange(b, device=parent.device)[:, None]).flatten()
        self.earlier = [(k[flat], v[flat]) for k, v in self.earlier]

    def keep(self, alive: Tensor) -> None:
        """Go on with some of the sentences, bool [B]."""
        g = self.sums.shape[1]
        several = alive.repeat_interleave(g)
        self.rows, self.sums = self.rows[alive], self.sums[alive]
        self.pieces, self.logs = self.pieces[alive], self.logs[alive]
        self.source = [(k[alive], v[alive]) for k, v in self.source]
        self.mask = None if self.mask is None else self.mask[alive]
        self.earlier = [(k[several], v[several]) for k, v in self.earlier]


def _search(
    network: Translator, rows: list[np.ndarray], beam: int, penalty: float, temperature: float
) -> list[list[Hypothesis]]:
    at = network.device
    memory, mask = network.encode(padded(rows).to(at))
    limits = torch.tensor([most_pieces(len(row), network.size.longest) for row in rows], device=at)
    sums = torch.full((len(rows), beam), -torch.inf, device=at)
    sums[:, 0] = 0
    state = _Beam(
        torch.arange(len(rows), device=at),
        sums,
        torch.full((len(rows), beam, 1), START, device=at),
        torch.zeros((len(rows), beam, 0), device=at),
        network.source_keys(memory),
        mask,
        [],
    )
    finished: list[list[Hypothesis]] = [[] for _ in rows]

    def finish(which: Tensor, parent: Tensor, total: Tensor) -> None:
        """End hypotheses: which [M] of the sentences, from prefix [M], with the sum [M]."""
        last = total - state.sums[which, parent]
        logs = torch.cat([state.logs[which, parent], last[:, None]], 1).tolist()
        pieces = state.pieces[which, parent, 1:].tolist()
        for row, own, each, sum_ in zip(
            state.rows[which].tolist(), pieces, logs, total.tolist(), strict=True
        ):
            score = sum_ / length_divisor(len(each), penalty)
            finished[row].append(Hypothesis(tuple(own), tuple(each), score))

    for place in range(int(limits.max())):
        logits, state.earlier = network.step(
            state.pieces[:, :, -1], place, state.source, state.mask, state.earlier
        )
        if temperature != 1:
            logits = logits / temperature
        norm = logits.logsumexp(2)
        last = limits[state.rows] == place + 1
        if bool(last.any()):
            ends = state.sums + logits[:, :, END] - norm
            which, parent = (last[:, None] & ends.isfinite()).nonzero(as_tuple=True)
            finish(which, parent, ends[which, parent])
        logits[:, :, [PAD, START]] = -torch.inf
        values, pieces = logits.topk(min(2 * beam, logits.shape[2]), dim=2)
        totals = (state.sums[:, :, None] + values - norm[:, :, None]).flatten(1)
        total, index = totals.topk(min(2 * beam, totals.shape[1]), dim=1)
        parent, piece = index // values.shape[2], pieces.flatten(1).gather(1, index)
        ends = (piece == END) & total.isfinite() & ~last[:, None]
        which, rank = ends[:, :beam].nonzero(as_tuple=True)
        if len(which):
            finish(which, parent[which, rank], total[which, rank])
        counts = torch.tensor([len(finished[row]) for row in state.rows.tolist()], device=at)
        alive = ~last & (counts < beam)
        if not bool(alive.any()):
            break
        # The first `beam` that go on, in order: those that end are sorted behind.
        going = ((piece == END).int()).sort(dim=1, stable=True).indices[:, :beam]
        state.live_on(*(part.gather(1, going) for part in (parent, piece, total)))
        if not bool(alive.all()):
            state.keep(alive)
    for own in finished:
        own.sort(key=lambda one: -one.score)
        del own[beam:]
    return finished
