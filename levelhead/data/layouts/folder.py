"""Folders of images: train/CLASS/*.jpg and test/CLASS/*.jpg, or one folder of classes."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from levelhead.data.decode import SUFFIXES
from levelhead.data.entries import ORDER, Entries, Listing, exact_split, split_of
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError
from levelhead.files import refuse_address, refuse_pipes
from levelhead.labels import spelling
from levelhead.text import count, some

WORDS = (
    "folders: DATA/train/CLASS/*.jpg and DATA/test/CLASS/*.jpg (and val or validation), "
    "or DATA/CLASS/*.jpg"
)
LITTER = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
)
"""Folders (lower case) that systems leave behind; hidden ones are left out, too."""
OWN_FILES = ("recipe.toml", "study.toml", "findings.json")
"""What tells a folder that levelhead wrote."""


@dataclass(frozen=True)
class Files:
    """Reader of images that are a file each."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> bytes:
        with self.open(index) as stream:
            return stream.read()

    def open(self, index: int) -> BinaryIO:
        """A stream of the same bytes. Raises OSError, too, for a pipe: it might never end."""
        path = self.paths[index]
        if not path.is_file() and path.exists():
            raise OSError(errno.EINVAL, "a pipe, device or folder, no file", str(path))
        return path.open("rb")

    def stamp(self) -> Any:
        """What the cache is valid for."""
        states = [(str(path), path.stat() if path.exists() else None) for path in self.paths]
        return [(path, s.st_size, s.st_mtime_ns) if s else path for path, s in states]


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _is_own(folder: Path) -> bool:
    """Whether levelhead wrote this folder: a run or study, or some of them."""
    try:
        inside = [folder, *(Path(e.path) for e in os.scandir(folder) if e.is_dir())]
        return any((place / name).is_file() for place in inside for name in OWN_FILES)
    except OSError:
        return False


def folders_in(path: Path) -> list[Path]:
    """The folders in `path` that may be classes or splits, sorted."""
    with os.scandir(path) as entries:
        names = sorted(e.path for e in entries if e.is_dir() and not _is_litter(e.name))
    return [folder for folder in map(Path, names) if not _is_own(folder)]


def _has_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    with os.scandir(folder) as entries:
        return any(_is_image(e.name) and e.is_file() for e in entries)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


@dataclass(frozen=True)
class _Plan:
    """Where the classes lie: split -> the folders whose folders are the classes, or None."""

    roots: dict[str, Path]
    by_class: bool = False  # CLASS/train/*.jpg: the splits lie in the classes
    unused: tuple[Path, ...] = ()
    flat: tuple[Path, ...] = ()  # split folders full of images without class folders


def _plan(root: Path) -> _Plan:
    """Which folders are splits and which are classes.

    Among classes, a folder `train` is one more class (of vehicles) if no folders are in it. Names
    that hold a split word (training_set, seg_test) count where train and another split, with
    folders in them, are named so.
    """
    folders = folders_in(root)
    for name_split in (exact_split, split_of):
        by_split: dict[str, Path] = {}
        for path in folders:
            split = name_split(path.name)
            if split is None:
                continue
            if split in by_split and name_split is exact_split:
                raise LevelheadError(
                    f"{root}: {by_split[split].name}/ and {path.name}/ are both {split}; keep one"
                )
            if split in by_split:
                by_split.clear()
                break
            by_split[split] = path
        inside = {split: folders_in(path) for split, path in by_split.items()}
        roots = _descended({s: p for s, p in by_split.items() if inside[s]})
        sure = name_split is exact_split or (
            len(roots) > 1 and "train" in roots and len(folders_in(roots["train"])) > 1
        )
        if "train" in roots and sure:
            flat = tuple(p for s, p in by_split.items() if not inside[s] and _has_images(p))
            unused = tuple(p for p in folders if p not in by_split.values())
            return _Plan(roots, unused=unused, flat=flat)
        if (
            folders
            and len(by_split) == len(folders)
            and (
                name_split is exact_split
                or {"train", "test"} <= by_split.keys()
                or {"train", "validation"} <= by_split.keys()
            )
        ):
            raise LevelheadError(
                f"{root}: no {by_split.get('train', root / 'train').name}/ with a folder for each "
                f"class; wanted {WORDS}, or a table such as labels.csv"
            )
    inside_classes = [
        {split_of(folder.name): folder for folder in folders_in(path)} for path in folders
    ]
    if len(folders) > 1 and all(
        "train" in splits and len(splits) > 1 and None not in splits for splits in inside_classes
    ):
        names = {split for splits in inside_classes for split in splits if split}
        if not any(map(_has_images, folders)):
            return _Plan(dict.fromkeys(names, root), by_class=True)
    return _Plan({"train": root})


