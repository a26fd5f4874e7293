"""The Transformer (Vaswani et al. 2017), with tied embeddings, and what search keeps of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from levelhead.models.network import Classifier, Linear
from levelhead.translation.tokens import Pairs
from levelhead.translation.vocabulary import PAD

Norm = Literal["post", "pre"]
Positions = Literal["sinusoidal", "learned"]
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Size:
    """What a Transformer is built for; `longest`: positions that it knows."""

    vocabulary: int
    layers: int = 4
    width: int = 128
    heads: int = 4
    feed_forward: int = 256
    dropout: float = 0.3
    norm: Norm = "post"
    positions: Positions = "sinusoidal"
    longest: int = 256


class LayerNorm(nn.LayerNorm):
    """Layer normalisation whose float32 weights follow its input's type."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        shape = self.normalized_shape
        return torch.layer_norm(input, shape, weight, bias, self.eps)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Srivastava et al. 2014, from torch's own stream; on the CPU the rate is rounded to 1/256.

    A byte an element instead of a number: drawing took a sixth of the training there.
    """
    if not training or rate == 0:
        return x
    if x.is_cuda:
        return functional.dropout(x, rate)
    level = round(256 * rate)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= level
    return x * kept.to(x.dtype).mul_(256 / (256 - level))


class Attention(nn.Module):
    """Scaled dot products in several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = Linear(size.width, size.width)
        self.key_value = Linear(size.width, 2 * size.width)
        self.out = Linear(size.width, size.width)

    def split(self, x: Tensor) -> Tensor:
        """[B,L,D] -> [B, heads, L, D / heads]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of [B,S,D], each [B, heads, S, D / heads]."""
        keys, values = self.key_value(x).chunk(2, 2)
        return self.split(keys), self.split(values)

    def forward(
        self,
        x: Tensor,
        keys_values: KeysValues,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Queries of x [B,L,D] over keys and values; mask bool [B,1,1,S], True where to look."""
        query, (keys, values) = self.split(self.query(x)), keys_values
        if not x.is_cuda:  # on CPUs its gradient in bfloat16 took six times as long
            query, keys, values = query.float(), keys.float(), values.float()
        part = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=causal
        )
        return cast(Tensor, self.out(part.transpose(1, 2).flatten(2).to(x.dtype)))


class Block(nn.Module):
    """What the layers share: a part, its dropout, its sum with the input, its norm."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.post, self.rate = size.norm == "post", size.dropout

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What the part sees."""
        return x if self.post else cast(Tensor, norm(x))

    def after(self, norm: nn.Module, x: Tensor, part: Tensor) -> Tensor:
        """Its input and what it made of it."""
        total = x + dropout(part, self.rate, self.training)
        return cast(Tensor, norm(total)) if self.post else total


def perceptron(size: Size) -> nn.Sequential:
    """The same two layers at each place."""
    return nn.Sequential(
        Linear(size.width, size.feed_forward), nn.ReLU(), Linear(size.feed_forward, size.width)
    )


class EncoderLayer(Block):
    """Attention to the sentence, then a perceptron."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.attention, self.first = Attention(size), LayerNorm(size.width)
        self.perceptron, self.second = perceptron(size), LayerNorm(size.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        inputs = self.before(self.first, x)
        part = self.attention(inputs, self.attention.keys_values(inputs), mask)
        x = self.after(self.first, x, part)
        return self.after(self.second, x, self.perceptron(self.before(self.second, x)))


class DecoderLayer(Block):
    """Attention to what stands before, to the source, then a perceptron."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.own, self.first = Attention(size), LayerNorm(size.width)
        self.across, self.second = Attention(size), LayerNorm(size.width)
        self.perceptron, self.third = perceptron(size), LayerNorm(size.width)

    def forward(self, x: Tensor, source: KeysValues, mask: Tensor | None) -> Tensor:
        """x [B,L,D], each place seeing itself and those before it."""
        inputs = self.before(self.first, x)
        part = self.own(inputs, self.own.keys_values(inputs), causal=True)
        return self.rest(self.after(self.first, x, part), source, mask)

    def step(
        self, x: Tensor, source: KeysValues, mask: Tensor | None, earlier: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """The next place of G hypotheses of each sentence, x [B,G,D], and its keys and values
        [B·G, heads, t, D / heads] behind the `earlier` ones."""
        apart = self.before(self.first, x).flatten(0, 1)[:, None]
        keys, values = self.own.keys_values(apart)
        if earlier is not None:
            keys, values = torch.cat([earlier[0], keys], 2), torch.cat([earlier[1], values], 2)
        part = self.own(apart, (keys, values)).view_as(x)
        return self.rest(self.after(self.first, x, part), source, mask), (keys, values)

    def rest(self, x: Tensor, source: KeysValues, mask: Tensor | None) -> Tensor:
        """What follows the attention to what stands before; here places do not see each other."""
        part = self.across(self.before(self.second, x), source, mask)
        x = self.after(self.second, x, part)
        return self.after(self.third, x, self.perceptron(self.before(self.third, x)))


class Body(nn.Module):
    """Encoder and decoder, without the embeddings, which are the head's weights."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))
        self.decoder = nn.ModuleList(DecoderLayer(size) for _ in range(size.layers))
        ends = size.norm == "pre"
        self.encoder_norm = LayerNorm(size.width) if ends else nn.Identity()
        self.decoder_norm = LayerNorm(size.width) if ends else nn.Identity()
        learned = size.positions == "learned"
        self.places = nn.Embedding(size.longest, size.width) if learned else None


class Translator(Classifier):
    """Pairs of sentences to the logits [N,K] of every token of the translation.

    The vocabulary is one, and its vectors are those of the source, of the translation and of the
    head (Press & Wolf 2017): the head has no bias.
    """

    table: Tensor

    def __init__(self, size: Size, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = Body(size)
            head = nn.Linear(size.width, size.vocabulary, bias=False)
            for module in body.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)
                elif isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=size.width**-0.5)
            nn.init.normal_(head.weight, std=size.width**-0.5)
        super().__init__(body, head)
        self.size = size
        self.register_buffer("table", sinusoids(size.longest, size.width), persistent=False)

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Vectors [B,L,D] of tokens [B,L] at places `first` and on, in `dtype`."""
        body = cast(Body, self.body)
        table = self.table if body.places is None else body.places.weight
        vectors = functional.embedding(tokens, self.head.weight) * math.sqrt(self.size.width)
        vectors = vectors + table[first : first + tokens.shape[1]]
        return dropout(vectors, self.size.dropout, self.training).to(self.dtype)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The source [B,S] as [B,S,D], and which of it is no padding: bool [B,1,1,S] or None."""
        body, mask = cast(Body, self.body), None
        padding = source == PAD
        if source.is_cuda or bool(padding.any()):  # asking a GPU would wait for it
            mask = ~padding[:, None, None, :]
        x = self.embed(source)
        for layer in body.encoder:
            x = layer(x, mask)
        return body.encoder_norm(x), mask

    def source_keys(self, memory: Tensor) -> list[KeysValues]:
        """What each layer of the decoder looks up in the encoded source."""
        body = cast(Body, self.body)
        return [cast(DecoderLayer, layer).across.keys_values(memory) for layer in body.decoder]

    def step(
        self,
        tokens: Tensor,
        place: int,
        source: list[KeysValues],
        mask: Tensor | None,
        earlier: list[KeysValues],
    ) -> tuple[Tensor, list[KeysValues]]:
        """Logits [B,G,K] of what follows `tokens` [B,G] at a place, and what to keep for the next:
        `earlier` is what the step before kept, empty at first."""
        body = cast(Body, self.body)
        x = self.embed(tokens.flatten()[:, None], place).view(*tokens.shape, -1)
        kept = []
        for number, layer in enumerate(body.decoder):
            before = earlier[number] if earlier else None
            x, own = cast(DecoderLayer, layer).step(x, source[number], mask, before)
            kept.append(own)
        return cast(Tensor, self.head(body.decoder_norm(x).float())), kept

    def features(self, pairs: Pairs) -> Tensor:
        """Float32 [N,D] of the tokens of a batch, each seeing the true ones before it."""
        memory, mask = self.encode(pairs.source)
        body, x = cast(Body, self.body), self.embed(pairs.before)
        for layer, source in zip(body.decoder, self.source_keys(memory), strict=True):
            x = layer(x, source, mask)
        x = body.decoder_norm(x)
        return cast(Tensor, x.flatten(0, 1)[pairs.kept].float())

    def forward(self, pairs: Pairs) -> Tensor:
        return cast(Tensor, self.head(self.features(pairs)))

    def training_logits(self, inputs: Any) -> tuple[Tensor, list[Tensor]]:
        """Logits [N,K] of the tokens; there is no auxiliary head."""
        return self(inputs), []


def sinusoids(length: int, width: int) -> Tensor:
    """Sines and cosines of the place, float32 [length, width] (Vaswani et al. 2017, 3.5)."""
    places = torch.arange(length, dtype=torch.float64)[:, None]
    rates = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width)
    )
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(places * rates)
    table[:, 1::2] = torch.cos(places * rates)[:, : width // 2]
    return table.float()
