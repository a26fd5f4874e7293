"""Parallel text: two files of lines, a table, or a folder of splits become a Corpus."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from levelhead.errors import LevelheadError
from levelhead.files import reading, refuse_address, refuse_pipes
from levelhead.text import count

SPLITS = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    "test": "test",
}
"""How names of files begin, and the split they are."""
SHOWN = 3


@dataclass(frozen=True)
class Sentences:
    """Lines and their translations, in order; an id names the file and the line."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, places: Sequence[int]) -> Sentences:
        """Those at `places`, in that order."""
        columns = (self.source, self.target, self.ids)
        return Sentences(*(tuple(column[i] for i in places) for column in columns))

    @cached_property
    def hash(self) -> str:
        """sha256 over every pair."""
        total = hashlib.sha256()
        for pair in zip(self.source, self.target, strict=True):
            total.update("\t".join(pair).encode() + b"\n")
        return total.hexdigest()


@dataclass(frozen=True)
class Corpus:
    """The splits `train`, `validation` and `test` of a parallel text; notes on how it was read."""

    name: str
    languages: tuple[str, str]
    splits: Mapping[str, Sentences]
    notes: tuple[str, ...] = ()


def read_corpus(
    path: str | Path,
    languages: tuple[str, str] = ("", ""),
    *,
    validation: float = 0.05,
    test: float = 0.05,
    split_seed: int = 0,
    test_set: str = "",
    skip_broken: bool = False,
    strict_splits: bool = False,
) -> Corpus:
    """Parallel text from a folder, the beginning of two files' names, a TSV or a parquet file.

    A folder holds train.en, train.de and so on (plain or .gz; val, valid, dev and test too), or
    tables of the same names; of several test sets `test_set` is taken, or the first. `corpus` may
    stand for corpus.en and corpus.de. A table's columns are the languages, or its two. Splits that
    are missing are cut off by a hash of the source line, so that a line twice is never parted;
    pairs across splits are counted in the notes. Raises LevelheadError naming file and line: for
    files of unequal length, lines that are empty or no UTF-8, and with `strict_splits` for pairs
    in two splits.
    """
    refuse_address(str(path))
    path = Path(path).expanduser()
    notes: list[str] = []
    if path.is_dir():
        parts = _folder(path, languages, test_set, notes)
    else:
        parts = {"train": _pairs(path, languages)}
    for name, sentences in parts.items():
        parts[name] = _whole(sentences, skip_broken, name, notes)
    if not len(parts.get("train", ())):
        raise LevelheadError(f"{path}: no pairs to train on; give train.LANGUAGE files")
    for name, share in (("test", test), ("validation", validation)):
        if name not in parts:
            parts["train"], parts[name] = _parted(parts["train"], share, name, split_seed)
            notes.append(f"{name}: {count(len(parts[name]), 'pair')} cut off train by a hash.")
        if not len(parts[name]) or not len(parts["train"]):
            raise LevelheadError(
                f"{path}: no pairs for {name}; give more lines, a larger --{name}, or its own file"
            )
    notes += _shared(parts, strict_splits, path)
    kept = {name: parts[name] for name in ("train", "validation", "test")}
    return Corpus(path.name.split(".")[0] or str(path), languages, kept, tuple(notes))


def _folder(
    path: Path, languages: tuple[str, str], test_set: str, notes: list[str]
) -> dict[str, Sentences]:
    """The splits whose files lie in a folder."""
    stems: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()):
        stem = _stem(file.name, languages)
        split = next((s for word, s in SPLITS.items() if stem.startswith(word)), None)
        if stem and split and stem not in stems.setdefault(split, []):
            stems[split].append(stem)
    if "train" not in stems:
        pair = " and ".join(f"train.{name or 'LANGUAGE'}" for name in languages)
        raise LevelheadError(
            f"{path}: holds no {pair} (or train.tsv, train.parquet); put them there"
        )
    tests = stems.get("test", [])
    if test_set and test_set not in tests:
        listed = ", ".join(tests) or "none"
        raise LevelheadError(f"--test-set {test_set}: {path} has {listed}; choose one")
    if len(tests) > 1 and not test_set:
        notes.append(f"Of {count(len(tests), 'test set')} {tests[0]} is taken (--test-set).")
    chosen = {name: test_set if name == "test" and test_set else s[0] for name, s in stems.items()}
    return {name: _pairs(path / stem, languages) for name, stem in chosen.items()}