def _descended(roots: dict[str, Path]) -> dict[str, Path]:
    """Split folders that hold one folder alone, which holds the classes (train/train/cat)."""
    for _ in range(3):
        inside = [folders_in(path) for path in roots.values()]
        alone = all(len(f) == 1 and folders_in(f[0]) and not _has_images(f[0]) for f in inside)
        if not (roots and alone):
            break
        roots = {split: folders[0] for split, folders in zip(roots, inside, strict=True)}
    return roots


def image_files(folder: Path, others: list[Path], left_out: list[str]) -> list[Path]:
    """All image files below `folder`, through links, sorted; other files go to `others`.

    What is no regular file (a pipe, a device) is no image: reading it might never end.
    """
    images: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        where = waiting.pop()
        try:
            status = where.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was there before
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(where) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if entry.is_dir():
                        left_out += [entry.name] if _is_litter(entry.name) else []
                        waiting += [] if _is_litter(entry.name) else [path]
                    else:
                        good = _is_image(entry.name) and (entry.is_file() or entry.is_symlink())
                        (images if good else others).append(path)
        except OSError as error:  # it must not pass for an empty folder
            raise LevelheadError(
                f"{error.filename or where}: cannot be read ({error.strerror}); correct its "
                "permissions"
            ) from None
    return sorted(images)


def here(path: Path) -> bool:
    """Whether this is a folder with folders in it."""
    return path.is_dir() and bool(folders_in(path))


def fits(path: Path) -> bool:
    """Whether the folders here are classes or splits of classes, not just places of images."""
    try:
        plan = _plan(path)
    except LevelheadError:
        return False
    if plan.roots != {"train": path}:
        return True
    return sum(map(_holds_image, folders_in(path))) > 1


def _holds_image(folder: Path) -> bool:
    """Whether there is an image in a folder or below it; stops at the first."""
    for _, folders, files in os.walk(folder, followlinks=True):
        if any(map(_is_image, files)):
            return True
        folders[:] = [name for name in folders if not _is_litter(name)]
    return False


def read(path: Path, group_column: str = "", label_column: str = "") -> Listing:
    """List the images; a class is a folder, its images may lie in folders below it.

    Raises LevelheadError for an empty class folder, and for what `finish` refuses.
    """
    notes: list[str] = []
    others: list[Path] = []
    left_out: list[str] = []
    plan = _plan(path)
    notes += [f"{folder.name}/ has no class folders: it is not used." for folder in plan.flat]
    if plan.unused:
        notes.append(
            f"Not used, as they name no split: {some([f.name + '/' for f in plan.unused])}."
        )
    by_class: dict[str, dict[str, list[Path]]] = {}
    for split, root in sorted(plan.roots.items(), key=lambda item: ORDER.index(item[0])):
        folders = folders_in(root)
        if plan.by_class:
            inner = {
                f.name: [g for g in folders_in(f) if split_of(g.name) == split] for f in folders
            }
            folders_of = {name: places for name, places in inner.items() if places}
        else:
            folders_of = {f.name: [f] for f in folders}
        by_class[split] = {}
        for name, places in folders_of.items():
            images = [file for place in places for file in image_files(place, others, left_out)]
            if not images:
                raise LevelheadError(
                    f"{places[0]}: no image in this class folder; add some or remove the folder"
                )
            by_class[split].setdefault(spelling(name), []).extend(images)
    known = by_class.get("train", {})
    for split in [s for s in by_class if s != "train" and not by_class[s].keys() & known.keys()]:
        named = some(sorted(by_class.pop(split)))
        where = plan.roots[split].relative_to(path).as_posix()
        notes.append(
            f"{where}/ holds {named}, no class of train: it is not used. Sort its images "
            "into folders by class, or take it out."
        )
    names = {name for classes in by_class.values() for name in classes}
    if not names:
        raise LevelheadError(f"{path}: no class folders with images; wanted {WORDS}")
    only = next((f for f in folders_in(plan.roots["train"]) if spelling(f.name) in names), path)
    if len(names) == 1 and folders_in(only):
        raise LevelheadError(f"{path}: only one class ({only.name}); did you mean {only}?")
    notes += _same_folders(plan, names)
    for folder in {path, *plan.roots.values()}:
        with os.scandir(folder) as entries:
            for e in sorted(entries, key=lambda e: e.name):
                if e.is_dir():
                    own = not _is_litter(e.name) and _is_own(Path(e.path))
                    left_out += [e.name] if own or _is_litter(e.name) else []
                else:
                    others.append(Path(e.path))
    notes += _ignored(others, left_out)
    splits = {}
    for split, classes in by_class.items():
        pairs = [(file, name) for name, images in sorted(classes.items()) for file in images]
        ids = [spelling(file.relative_to(path).as_posix()) for file, _ in pairs]
        files = Files(tuple(file for file, _ in pairs))
        splits[split] = Entries(tuple(ids), [name for _, name in pairs], read=files)
    return finish(str(path), path.name, splits, notes=notes, roles=_roles(path, plan, by_class))


