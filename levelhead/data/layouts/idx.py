"""IDX files, the layout of MNIST: train-images-idx3-ubyte and its kin, gzipped or not."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from levelhead.data.entries import SPLIT_NAMES, Array, Entries, Listing
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError

WORDS = (
    "IDX: train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-images-idx3-ubyte, "
    "t10k-labels-idx1-ubyte (each may end in .gz)"
)
# EMNIST puts its own name first: emnist-balanced-train-images-idx3-ubyte.gz
PATTERN = re.compile(r"(.*?)(train|test|t10k)-images[-.]idx[34]-ubyte(\.gz)?")


def _found(path: Path) -> dict[str, Path]:
    """Split name -> file of images. Raises LevelheadError if a split has several."""
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        match = PATTERN.fullmatch(file.name)
        if match is None or not file.is_file():
            continue
        split = SPLIT_NAMES[match[2]]
        # The same file unpacked beside its .gz comes first by name, and is taken.
        if split in files and file.name != files[split].name + ".gz":
            raise LevelheadError(
                f"{path}: {files[split].name} and {file.name} are both the {split} split; "
                "give each set its own folder"
            )
        files.setdefault(split, file)
    return files


def here(path: Path) -> bool:
    """Whether this is a folder with an IDX file of training images."""
    return "train" in _found(path)


def _array(path: Path, dimensions: tuple[int, ...]) -> Array:
    """One IDX file of bytes. Raises LevelheadError if it is not, or is not whole."""
    packed = path.suffix == ".gz"
    size = path.stat().st_size
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or head[3] not in dimensions:
                raise LevelheadError(
                    f"{path}: not an IDX file of bytes in {dimensions[0]} dimensions; "
                    "fetch it again"
                )
            shape = np.frombuffer(file.read(4 * head[3]), ">u4").tolist()
            need = int(np.prod(shape, dtype=object))
            # Deflate packs at best 1032 to 1: more is promised than the file can hold.
            body = file.read(need + 1) if need <= size * (1032 if packed else 1) else b""
    except (OSError, EOFError, zlib.error, ValueError, MemoryError) as error:
        if isinstance(error, LevelheadError):
            raise
        raise LevelheadError(f"{path}: damaged or cut off ({error}); fetch it again") from None
    if len(shape) != head[3] or len(body) != need:
        raise LevelheadError(
            f"{path}: its header promises {' x '.join(map(str, shape))} bytes, but there are "
            f"{'fewer' if len(body) < need else 'more'}; fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def read(path: Path, group_column: str = "", label_column: str = "") -> Listing:
    """The images and labels as arrays; ids are `train/0`, `test/0`; classes are the numbers.

    Raises LevelheadError for a missing or damaged file.
    """
    splits, roles = {}, []
    for split, file in _found(path).items():
        name = re.sub(r"images([-.])idx[34]", r"labels\1idx1", file.name)
        plain = name.removesuffix(".gz")
        beside = [path / n for n in (name, plain, plain + ".gz") if (path / n).is_file()]
        if not beside:
            raise LevelheadError(f"{path / name}: no such file; the labels of {file.name}")
        images, labels = _array(file, (3, 4)), _array(beside[0], (1,))
        images = images[..., None] if images.ndim == 3 else images
        ids = [f"{split}/{i}" for i in range(len(images))]
        splits[split] = Entries(tuple(ids), labels.tolist(), images=images)
        roles.append(f"{file.name} is {split}")
    return finish(str(path), path.name, splits, roles=[f"Read as IDX: {'; '.join(roles)}."])
