"""TranslationRecipe: everything that is needed to repeat the training of a Transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from levelhead.errors import LevelheadError
from levelhead.recipe import Schedule, Settings, check_types, loss_knobs

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "layers": 4, "width": 128, "heads": 4, "feed_forward": 256, "dropout": 0.3,
        "norm": "pre", "vocabulary": 10_000, "lr": 5e-3, "warmup": 0.25, "updates": 8_000,
        "batch_tokens": 4_096, "average": 10,
    },
    "base": {
        "layers": 6, "width": 512, "heads": 8, "feed_forward": 2_048, "dropout": 0.1,
        "norm": "post", "vocabulary": 37_000, "lr": 7e-4, "warmup": 0.04, "updates": 100_000,
        "batch_tokens": 25_000, "average": 5,
    },
}  # fmt: skip
"""tiny: the published recipe for Multi30k, but for the norm (post-norm learned slower: findings);
base: Vaswani et al. 2017, section 5."""
TASK = "translation"


@dataclass(frozen=True)
class TranslationRecipe(Settings):
    """What to translate into what, and how. Raises LevelheadError for a value that cannot be."""

    COMMAND = "train-translator"

    data: str
    """A folder of train.LANGUAGE files, the beginning of two files' names, a TSV or parquet."""
    task: Literal["translation"] = "translation"
    """What kind of run this is."""

    source: str = ""
    """Language translated from, as the files end or the column is called."""
    target: str = ""
    """Language translated into."""
    validation: float = 0.05
    """Share of the pairs held out where the data has no validation set of its own."""
    test: float = 0.05
    """Share held out for testing where the data has no test set of its own."""
    test_set: str = ""
    """Which of several test sets (default: the first)."""
    split_seed: int = 0
    """Seed of the splits; apart from --seed, so that a study shares its splits."""
    strict_splits: bool = False
    """Refuse data in which the same pair stands in two splits."""
    skip_broken: bool = False
    """Leave out pairs of which one side is empty or too long, and count them."""
    vocabulary: int | None = None
    """Pieces of words, of both languages together (default: the preset's)."""
    longest: int = 256
    """Pieces that a sentence may have at most."""

    preset: Literal["tiny", "base"] = "tiny"
    """Sizes and rates of a published recipe."""
    layers: int | None = None
    """Layers of the encoder, and of the decoder (default: the preset's)."""
    width: int | None = None
    """Length of the vectors (default: the preset's)."""
    heads: int | None = None
    """Heads of the attention (default: the preset's)."""
    feed_forward: int | None = None
    """Units between the two layers of a perceptron (default: the preset's)."""
    dropout: float | None = None
    """Dropout rate (default: the preset's)."""
    norm: Literal["post", "pre"] | None = None
    """Layers are normalised after the sum (post) or before the part (default: the preset's)."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """What tells places apart."""

    loss: str = "cross_entropy"
    """Training loss: cross_entropy, or a relative of smoothing."""
    strength: float | None = None
    """Strength of the loss's own term, for example focal's gamma (default: its paper's)."""
    margin: float | None = None
    """Margin of the loss mbls, in logits (default: 10)."""
    knobs: tuple[str, ...] = ()
    """NAME=VALUE for numbers of the loss that have no flag of their own (default: its paper's)."""
    smoothing: float = 0.0
    """Label smoothing epsilon, in [0, 1), over the vocabulary."""
    convention: Literal["uniform", "others"] = "uniform"
    """Spread epsilon over all K pieces (uniform) or over the K-1 wrong ones (others)."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh pieces by the inverse of their frequency in the training split."""

    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Optimiser."""
    lr: float | None = None
    """Peak learning rate (default: the preset's)."""
    momentum: float = 0.9
    """Momentum of sgd and muon; adamw's first beta."""
    beta2: float = 0.98
    """Second beta of adamw."""
    weight_decay: float = 0.0
    """Weight decay, not of biases and norms."""
    l1: float = 0.0
    """L1 penalty in the gradient: this times the sign of every weight that may decay."""
    schedule: Schedule = "inverse-sqrt"
    """Learning-rate schedule, stepped every batch."""
    warmup: float | None = None
    """Share of the updates in which the rate rises linearly from zero (default: the preset's)."""
    power: float = 1.0
    """Exponent of the polynomial schedule (1 is linear)."""
    step_at: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule drops the rate, as shares of training."""
    step_factor: float = 0.1
    """Factor by which the step schedule multiplies the rate."""
    clip_norm: float | None = None
    """Clip the gradient to this norm (default: no clipping)."""
    updates: int | None = None
    """Batches in all, rounded to whole epochs (default: the preset's)."""
    epochs: int | None = None
    """Passes over the training split (default: what `updates` asks for)."""
    batch_tokens: int | None = None
    """Tokens of translation in a batch, about (default: the preset's)."""
    average: int | None = None
    """Average the weights of the last so many epochs (default: the preset's)."""

    beam: int = 5
    """Hypotheses kept in search (1: greedy)."""
    length_penalty: float = 0.6
    """Exponent of the length by which search divides (Wu et al. 2016, equation 14; 0: none)."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of training (default: bfloat16 where the machine gains); judging is float32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of initial weights, batch order and dropout."""

    def __post_init__(self) -> None:
        check_types(self)

        def must(name: str, condition: bool, wanted: str) -> None:
            if not condition:
                flag = "--" + name.replace("_", "-")
                raise LevelheadError(f"{flag} {getattr(self, name)}: must be {wanted}")

        loss_knobs(self)
        must("smoothing", 0 <= self.smoothing < 1, "in [0, 1), for example 0.1")
        for name in ("validation", "test"):
            must(name, 0 < getattr(self, name) < 1, "between 0 and 1, for example 0.05")
        must("dropout", self.dropout is None or 0 <= self.dropout < 1, "in [0, 1)")
        for name in ("momentum", "beta2", "warmup"):
            must(name, getattr(self, name) is None or 0 <= getattr(self, name) < 1, "in [0, 1)")
        sizes = ("layers", "width", "heads", "feed_forward", "vocabulary", "longest", "beam")
        for name in (*sizes, "lr", "updates", "epochs", "batch_tokens", "clip_norm", "power"):
            value = getattr(self, name)
            must(name, value is None or 0 < value < math.inf, "above 0")
        for name in ("weight_decay", "l1", "average", "length_penalty"):
            value = getattr(self, name)
            must(name, value is None or 0 <= value < math.inf, "0 or more")
        must("step_factor", 0 < self.step_factor <= 1, "in (0, 1]")
        must("step_at", all(0 < s < 1 for s in self.step_at), "shares between 0 and 1")
        for name in ("seed", "split_seed"):
            must(name, 0 <= getattr(self, name) < 2**63, "between 0 and 2^63")
        must("longest", self.longest > 1, "2 or more")
        must("source", not self.source or self.source != self.target, "another than --target")
        whole = self.resolved() if None in (self.width, self.heads) else self
        assert whole.width is not None
        assert whole.heads is not None
        must("width", whole.width % whole.heads == 0, f"a multiple of --heads {whole.heads}")
        must("width", whole.width % 2 == 0, "even")

    def resolved(self) -> TranslationRecipe:
        """With the preset's numbers where none are given."""
        preset = PRESETS[self.preset]
        if self.epochs is not None:
            preset = {name: value for name, value in preset.items() if name != "updates"}
        changes = {name: value for name, value in preset.items() if getattr(self, name) is None}
        return self.replace(**changes) if changes else self

    @property
    def loss_knobs(self) -> dict[str, float | None]:
        """The loss's own numbers by name; None where left open."""
        return loss_knobs(self)

    @property
    def batch_size(self) -> int | None:
        """Tokens in a batch."""
        return self.batch_tokens

    @property
    def finetune(self) -> bool | None:
        """Whether it starts from published weights: there are none."""
        return None

    @property
    def save_every(self) -> int | None:
        """Steps between snapshots: none are kept."""
        return None
