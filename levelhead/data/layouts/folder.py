"""Folders of images: train/CLASS/*.jpg and test/CLASS/*.jpg, or one folder of classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from levelhead.data.decode import SUFFIXES
from levelhead.data.entries import SPLIT_NAMES, Entries, Listing, count, some
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError

WORDS = (
    "folders: DATA/train/CLASS/*.jpg and DATA/test/CLASS/*.jpg (and val or validation), "
    "or DATA/CLASS/*.jpg"
)


@dataclass(frozen=True)
class Files:
    """Reader of images that are a file each."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def open(self, index: int) -> BinaryIO:
        """A stream of the same bytes."""
        return self.paths[index].open("rb")

    def stamp(self) -> Any:
        """What the cache is valid for."""
        states = [(str(path), path.stat() if path.exists() else None) for path in self.paths]
        return [(path, s.st_size, s.st_mtime_ns) if s else path for path, s in states]


def _folders(path: Path) -> list[Path]:
    """The folders in `path` that are not hidden, sorted."""
    with os.scandir(path) as found:
        return sorted(
            Path(e.path) for e in found if e.is_dir() and not e.name.startswith((".", "__"))
        )


def _split_folders(root: Path) -> dict[str, Path]:
    """Split name -> folder; empty if the folders in `root` are the classes.

    Among classes, a folder `train` is one more class (of vehicles) if no folders are in it.
    """
    folders = _folders(root)
    by_split: dict[str, Path] = {}
    for path in folders:
        split = SPLIT_NAMES.get(path.name.lower())
        if split in by_split:
            raise LevelheadError(
                f"{root}: {by_split[split].name}/ and {path.name}/ are both {split}; keep one"
            )
        if split is not None:
            by_split[split] = path
    if "train" in by_split and _folders(by_split["train"]):
        return by_split
    if folders and len(by_split) == len(folders):
        raise LevelheadError(
            f"{root}: no train/ with a folder for each class; wanted {WORDS}, or a labels.csv"
        )
    return {}


def _image_files(folder: Path, others: list[Path]) -> list[Path]:
    """All image files below `folder`, sorted; other files are added to `others`."""

    def refuse(error: OSError) -> None:
        raise LevelheadError(  # it must not pass for an empty folder
            f"{error.filename}: cannot be read ({error.strerror}); correct its permissions"
        )

    images: list[Path] = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            good = Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
            (images if good else others).append(Path(where, name))
    return sorted(images)


def here(path: Path) -> bool:
    """Whether this is a folder with folders in it."""
    return path.is_dir() and bool(_folders(path))


def read(path: Path, group_column: str) -> Listing:
    """List the images; a class is a folder, its images may lie in folders below it.

    Raises LevelheadError for an empty class folder, and for what `finish` refuses.
    """
    notes: list[str] = []
    others: list[Path] = []
    parts = _split_folders(path)
    for split, folder in list(parts.items()):
        if not _folders(folder) and any(_image_files(folder, [])):
            notes.append(f"{folder.name}/ has no class folders: it is not used.")
            del parts[split]
    if parts:
        used = {*parts.values(), *(path / note.split("/")[0] for note in notes)}
        unused = [folder.name + "/" for folder in _folders(path) if folder not in used]
        if unused:
            notes.append(f"Not used, as they name no split: {some(unused)}.")
    parts = parts or {"train": path}
    by_class = {
        split: {f.name: _image_files(f, others) for f in _folders(folder)}
        for split, folder in parts.items()
    }
    for split, classes in by_class.items():
        for name, images in classes.items():
            if not images:
                raise LevelheadError(
                    f"{parts[split] / name}: no image in this class folder; add some "
                    "or remove the folder"
                )
    names = {name for classes in by_class.values() for name in classes}
    if not names:
        raise LevelheadError(f"{path}: no class folders with images; wanted {WORDS}")
    only = parts["train"] / min(names)
    if len(names) == 1 and _folders(only):
        raise LevelheadError(f"{path}: only one class ({only.name}); did you mean {only}?")
    others += [p for f in {path, *parts.values()} for p in sorted(f.iterdir()) if p.is_file()]
    if others:
        left_out = [p.name for p in others if not p.name.startswith(".")]
        such = f" (such as {left_out[0]})" if left_out else ""
        notes.append(f"{count(len(others), 'file')}{such} ignored: not images of a class.")
    splits = {}
    for split, classes in by_class.items():
        files = tuple(file for images in classes.values() for file in images)
        labels = [name for name, images in classes.items() for _ in images]
        ids = [file.relative_to(path).as_posix() for file in files]
        splits[split] = Entries(tuple(ids), labels, read=Files(files))
    return finish(str(path), path.name, splits, notes=notes)


def image_paths(given: list[str]) -> list[Path]:
    """Files as given, and every image below folders, sorted.

    Raises LevelheadError for a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _image_files(path, [])
            if not inside:
                raise LevelheadError(f"{path}: no images in this folder; give another")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise LevelheadError(f"{path}: no such file or folder; correct the path")
    return list(dict.fromkeys(files))
