"""Parallel text is read whole, split without leaks, and refused in one line."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levelhead.errors import LevelheadError
from levelhead.translation.corpus import read_corpus
from worlds import spelled, write_parallel

AB = ("aa", "bb")


def write(folder, name, source, target):
    for language, lines in zip(AB, (source, target), strict=True):
        (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_form_gives_the_same_pairs(tmp_path):
    """Else a table would be another corpus than the files it was made of."""
    source, target = spelled(200, 0)
    write(tmp_path, "corpus", source, target)
    plain = read_corpus(tmp_path / "corpus", AB)
    rows = "".join(f"{a}\t{b}\n" for a, b in zip(source, target, strict=True))
    (tmp_path / "two.tsv").write_text(rows)
    (tmp_path / "named.tsv").write_text("bb\tn\taa\n" + "".join(
        f"{b}\t1\t{a}\n" for a, b in zip(source, target, strict=True)
    ))  # fmt: skip
    (tmp_path / "packed").mkdir()
    for language, lines in zip(AB, (source, target), strict=True):
        path = tmp_path / "packed" / f"all.{language}.gz"
        path.write_bytes(gzip.compress("\r\n".join(lines).encode()))
    pq.write_table(pa.table({"bb": target, "aa": source}), tmp_path / "flat.parquet")
    both = [dict(zip(AB, pair, strict=True)) for pair in zip(source, target, strict=True)]
    pq.write_table(pa.table({"translation": both}), tmp_path / "nested.parquet")
    for name in ("two.tsv", "named.tsv", "packed/all", "flat.parquet", "nested.parquet"):
        corpus = read_corpus(tmp_path / name, AB)
        for split, part in plain.splits.items():
            assert corpus.splits[split].hash == part.hash, (name, split)
    assert sum(map(len, plain.splits.values())) == 200


def test_a_line_twice_is_never_parted(tmp_path):
    """Else the test would hold what training saw."""
    source, target = spelled(300, 1)
    write(tmp_path, "corpus", source * 2, target * 2)
    splits = read_corpus(tmp_path / "corpus", AB, validation=0.2, test=0.2).splits
    names = list(splits)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not set(splits[one].source) & set(splits[other].source)
    again = read_corpus(tmp_path / "corpus", AB, validation=0.2, test=0.2, split_seed=1).splits
    assert again["test"].hash != splits["test"].hash


def test_lines_end_where_files_say(tmp_path):
    """Python's splitlines also parts at U+2028, and every line after it would be shifted."""
    write(
        tmp_path, "corpus", [f"a\u2028b {i}" for i in range(80)], [f"c\x0bd {i}" for i in range(80)]
    )
    splits = read_corpus(tmp_path / "corpus", AB).splits
    assert sum(map(len, splits.values())) == 80
    assert all("\u2028" in line for line in splits["train"].source)


def test_pairs_in_two_splits_are_named(tmp_path):
    """A leak would flatter the test in silence."""
    write_parallel(tmp_path)
    first = [(tmp_path / f"train.{x}").read_text().splitlines()[0] for x in AB]
    for language, line in zip(AB, first, strict=True):
        with (tmp_path / f"test.{language}").open("a") as file:
            file.write(line + "\n")
    notes = " ".join(read_corpus(tmp_path, AB).notes)
    assert "test stand in train, too" in notes
    assert "test.aa:61" in notes or "…" in notes
    with pytest.raises(LevelheadError, match=r"stands in train, too .*--strict-splits"):
        read_corpus(tmp_path, AB, strict_splits=True)


def test_several_test_sets(tmp_path):
    """Else which one was judged would depend on the order of a directory."""
    write_parallel(tmp_path)
    write(tmp_path, "test_2017", *spelled(20, 9))
    corpus = read_corpus(tmp_path, AB)
    assert len(corpus.splits["test"]) == 60
    assert any("--test-set" in note for note in corpus.notes)
    assert len(read_corpus(tmp_path, AB, test_set="test_2017").splits["test"]) == 20
    with pytest.raises(LevelheadError, match=r"--test-set other: .* has test, test_2017; choose"):
        read_corpus(tmp_path, AB, test_set="other")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "train.bb").write_text("x\n"), r"train.aa: 600 lines, train.bb has 1;"),
        (
            lambda f: (f / "train.aa").write_text("\n" * 600),
            r"train.aa:1: empty on one side \(600 such lines\).*--skip-broken",
        ),
        (lambda f: (f / "train.aa").write_bytes(b"ok\n\xff\xfe\n"), "line 2 is not UTF-8"),
        (lambda f: (f / "train.bb").unlink(), r"train.bb: no such file \(nor train.bb.gz\)"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no train.aa and train.bb"),
    ],
)
def test_what_cannot_be_read(spoil, words, tmp_path):
    write_parallel(tmp_path)
    spoil(tmp_path)
    with pytest.raises(LevelheadError, match=words):
        read_corpus(tmp_path, AB)


def test_tables_that_lack_a_column(tmp_path):
    pq.write_table(pa.table({"de": ["x"], "en": ["y"]}), tmp_path / "t.parquet")
    with pytest.raises(LevelheadError, match="no column 'aa'; it has de, en"):
        read_corpus(tmp_path / "t.parquet", AB)
    (tmp_path / "t.tsv").write_text("a\tb\nalone\n")
    with pytest.raises(LevelheadError, match="line 2 has 1 cell; give source TAB target"):
        read_corpus(tmp_path / "t.tsv", AB)
    with pytest.raises(LevelheadError, match="which languages"):
        read_corpus(tmp_path / "other")
