"""The data types: Entries and Listing (on disk), Examples and Dataset (decoded)."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
ORDER = ("train", "validation", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}
"""The words that name a split in files, folders and columns (lower case)."""
_WRITTEN_TOGETHER = {
    "trainset": "train",
    "trainval": "train",
    "valset": "validation",
    "devset": "validation",
    "testset": "test",
}


def exact_split(name: str) -> str | None:
    """The split whose word this is."""
    return SPLIT_NAMES.get(name.strip().lower())


def split_of(name: str) -> str | None:
    """The split that a name speaks of, between `-`, `_`, `.`, spaces, digits and capitals.

    None if it speaks of none, or of two.

    >>> split_of("training_set"), split_of("seg_test1"), split_of("valImages"), split_of("trained")
    ('train', 'test', 'validation', None)
    """
    if exact := exact_split(name):
        return exact
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = SPLIT_NAMES | _WRITTEN_TOGETHER
    named = {words[word] for word in re.split(r"[^a-z]+", apart) if word in words}
    return named.pop() if len(named) == 1 else None


class Reader(Protocol):
    """The encoded images of one split."""

    def __call__(self, index: int) -> bytes:
        """The encoded bytes of image `index`. Raises OSError if they cannot be read."""

    def open(self, index: int) -> BinaryIO:
        """A stream of the same bytes, of which only the header will be read."""

    def stamp(self) -> Any:
        """Sizes and times of the files behind it (JSON-able): the cache is valid while equal."""


@dataclass(frozen=True)
class Subset:
    """Reader of some of the images of another."""

    read: Reader
    index: tuple[int, ...]

    def __call__(self, index: int) -> bytes:
        return self.read(self.index[index])

    def open(self, index: int) -> BinaryIO:
        """A stream of the same bytes."""
        return self.read.open(self.index[index])

    def stamp(self) -> Any:
        """What the cache is valid for."""
        return [self.read.stamp(), self.index]


@dataclass(frozen=True)
class Entries:
    """One split as it lies on disk, nothing decoded (`images` where the source is arrays).

    labels: as a reader finds them, class names or whole numbers; int64 [N] once they are listed.
    """

    ids: tuple[str, ...]
    labels: Any
    groups: tuple[str, ...] | None = None
    images: Array | None = None  # uint8 [N,H,W,C]
    read: Reader | None = None
    paths: tuple[str, ...] | None = None  # what images are called, where their ids are numbers

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Listing:
    """What `scan` found: the splits among train, validation and test, and what to say about them.

    `size` is the median short side in pixels, of a sample; `channels` is 1 if all images are grey,
    and `bits` is how many of 16 the brightest uses, both of all. `roles` say what each folder, file
    and column was taken for, `notes` what is odd.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    splits: dict[str, Entries]
    size: int
    channels: int
    notes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    bits: int = 16
    superclasses: tuple[str, ...] = ()  # what each class is a kind of, where the data says so


@dataclass(frozen=True)
class Examples:
    """Decoded images: uint8 [N,H,W,C], perhaps a memory map of the cache."""

    images: Array
    labels: Array  # int64 [N]
    ids: tuple[str, ...]
    digests: Array  # uint64 [N], of the decoded full-resolution pixels and their shape
    groups: tuple[str, ...] | None = None
    votes: Array | None = None  # float32 [N,K]: the shares of annotators' votes

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Array) -> Examples:
        """The examples at `index` (integers), in that order; copies the pixels."""
        ids = tuple(self.ids[i] for i in index)
        groups = None if self.groups is None else tuple(self.groups[i] for i in index)
        votes = None if self.votes is None else self.votes[index]
        pixels, labels, digests = self.images[index], self.labels[index], self.digests[index]
        return Examples(pixels, labels, ids, digests, groups, votes)

    def hash(self) -> str:
        """sha256 over ids, labels and digests; the order of the examples does not matter."""
        rows = sorted(zip(self.ids, self.labels.tolist(), self.digests.tolist(), strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Decoded splits of a listing, and the images left out by skip_broken as (id, why).

    As loaded those that the data has; `splits.split` completes them to train, validation and test,
    and `training.prepare` measures the train split.
    """

    listing: Listing
    class_names: tuple[str, ...]  # the listing's, or those of them that a recipe chose
    splits: dict[str, Examples]
    fingerprint: str  # sha256 over class names, and ids, labels and digests of all splits
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)  # of each split; see `Examples.hash`
    mean: Array | None = None  # float32 [C], of the train split, in units of 0-255
    std: Array | None = None  # the same; at least 1
    superclasses: tuple[str, ...] = ()  # of each class, as the listing has them
    read_as: tuple[Any, ...] = ()  # the recipe's fields that decided all this

    @property
    def train(self) -> Examples:
        """The training split."""
        return self.splits["train"]

    @property
    def validation(self) -> Examples:
        """What calibrators are fitted on."""
        return self.splits["validation"]

    @property
    def test(self) -> Examples:
        """What judges."""
        return self.splits["test"]

    def replace(self, splits: Mapping[str, Examples], **changes: Any) -> Dataset:
        """The same with some splits and fields changed."""
        return dataclasses.replace(self, splits={**self.splits, **splits}, **changes)
