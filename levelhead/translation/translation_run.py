"""The run folder of a Transformer, and the sentences that a recipe names, as tokens."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from levelhead.errors import LevelheadError
from levelhead.files import read_object, reading
from levelhead.runs import MAKE_ANEW, RunFolder
from levelhead.text import count
from levelhead.translation.corpus import Corpus, read_corpus, read_lines, shortened
from levelhead.translation.tokens import Tokens
from levelhead.translation.transformer import Size, Translator
from levelhead.translation.translation_recipe import TASK, TranslationRecipe
from levelhead.translation.vocabulary import Vocabulary


@dataclass(frozen=True)
class TranslationRun(RunFolder):
    """The run folder of a translator: its findings are of tokens and of text, its outputs tokens'
    predictions."""

    @property
    def recipe(self) -> TranslationRecipe:
        """The resolved recipe."""
        return TranslationRecipe.load(self.folder / "recipe.toml")

    @property
    def data(self) -> dict[str, Any]:
        """What was trained on: languages, counts, hashes, notes."""
        return read_object(self.folder / "data.json")

    @property
    def vocabulary(self) -> Vocabulary:
        """The pieces of words."""
        return Vocabulary.load(self.folder / "vocabulary.model")

    def corpus(self) -> Corpus:
        """Its sentences, read again. Raises LevelheadError if they are no longer the same."""
        corpus = corpus_of(self.recipe)
        hashes, kept = hashes_of(corpus), self.data["hashes"]
        for name, hash_ in hashes.items():
            if kept.get(name) != hash_:
                raise LevelheadError(
                    f"{self.folder}: the {name} sentences of {self.recipe.data} are no longer "
                    "those it was started on; restore them, or train anew into another --out"
                )
        return corpus

    def lines(self, side: Literal["source", "reference", "translation"]) -> list[str]:
        """A side of the test set, as it was written."""
        path = self.folder / "outputs" / f"test.{side}.txt"
        with reading(path, MAKE_ANEW):
            return read_lines(path.read_bytes(), str(path))

    def network(self, device: str | torch.device = "cpu") -> Translator:
        """The trained network, ready to translate."""
        path = self.folder / "model.safetensors"
        network = Translator(size_of(self.recipe, len(self.vocabulary)))
        with self.reading_weights(path):
            network.load_state_dict(load_file(path))
        return network.place(device).eval()


def is_translation(folder: str | Path) -> bool:
    """Whether a folder holds a run of this kind."""
    path = Path(folder) / "recipe.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("task") == TASK
    except (OSError, ValueError):
        return False


def open_translation(folder: str | Path) -> TranslationRun:
    """A finished run of this kind. Raises LevelheadError for anything else."""
    path = Path(folder)
    if not is_translation(path):
        kind = "a run of images" if (path / "recipe.toml").exists() else "not a run folder"
        raise LevelheadError(f"{path}: {kind}; give one that levelhead train-translator made")
    return TranslationRun(path).require_finished()


def corpus_of(recipe: TranslationRecipe) -> Corpus:
    """The sentences of a recipe. Raises LevelheadError as `read_corpus` does."""
    return read_corpus(
        recipe.data,
        (recipe.source, recipe.target),
        validation=recipe.validation,
        test=recipe.test,
        split_seed=recipe.split_seed,
        test_set=recipe.test_set,
        skip_broken=recipe.skip_broken,
        strict_splits=recipe.strict_splits,
    )


def hashes_of(corpus: Corpus) -> dict[str, str]:
    """What tells whether the sentences are the same, by split."""
    return {name: part.hash for name, part in corpus.splits.items()}


def size_of(recipe: TranslationRecipe, vocabulary: int) -> Size:
    """What a resolved recipe's network is built for."""
    assert recipe.layers is not None
    assert recipe.width is not None
    assert recipe.heads is not None
    assert recipe.feed_forward is not None
    assert recipe.dropout is not None
    assert recipe.norm is not None
    return Size(
        vocabulary, recipe.layers, recipe.width, recipe.heads, recipe.feed_forward,
        recipe.dropout, recipe.norm, recipe.positions, recipe.longest,
    )  # fmt: skip


def encoded(
    corpus: Corpus, vocabulary: Vocabulary, recipe: TranslationRecipe
) -> tuple[Corpus, dict[str, Tokens]]:
    """The sentences as tokens; those that are too long are refused, or left out if they may be."""
    keep: dict[str, Sequence[int]] = {}
    tokens: dict[str, Tokens] = {}
    notes: list[str] = []
    for name, part in corpus.splits.items():
        whole = Tokens.of(part, vocabulary)
        longest = [max(len(a), len(b)) for a, b in zip(whole.source, whole.target, strict=True)]
        keep[name] = [i for i, length in enumerate(longest) if length <= recipe.longest]
        missing = len(part) - len(keep[name])
        if missing and not recipe.skip_broken:
            first = next(i for i, length in enumerate(longest) if length > recipe.longest)
            raise LevelheadError(
                f"{part.ids[first]}: {longest[first]:,} pieces, --longest {recipe.longest} allows "
                f"fewer ({count(missing, 'such line')}); split it, or leave them out with "
                "--skip-broken"
            )
        if missing:
            notes.append(f"{name}: {count(missing, 'pair')} left out, too long (--longest).")
        tokens[name] = Tokens(
            [whole.source[i] for i in keep[name]], [whole.target[i] for i in keep[name]]
        )
        if not len(tokens[name]):
            raise LevelheadError(f"--longest {recipe.longest}: leaves no pairs of {name}; raise it")
    return shortened(corpus, keep, notes), tokens
