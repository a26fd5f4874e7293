"""Dataset: stratified, seeded, whole groups, and no copy of an image in two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from levelhead.data import Dataset, Examples, Listing, load, scan
from levelhead.data.splits import split
from levelhead.errors import LevelheadError


def examples(
    labels: list[int],
    groups: list[str] | None = None,
    digests: list[int] | None = None,
    prefix: str = "",
) -> Examples:
    """One-pixel images; every one different unless `digests` says otherwise."""
    n = len(labels)
    start = sum(map(ord, prefix)) * 1_000_000
    return Examples(
        np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1),
        np.array(labels),
        tuple(f"{prefix}{i:04d}" for i in range(n)),
        np.array(digests if digests is not None else range(start, start + n), np.uint64),
        None if groups is None else tuple(groups),
    )


def dataset(**splits: Examples) -> Dataset:
    k = int(max(part.labels.max() for part in splits.values())) + 1
    names = tuple(f"c{i}" for i in range(k))
    return Dataset(Listing("toy", "toy", names, {}, 1, 1), names, splits, "f")


def cut(data: Dataset, seed: int = 0, strict: bool = False) -> Dataset:
    return split(data, validation=0.1, test=0.2, seed=seed, strict=strict)


def parts(made: Dataset) -> list[Examples]:
    return [made.train, made.validation, made.test]


def test_shares() -> None:
    """The shares of the splits, or of the classes in them, would be wrong."""
    made = cut(dataset(train=examples([0] * 500 + [1] * 100 + [2] * 50)))
    assert [np.bincount(p.labels).tolist() for p in parts(made)] == [
        [360, 72, 36],
        [40, 8, 4],
        [100, 20, 10],
    ]
    both = cut(dataset(train=examples([0, 1] * 50), test=examples([0, 1], prefix="t")))
    assert [len(p) for p in parts(both)] == [90, 10, 2]


def test_own_splits_are_used() -> None:
    """A validation split that the data has would be ignored, or mixed with train."""
    own = {name: examples([0, 1, 0], prefix=name) for name in ("train", "validation", "test")}
    made = cut(dataset(**own))
    assert [p.ids for p in parts(made)] == [p.ids for p in own.values()]
    two = dataset(train=examples([0, 1] * 10), validation=examples([0, 1], prefix="v"))
    assert (len(cut(two).train), cut(two).validation.ids) == (16, ("v0000", "v0001"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=90),
    st.sampled_from(["alone", "groups", "copies", "both"]),
    st.integers(0, 99),
)
def test_every_promise(labels: list[int], kind: str, seed: int) -> None:
    """A group or a copy would be parted, a class be missing, or an image be lost or doubled."""
    rng = np.random.default_rng(seed)
    labels = [*labels, *list(range(4)) * 3]
    n = len(labels)
    groups = [f"g{i}" for i in rng.integers(0, n // 2, n)] if kind in ("groups", "both") else None
    digests = rng.integers(0, 2 * n, n).tolist() if kind in ("copies", "both") else None
    data = dataset(train=examples(labels, groups, digests))
    try:
        made = cut(data, seed)
    except LevelheadError:  # groups of several classes, or all copies of one image
        if kind == "alone":
            raise
        event(f"{kind}: cannot be split")
        return
    assert sorted(i for p in parts(made) for i in p.ids) == list(data.splits["train"].ids)
    for p in parts(made):
        assert set(p.labels.tolist()) == {0, 1, 2, 3}
        rows = [int(i) for i in p.ids]
        assert p.labels.tolist() == [labels[i] for i in rows]
        assert p.images[:, 0, 0, 0].tolist() == [i % 256 for i in rows]
    for key in ("digests", "groups"):
        sets = [set(getattr(p, key)) for p in parts(made) if getattr(p, key) is not None]
        assert sum(map(len, sets)) == len(set().union(*sets))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.booleans())
def test_order_of_files_does_not_matter(seed: int, grouped: bool) -> None:
    """The same files listed in another order (another disk) would be split otherwise."""
    rng = np.random.default_rng(seed)
    groups = [f"g{i // 3}" for i in range(60)] if grouped else None
    train = examples(rng.integers(0, 3, 60).tolist(), groups)
    first = cut(dataset(train=train), seed)
    again = cut(dataset(train=train.take(rng.permutation(60))), seed)
    assert [set(p.ids) for p in parts(first)] == [set(p.ids) for p in parts(again)]
    assert first.hashes == again.hashes


def test_seeds() -> None:
    """The seed would be ignored, or the split not be repeatable."""
    for groups in (None, [f"g{i // 2}" for i in range(100)]):
        data = dataset(train=examples([0, 1] * 50, groups))
        assert cut(data, 1).hashes == cut(data, 1).hashes
        assert cut(data, 1).hashes["test"] != cut(data, 2).hashes["test"]


def test_groups_are_stratified() -> None:
    """Whole groups would be held out without regard to shares and classes."""
    rng = np.random.default_rng(0)
    of = rng.integers(0, 100, 2000)
    labels = (rng.random(2000) < np.where(of % 2, 0.8, 0.3)).astype(int)
    made = cut(dataset(train=examples(labels.tolist(), [f"g{i}" for i in of])))
    assert abs(len(made.test) - 400) <= 20
    assert abs(len(made.validation) - 160) <= 20
    for p in parts(made):
        assert abs(p.labels.mean() - labels.mean()) < 0.05


def test_hash_covers_everything() -> None:
    """A changed image, label or id would not show in the run's hashes."""
    base = examples([0, 1, 0])
    others = [
        examples([0, 1, 1]),
        examples([0, 1, 0], digests=[0, 1, 3]),
        examples([0, 1, 0], prefix="x"),
        base.take(np.arange(2)),
    ]
    assert len({e.hash() for e in [base, *others]}) == 5
    assert base.hash() == base.take(np.array([2, 0, 1])).hash()