TABLES = (".tsv", ".tsv.gz", ".parquet")


def _stem(name: str, languages: tuple[str, str]) -> str:
    """The name of a file without language and ending; empty for a file of neither kind."""
    ends = [f".{language}{packed}" for language in languages if language for packed in ("", ".gz")]
    end = next((end for end in (*ends, *TABLES) if name.endswith(end)), None)
    return "" if end is None else name.removesuffix(end)


def _pairs(path: Path, languages: tuple[str, str]) -> Sentences:
    """The pairs of a table, or of two files whose names begin so."""
    table = next((path for end in TABLES if path.name.endswith(end)), None)
    for end in TABLES:
        if table is None and path.with_name(path.name + end).exists():
            table = path.with_name(path.name + end)
    if table is not None:
        return _parquet(table, languages) if table.suffix == ".parquet" else _tsv(table, languages)
    if not all(languages):
        raise LevelheadError(f"{path}: which languages? give --source and --target, as files end")
    files = []
    for language in languages:
        plain = path.with_name(f"{path.name}.{language}")
        packed = plain.with_name(f"{plain.name}.gz")
        if not plain.exists() and not packed.exists():
            raise LevelheadError(f"{plain}: no such file (nor {packed.name}); check the path")
        files.append(plain if plain.exists() else packed)
    sides = [_lines(file) for file in files]
    if len(sides[0]) != len(sides[1]):
        raise LevelheadError(
            f"{files[0]}: {len(sides[0]):,} lines, {files[1].name} has {len(sides[1]):,}; line i "
            "of the one must be line i of the other"
        )
    ids = tuple(f"{files[0].name}:{i + 1}" for i in range(len(sides[0])))
    return Sentences(tuple(sides[0]), tuple(sides[1]), ids)


def read_lines(content: bytes, where: str) -> list[str]:
    """Lines of UTF-8 text, without their ends. Raises LevelheadError naming the line."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise LevelheadError(
                f"{where}: line {number} is not UTF-8 ({error.reason}); convert the file"
            ) from None
    return texts


def _lines(path: Path) -> list[str]:
    refuse_pipes(path)
    with reading(path, "write it anew"):
        content = path.read_bytes()
        return read_lines(gzip.decompress(content) if path.suffix == ".gz" else content, str(path))


def _tsv(path: Path, languages: tuple[str, str]) -> Sentences:
    """A line a pair, a TAB between; a first line of the languages' names is heeded."""
    rows = [line.split("\t") for line in _lines(path)]
    columns = (0, 1)
    first = 1
    if rows and all(languages) and set(languages) <= {cell.strip() for cell in rows[0]}:
        header = [cell.strip() for cell in rows.pop(0)]
        columns, first = (header.index(languages[0]), header.index(languages[1])), 2
    for number, row in enumerate(rows, first):
        if len(row) <= max(columns):
            raise LevelheadError(
                f"{path}: line {number} has {count(len(row), 'cell')}; give source TAB target"
            )
    source, target = (tuple(row[c] for row in rows) for c in columns)
    ids = tuple(f"{path.name}:{i}" for i in range(first, len(rows) + first))
    return Sentences(source, target, ids)


