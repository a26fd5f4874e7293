"""Pieces of words: byte-pair encoding of both languages, by sentencepiece."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.files import reading, write
from levelhead.translation import extra

PAD, START, END, UNKNOWN = range(4)
"""The first pieces: of padding, before and after a sentence, and of none."""
LONGEST_LINE = 1 << 20  # bytes


class Vocabulary:
    """The pieces that sentences are cut into (Sennrich et al. 2016), and back.

    Spaces are kept inside the pieces, and what no piece covers is spelled in bytes: decoding gives
    back every sentence but for runs of spaces.
    """

    def __init__(self, model: bytes) -> None:
        sentencepiece = extra("sentencepiece")
        self.model = model
        self.processor: Any = sentencepiece.SentencePieceProcessor()
        self.processor.load_from_serialized_proto(model)

    @classmethod
    def of(cls, lines: Iterable[str], size: int) -> Vocabulary:
        """A vocabulary of `size` pieces, learned from lines. Raises LevelheadError for a size that
        these lines do not allow."""
        sentencepiece = extra("sentencepiece")
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=written, vocab_size=size,
                model_type="bpe", character_coverage=1.0, byte_fallback=True, num_threads=1,
                normalization_rule_name="identity", max_sentence_length=LONGEST_LINE,
                pad_id=PAD, bos_id=START, eos_id=END, unk_id=UNKNOWN, minloglevel=3,
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            numbers = re.findall(r"<= (\d+)|least (\d+)|than (\d+)", str(error))
            bound = next((n for groups in numbers for n in groups if n), None)
            fix = f"; give {bound}" if bound and "<=" in str(error) else ""
            few = "smaller" in str(error) or "required_chars" in str(error)
            what = "too few for their characters" if few else "more than these lines hold"
            raise LevelheadError(
                f"--vocabulary {size}: {what}{fix or ('; give a larger' if few else '; lower it')}"
            ) from None
        return cls(written.getvalue())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote. Raises LevelheadError for anything else."""
        with reading(path, "restore it, or train anew into another --out"):
            return cls(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write sentencepiece's own file."""
        write(path, self.model)

    def __len__(self) -> int:
        return int(self.processor.get_piece_size())

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The pieces by number; ▁ stands for a space."""
        return tuple(self.processor.id_to_piece(list(range(len(self)))))

    def encode(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Each line as the numbers of its pieces, int64, and END."""
        rows = self.processor.encode(list(lines), out_type=int, num_threads=1)
        return [np.array([*row, END], dtype=np.int64) for row in rows]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Lines of rows of numbers; what follows END is left out, a newline (spelled in bytes) is
        a space."""
        cut = [row[: row.index(END)] if END in row else row for row in map(list, rows)]
        texts = self.processor.decode([list(map(int, row)) for row in cut])
        return [str(text).replace("\n", " ") for text in texts]

    def words(self, row: Sequence[int]) -> list[list[int]]:
        """The places in a row of numbers that make each word: a piece with ▁ begins one."""
        words: list[list[int]] = []
        for place, number in enumerate(row):
            if number == END:
                break
            if not words or self.pieces[number].startswith("▁"):
                words.append([])
            words[-1].append(place)
        return words