@pytest.mark.parametrize(
    ("labels", "has_test", "message"),
    [
        ([0, 0, 0, 1, 1], False, "toy: class 'c1' has 2 different images; at least 3"),
        ([0, 0, 0, 1], True, "toy: class 'c1' has 1 different image; at least 2"),
    ],
)
def test_too_few(labels: list[int], has_test: bool, message: str) -> None:
    """A class would be missing from a split without a word."""
    splits = {"train": examples(labels)}
    if has_test:
        splits["test"] = examples([0, 1], prefix="t")
    with pytest.raises(LevelheadError, match=message):
        cut(dataset(**splits))


def test_too_few_groups() -> None:
    """A class of one patient would be torn apart, or be missing from a split."""
    data = dataset(train=examples([0] * 9 + [1] * 9, ["a"] * 9 + list("bcdbcdbcd")))
    with pytest.raises(LevelheadError, match="class 'c0' has 1 group; at least 3"):
        cut(data)


def test_overlap_is_told_and_refused() -> None:
    """A test image that was trained on would flatter the accuracy, unseen."""
    train = examples([0, 1] * 20, digests=list(range(40)))
    test = examples([0, 1, 0], digests=[100, 5, 5], prefix="t")
    made = cut(dataset(train=train, test=test))
    told = " ".join(made.notes)
    where = "train" if "0005" in made.train.ids else "validation"
    assert f"2 images stand in both {where} and test (first: 0005 = t0001)." in told
    assert "1 image stands under two labels (first: 0005 = t0002)." in told
    with pytest.raises(LevelheadError, match=r"toy: 2 images stand .* --strict-splits$"):
        cut(dataset(train=train, test=test), strict=True)
    fine = examples([0, 1], digests=[100, 101], prefix="t")
    assert cut(dataset(train=train, test=fine), strict=True).notes == ()


def test_groups_across_splits() -> None:
    """A patient in both train and test would go unseen."""
    train = examples([0, 1] * 20, [f"p{i // 4}" for i in range(40)])
    test = examples([0, 1], ["p9", "q"], prefix="t")
    made = cut(dataset(train=train, test=test))
    assert any("1 group stands in both" in note and "first: p9" in note for note in made.notes)
    with pytest.raises(LevelheadError, match="1 group stands in both"):
        cut(dataset(train=train, test=test), strict=True)


def test_notes_and_skipped_go_on() -> None:
    """What loading had to say would be lost on the way to the run."""
    base = dataset(train=examples([0, 1] * 10))
    data = dataclasses.replace(base, notes=("a note.",), skipped=(("x", "y"),))
    made = cut(data)
    assert (made.notes, made.skipped, made.fingerprint) == (("a note.",), (("x", "y"),), "f")


def test_real_photos(real_data: Callable[[str], Path]) -> None:
    """The overlap and the contradictions of trashnet would be missed."""
    data = load(scan(str(real_data("trashnet"))), image_size=32, channels=3)
    made = cut(data)
    assert len(made.test) == 505
    assert any(
        "1 image stands in both" in note and "test/glass/glass389.jpg" in note
        for note in made.notes
    )
    assert any("3 images stand under two labels" in note for note in made.notes)
    with pytest.raises(LevelheadError, match="1 image stands in both"):
        cut(data, strict=True)