def _roles(path: Path, plan: _Plan, by_class: dict[str, dict[str, list[Path]]]) -> list[str]:
    """What each folder was taken for."""
    if plan.by_class:
        return [f"Read as folders: CLASS/SPLIT of {count(len(by_class['train']), 'class')}."]
    parts = []
    for split in by_class:
        where = plan.roots[split].relative_to(path).as_posix()
        own = "" if where == "." else f"{where}/ is {split}, "
        parts.append(f"{own}{count(len(by_class[split]), 'class folder')}")
    return [f"Read as folders: {'; '.join(parts)}."]


def _same_folders(plan: _Plan, names: set[str]) -> list[str]:
    """A note where all classes hold the same folders, as datasets or splits do."""
    classes = [f for f in folders_in(plan.roots["train"]) if spelling(f.name) in names]
    inside = [{folder.name for folder in folders_in(f)} for f in classes]
    if (
        plan.by_class
        or len(classes) < 2
        or len(inside[0]) < 2
        or any(x != inside[0] for x in inside)
    ):
        return []
    return [
        f"All {len(classes)} classes ({some([f.name for f in classes])}) hold the same folders "
        f"({some(sorted(inside[0]))}). If those are the classes, give one of the folders above "
        "them as DATA, or move them up."
    ]


def _ignored(others: list[Path], left_out: list[str]) -> list[str]:
    """Notes on files and folders that were not read, counted by ending."""
    notes = []
    loose = [p for p in others if _is_image(p.name)]
    plain = [p for p in others if not _is_image(p.name)]
    if loose:
        notes.append(f"{count(len(loose), 'image')} in no class folder ignored: {loose[0].name}.")
    if plain:
        endings = Counter(p.suffix.lower() or p.name for p in plain)
        shown = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(4))
        more = f" and {len(endings) - 4} other endings" if len(endings) > 4 else ""
        notes.append(f"{count(len(plain), 'file')} ignored: {shown}{more}; no images of a class.")
    if left_out:
        names = Counter(left_out)
        shown = some([f"{name}/" + (f" ({n} times)" if n > 1 else "") for name, n in names.items()])
        notes.append(f"Folders not read (hidden, left by a system, or levelhead's own): {shown}.")
    return notes


def image_paths(given: list[str]) -> list[Path]:
    """Files as given, and every image below folders, sorted.

    Raises LevelheadError for a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = image_files(path, [], [])
            if not inside:
                raise LevelheadError(f"{path}: no images in this folder; give another")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            refuse_address(text)
            refuse_pipes(path)
            raise LevelheadError(f"{path}: no such file or folder; correct the path")
    return list(dict.fromkeys(files))
