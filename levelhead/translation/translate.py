"""Using a translator: lines in, lines out, with how sure it is of sentence and word."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.calibrators import Temperature
from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.machine import pick_device
from levelhead.translation.search import Hypothesis, search
from levelhead.translation.token_scores import hypothesis_logs
from levelhead.translation.translation_run import TranslationRun, open_translation
from levelhead.translation.vocabulary import Vocabulary

SURE = 0.5
"""Below this a word is marked: its least certain piece is as likely as not another."""


@dataclass(frozen=True)
class Word:
    """A word of a translation and the least probability of its pieces."""

    text: str
    probability: float


@dataclass(frozen=True)
class Translation:
    """One answer: its text, its words, the probability of exactly this sentence."""

    text: str
    probability: float
    words: tuple[Word, ...]

    def marked(self, below: float = SURE) -> str:
        """The text with the words that it is unsure of in ⟨ ⟩."""
        return " ".join(
            f"⟨{word.text}⟩" if word.probability < below else word.text for word in self.words
        )


@dataclass(frozen=True)
class Translated:
    """Lines and their translations, the likeliest first; none for an empty line."""

    lines: tuple[str, ...]
    answers: tuple[tuple[Translation, ...], ...]
    temperature: float

    def texts(self, mark_below: float | None = None) -> list[str]:
        """The first answer of each line; with words marked where asked."""
        return [
            "" if not own else own[0].text if mark_below is None else own[0].marked(mark_below)
            for own in self.answers
        ]

    @property
    def words(self) -> list[str]:
        """The first answer of each line."""
        return self.texts()

    def to_json(self) -> dict[str, Any]:
        """Every answer of every line."""
        return {
            "schema": 1,
            "temperature": self.temperature,
            "lines": [
                {
                    "source": line,
                    "answers": [dataclasses.asdict(one) for one in own],
                }
                for line, own in zip(self.lines, self.answers, strict=True)
            ],
        }

    def save(self, path: str | Path, mark_below: float | None = None) -> None:
        """Write the first answer of each line (`texts`) as text, a line a line."""
        write(Path(path), "".join(f"{text}\n" for text in self.texts(mark_below)))


def translate(
    run: TranslationRun | str | Path,
    lines: Iterable[str],
    *,
    alternatives: int = 1,
    beam: int | None = None,
    temperature: float | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Translated:
    """The translations of lines by a finished run, at most `alternatives` of each.

    Search is over the network's own probabilities divided by `temperature` (default: as they are,
    which is how the run was judged); the probabilities that are shown are those at the run's
    temperature of validation, which are calibrated piece by piece. Raises LevelheadError naming
    the line for one that is too long, and for a run of images.
    """
    run = run if isinstance(run, TranslationRun) else open_translation(run)
    recipe, vocabulary = run.recipe, run.vocabulary
    if alternatives < 1:
        raise LevelheadError(f"--alternatives {alternatives}: must be 1 or more")
    beam = recipe.beam if beam is None else beam
    beam = max(beam, alternatives) if beam > 0 else beam
    lines = tuple(lines)
    places = [i for i, line in enumerate(lines) if line.strip()]
    rows = vocabulary.encode([lines[i] for i in places])
    for place, row in zip(places, rows, strict=True):
        if len(row) > recipe.longest:
            raise LevelheadError(
                f"line {place + 1}: {len(row):,} pieces, the run knows {recipe.longest}; split it "
                "into sentences"
            )
    network = run.network(pick_device(device))
    hypotheses = search(
        network,
        rows,
        beam=beam,
        length_penalty=recipe.length_penalty,
        temperature=1.0 if temperature is None else temperature,
        progress=progress,
    )
    calibration = run.calibration
    assert isinstance(calibration, Temperature)
    at = calibration.temperature
    kept = [own[:alternatives] for own in hypotheses]
    logs = hypothesis_logs(network, rows, kept, at)
    answers: list[tuple[Translation, ...]] = [() for _ in lines]
    for place, own, own_logs in zip(places, kept, logs, strict=True):
        answers[place] = tuple(
            _translation(vocabulary, one, each) for one, each in zip(own, own_logs, strict=True)
        )
    return Translated(lines, tuple(answers), at)


def _translation(vocabulary: Vocabulary, one: Hypothesis, logs: np.ndarray) -> Translation:
    words = []
    for group in vocabulary.words(one.pieces):
        (text,) = vocabulary.decode([[one.pieces[i] for i in group]])
        words.append(Word(text, float(np.exp(logs[group].min()))))
    (text,) = vocabulary.decode([one.pieces])
    return Translation(text, float(np.exp(logs.sum())), tuple(words))
