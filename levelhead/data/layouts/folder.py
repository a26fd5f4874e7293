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
        found = [(str(path), path.stat() if path.exists() else None) for path in self.paths]
        return [(path, s.st_size, s.st_mtime_ns) if s else path for path, s in found]


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
    found: dict[str, Path] = {}
    for path in folders:
        split = SPLIT_NAMES.get(path.name.lower())
        if split in found:
            raise LevelheadError(
                f"{root}: {found[split].name}/ and {path.name}/ are both {split}; keep one"
            )
        if split is not None:
            found[split] = path
    if "train" in found and _folders(found["train"]):
        return found
    if folders and len(found) == len(folders):
        raise LevelheadError(
            f"{root}: no train/ with a folder for each class; wanted {WORDS}, or a labels.csv"
        )
    return {}


def _pictures(folder: Path, others: list[Path]) -> list[Path]:
    """All image files below `folder`, sorted; other files are added to `others`."""

    def refuse(error: OSError) -> None:
        raise LevelheadError(  # it must not pass for an empty folder
            f"{error.filename}: cannot be read ({error.strerror}); correct its permissions"
        )

    found: list[Path] = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            good = Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
            (found if good else others).append(Path(where, name))
    return sorted(found)


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
        if not _folders(folder) and any(_pictures(folder, [])):
            notes.append(f"{folder.name}/ has no class folders: it is not used.")
            del parts[split]
    if parts:
        used = {*parts.values(), *(path / note.split("/")[0] for note in notes)}
        unused = [folder.name + "/" for folder in _folders(path) if folder not in used]
        if unused:
            notes.append(f"Not used, as they name no split: {some(unused)}.")
    parts = parts or {"train": path}
    found = {
        split: {f.name: _pictures(f, others) for f in _folders(folder)}
        for split, folder in parts.items()
    }
    for split, classes in found.items():
        for name, images in classes.items():
            if not images:
                raise LevelheadError(
                    f"{parts[split] / name}: no image in this class folder; add some "
                    "or remove the folder"
                )
    names = {name for classes in found.values() for name in classes}
    if not names:
        raise LevelheadError(f"{path}: no class folders with images; wanted {WORDS}")
    only = parts["train"] / min(names)
    if len(names) == 1 and _folders(only):
        raise LevelheadError(f"{path}: only one class ({only.name}); did you mean {only}?")
    others += [p for f in {path, *parts.values()} for p in sorted(f.iterdir()) if p.is_file()]
    if others:
        seen = [p.name for p in others if not p.name.startswith(".")]
        such = f" (such as {seen[0]})" if seen else ""
        notes.append(f"{count(len(others), 'file')}{such} ignored: not images of a class.")
    splits = {}
    for split, classes in found.items():
        files = tuple(file for images in classes.values() for file in images)
        labels = [name for name, images in classes.items() for _ in images]
        ids = [file.relative_to(path).as_posix() for file in files]
        splits[split] = Entries(tuple(ids), labels, read=Files(files))
    return finish(str(path), path.name, splits, notes=notes)


def image_paths(given: list[str]) -> list[Path]:
    """Files as given, and every image below folders, sorted.

    Raises LevelheadError for a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _pictures(path, [])
            if not inside:
                raise LevelheadError(f"{path}: no images in this folder; give another")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise LevelheadError(f"{path}: no such file or folder; correct the path")
    return list(dict.fromkeys(found))