def _parquet(path: Path, languages: tuple[str, str]) -> Sentences:
    """Columns of the languages' names, or a column `translation` of both."""
    import pyarrow.parquet as pq

    with reading(path, "write it anew"):
        table = pq.read_table(path)
        if "translation" in table.column_names and not set(languages) <= set(table.column_names):
            rows = table.column("translation").to_pylist()
            lacks = next((n for n in languages if any(n not in (r or {}) for r in rows)), None)
            if lacks is not None:
                _refuse_column(path, lacks, sorted(rows[0] or {}) if rows else [])
            sides = [[row[name] for row in rows] for name in languages]
        else:
            for name in languages:
                if name not in table.column_names:
                    _refuse_column(path, name, table.column_names)
            sides = [table.column(name).to_pylist() for name in languages]
    source, target = (tuple("" if cell is None else str(cell) for cell in side) for side in sides)
    return Sentences(source, target, tuple(f"{path.name}#{i}" for i in range(len(source))))


def _refuse_column(path: Path, name: str, names: Sequence[str]) -> NoReturn:
    flags = "give --source and --target as its columns are called"
    raise LevelheadError(f"{path}: no column {name!r}; it has {', '.join(names)}; {flags}")


def _whole(sentences: Sentences, skip: bool, name: str, notes: list[str]) -> Sentences:
    """The pairs of which neither side is empty. Raises LevelheadError unless they may be left."""
    pairs = zip(sentences.source, sentences.target, strict=True)
    whole = [i for i, pair in enumerate(pairs) if all(side.strip() for side in pair)]
    missing = len(sentences) - len(whole)
    if not missing:
        return sentences
    kept = set(whole)
    first = next(i for i in range(len(sentences)) if i not in kept)
    if not skip:
        raise LevelheadError(
            f"{sentences.ids[first]}: empty on one side ({count(missing, 'such line')}); mend it, "
            "or leave them out with --skip-broken"
        )
    notes.append(f"{name}: {count(missing, 'pair')} left out, empty on one side.")
    return sentences.take(whole)


def _parted(
    sentences: Sentences, share: float, name: str, seed: int
) -> tuple[Sentences, Sentences]:
    """The rest, and the pairs whose hash falls into `share`: equal source lines stay together."""
    inside: list[int] = []
    outside: list[int] = []
    for i, line in enumerate(sentences.source):
        digest = hashlib.blake2b(f"{seed} {name} {line}".encode(), digest_size=8).digest()
        (inside if int.from_bytes(digest, "little") / 2**64 < share else outside).append(i)
    return sentences.take(outside), sentences.take(inside)


def _shared(parts: Mapping[str, Sentences], strict: bool, path: Path) -> list[str]:
    """Sentences on pairs, and source lines, that stand in train and in another split."""
    train = parts["train"]
    pairs = set(zip(train.source, train.target, strict=True))
    lines = set(train.source)
    notes = []
    for name in ("validation", "test"):
        part = parts[name]
        places = [
            i for i, pair in enumerate(zip(part.source, part.target, strict=True)) if pair in pairs
        ]
        sources = sum(line in lines for line in part.source)
        if places and strict:
            raise LevelheadError(
                f"{path}: {part.ids[places[0]]} stands in train, too ({count(len(places), 'pair')} "
                f"of {name}); remove them, or leave out --strict-splits"
            )
        if sources:
            listed = ", ".join(part.ids[i] for i in places[:SHOWN])
            more = f": {listed}" + (" …" if len(places) > SHOWN else "") if places else ""
            notes.append(
                f"{count(sources, 'source line')} of {name} stand in train, too, "
                f"{count(len(places), 'pair')} with the same translation{more}: they flatter it."
            )
    return notes


def shortened(corpus: Corpus, keep: Mapping[str, Sequence[int]], notes: Sequence[str]) -> Corpus:
    """The corpus without pairs that are too long, and the notes on them."""
    splits = {name: part.take(keep[name]) for name, part in corpus.splits.items()}
    return dataclasses.replace(corpus, splits=splits, notes=(*corpus.notes, *notes))
