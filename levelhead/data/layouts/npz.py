"""NumPy .npz: `images` and `labels`, or x_train, y_train, x_test, y_test and their kin."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from levelhead.data.entries import Array, Entries, Listing
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError
from levelhead.machine import fits_in_memory

WORDS = (
    "npz: images uint8 [N,H,W] or [N,H,W,C] and labels [N], or x_train, y_train, x_test, y_test "
    "(or train_images, train_labels and so on); if wanted classes and groups"
)
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
PAIRS = {  # (images, labels, groups) -> split
    ("images", "labels", "groups"): "train",
    **{(f"x_{s}", f"y_{s}", f"groups_{s}"): split for s, split in SPLITS.items()},
    **{(f"{s}_images", f"{s}_labels", f"{s}_groups"): split for s, split in SPLITS.items()},
}


def _file(path: Path) -> Path | None:
    """The file itself, or a folder's only .npz if it holds images."""
    if not path.is_dir():
        return path if path.suffix.lower() == ".npz" and path.is_file() else None
    inside = [file for file in path.glob("*.npz") if file.is_file()]
    if len(inside) != 1 or not zipfile.is_zipfile(inside[0]):
        return None
    with zipfile.ZipFile(inside[0]) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    return inside[0] if any(x in names for x, _, _ in PAIRS) else None


def here(path: Path) -> bool:
    """Whether this is an .npz file, or a folder with exactly one, of images."""
    return _file(path) is not None


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays it needs, never unpickling. Raises LevelheadError for objects and damage."""
    needed = {"classes", *(name for names in PAIRS for name in names)}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            members = archive.zip.infolist()
            sizes = [m.file_size for m in members if m.filename.removesuffix(".npy") in needed]
            fits_in_memory(sum(sizes), path)
            return {name: archive[name] for name in archive.files if name in needed}
    except LevelheadError:
        raise
    except Exception as error:
        if "pickle" in str(error).lower() and zipfile.is_zipfile(path):
            raise LevelheadError(
                f"{path}: holds Python objects, which are never loaded as they can run code; "
                "save plain arrays of numbers or strings"
            ) from None
        raise LevelheadError(f"{path}: not an npz that can be read ({error})") from None


def read(path: Path, group_column: str = "", label_column: str = "") -> Listing:
    """The arrays of the file; ids are `train/0`, `test/0`.

    Without `classes`, the classes are the labels that occur. Raises LevelheadError for pickled
    objects and pixels that are not uint8.
    """
    file = _file(path)
    assert file is not None
    arrays = _arrays(file)
    splits: dict[str, Entries] = {}
    roles, notes = [], []
    class_names = [str(v) for v in arrays["classes"].ravel()] if "classes" in arrays else None
    for (x, y, g), split in PAIRS.items():
        if x not in arrays or split in splits:
            continue
        if y not in arrays and split == "test":
            notes.append(f"{x} has no {y}: it is not used.")
            continue
        if y not in arrays:
            raise LevelheadError(f"{file}: {x} without {y}; wanted {WORDS}")
        images, labels = arrays[x], arrays[y]
        if images.dtype != np.uint8:
            raise LevelheadError(
                f"{file}: {x} is {images.dtype}; save uint8 from 0 to 255 "
                "(for floats in 0 to 1: (x * 255).round().astype('uint8'))"
            )
        images = np.ascontiguousarray(images[..., None] if images.ndim == 3 else images)
        labels = _column(f"{file}: {y}", labels)
        groups = tuple(map(str, arrays[g].tolist())) if g in arrays else None
        ids = [f"{split}/{i}" for i in range(len(images))]
        splits[split] = Entries(tuple(ids), labels.tolist(), groups, images)
        roles.append(f"{x} and {y} are {split}")
    if not splits:
        with np.load(file, allow_pickle=False) as archive:
            scores = {"logits", "probabilities", "confidence"} & set(archive.files)
        if scores:
            raise LevelheadError(
                f"{file}: holds predictions ({min(scores)}), no images; levelhead audit judges them"
            )
        raise LevelheadError(f"{file}: no images (an array images or x_train); wanted {WORDS}")
    name = path.name if path.is_dir() else path.stem
    roles = [f"Read as npz: {'; '.join(roles)}."]
    return finish(str(path), name, splits, class_names, notes, roles)


def _column(where: str, labels: Array) -> Array:
    """Labels [N], of [N, 1] or of [N, K] with a single 1 in each row (one-hot)."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "iufb":
        if ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
            return np.asarray(labels.argmax(1))
        raise LevelheadError(
            f"{where}: shape {labels.shape} of other than one 1 in each row; give one label an "
            "image, [N]"
        )
    return labels
