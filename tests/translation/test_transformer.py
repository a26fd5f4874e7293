"""The network, beside torch's own layers with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from levelhead.translation.tokens import Pairs
from levelhead.translation.transformer import Attention, Size, Translator
from levelhead.translation.vocabulary import PAD, START

SIZE = {"vocabulary": 30, "layers": 3, "width": 16, "heads": 4, "feed_forward": 24, "longest": 16}


def attention(theirs: nn.MultiheadAttention, ours: Attention) -> None:
    """Copy weights into torch's layout: query, key and value in one matrix."""
    both = ours.query, ours.key_value
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in both])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in both])
    theirs.out_proj.load_state_dict(ours.out.state_dict())


def torchs(ours: Translator) -> tuple[nn.TransformerEncoder, nn.TransformerDecoder]:
    """torch's encoder and decoder with the weights of ours, in eval mode."""
    size, body = ours.size, ours.body
    settings = {"dropout": 0.0, "batch_first": True, "norm_first": size.norm == "pre"}
    shape = size.width, size.heads, size.feed_forward
    ends = [nn.LayerNorm(size.width) if size.norm == "pre" else None for _ in range(2)]
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*shape, **settings), size.layers, ends[0], False
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(*shape, **settings), size.layers, ends[1]
    )
    for end, own in zip(ends, (body.encoder_norm, body.decoder_norm), strict=True):
        if end is not None:
            end.load_state_dict(own.state_dict())
    for theirs, own in zip(encoder.layers, body.encoder, strict=True):
        attention(theirs.self_attn, own.attention)
        parts = theirs.norm1, theirs.norm2, theirs.linear1, theirs.linear2
        mine = own.first, own.second, own.perceptron[0], own.perceptron[2]
        for a, b in zip(parts, mine, strict=True):
            a.load_state_dict(b.state_dict())
    for theirs, own in zip(decoder.layers, body.decoder, strict=True):
        attention(theirs.self_attn, own.own)
        attention(theirs.multihead_attn, own.across)
        parts = theirs.norm1, theirs.norm2, theirs.norm3, theirs.linear1, theirs.linear2
        mine = own.first, own.second, own.third, own.perceptron[0], own.perceptron[2]
        for a, b in zip(parts, mine, strict=True):
            a.load_state_dict(b.state_dict())
    return encoder.eval(), decoder.eval()


def sentences(*rows: list[int]) -> Tensor:
    """Rows of pieces, padded."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_it_is_torchs_transformer(norm, positions):
    """Else a mask, a norm or a sum stands in another place than the published one."""
    ours = Translator(Size(**SIZE, norm=norm, positions=positions), seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in ours.parameters():  # norms and biases, too, so that none is 1 or 0
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    encoder, decoder = torchs(ours)
    source = sentences([5, 6, 7, 8, 9], [10, 11])
    before = sentences([START, 12, 13], [START, 14, 15])
    padding = source == PAD
    with torch.no_grad():
        memory = encoder(ours.embed(source), src_key_padding_mask=padding)
        causal = nn.Transformer.generate_square_subsequent_mask(before.shape[1])
        wanted = decoder(
            ours.embed(before), memory, tgt_mask=causal, memory_key_padding_mask=padding
        )
        features = ours.features(Pairs(source, before, torch.arange(before.numel())))
        logits = ours(Pairs(source, before, torch.arange(before.numel())))
    torch.testing.assert_close(features, wanted.flatten(0, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, features @ ours.head.weight.T)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_embeddings_and_places(positions):
    """√D times the vector of the head plus that of the place, from the place asked for on."""
    ours = Translator(Size(**SIZE, positions=positions)).eval()
    tokens = sentences([5, 6, 7])
    places = ours.table if positions == "sinusoidal" else ours.body.places.weight
    wanted = ours.head.weight[[5, 6, 7]] * 4 + places[2:5]
    torch.testing.assert_close(ours.embed(tokens, 2)[0], wanted)
    # Vaswani et al. 2017, section 3.5, by hand: PE(pos, 2i) = sin(pos / 10000^(2i/d)).
    assert ours.table[3, 2] == pytest.approx(torch.sin(torch.tensor(3 / 10_000 ** (2 / 16))))
    assert ours.table[3, 3] == pytest.approx(torch.cos(torch.tensor(3 / 10_000 ** (2 / 16))))
