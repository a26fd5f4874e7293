"""Decoding many images: on all cores, straight into a cache on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from levelhead.data.decode import Broken, digest, fit, pixels, reason
from levelhead.data.entries import Array, Entries
from levelhead.errors import LevelheadError
from levelhead.files import cache_folder

CHUNK = 32  # neighbours that one thread decodes
VERSION = 3  # of the cached pixels: raise it when `decode` changes what it makes
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Decoded:
    """uint8 [N,H,W,C], uint64 [N]; the rows of broken images are zero."""

    images: Array
    digests: Array
    broken: dict[int, str]
    note: str = ""


def cores() -> int:
    """How many cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def on_all_cores(work: Callable[[int], T], n: int, progress: Progress | None = None) -> list[T]:
    """[work(0), ..., work(n - 1)] on a thread a core, neighbours together.

    OpenCV, Pillow and hashlib let go of the interpreter while they work on an image.
    """

    def some(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + CHUNK, n))]

    results: list[T] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as threads:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF, palettes, large images
        try:
            for part in threads.map(some, range(0, n, CHUNK)):
                results += part
                if progress is not None:
                    progress(len(results), n)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return results


def decode_split(
    entries: Entries,
    *,
    image_size: int | None,
    channels: int,
    resize: str,
    bits: int = 16,
    progress: Progress | None = None,
    cached: bool = True,
) -> Decoded:
    """Decode, resize and fingerprint one split; encoded images come from the cache if they can.

    Raises LevelheadError if `image_size` is None and the images differ in size. A cache that
    cannot be written costs nothing but the next run's time, and is told in `note`.
    """
    if entries.images is not None:
        return _arrays(entries.images, image_size, channels, resize, progress)
    assert entries.read is not None
    stamp = [VERSION, entries.ids, entries.read.stamp(), image_size, channels, resize]
    stamp += [bits] if bits != 16 else []
    key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]
    base = cache_folder() / "decoded" / key
    kept = _from_cache(base, len(entries)) if cached else None
    if kept is not None:
        if progress is not None:
            progress(len(entries), len(entries))
        return kept
    height, width = (image_size, image_size) if image_size else _native(entries, bits)
    shape = (len(entries), height, width, channels)
    part, part_side = (base.with_name(f"{key}.{os.getpid()}.{kind}") for kind in ("npy", "json"))
    images, why = None, ""
    try:
        if cached:
            try:
                images = _reserve(part, shape)
            except OSError as error:
                why = error.strerror or str(error)
        images = np.zeros(shape, np.uint8) if images is None else images
        digests, broken, lasting = _decode_into(images, entries, image_size, resize, bits, progress)
        if cached and lasting and not why:
            side = {
                "shape": shape,
                "digests": digests.tolist(),
                "broken": list(broken.items()),
                "checksum": _checksum(images),
            }
            try:
                part_side.write_text(json.dumps(side))
                os.replace(part, base.with_suffix(".npy"))
                os.replace(part_side, base.with_suffix(".json"))  # last: now the two files count
                return _from_cache(base, len(entries)) or Decoded(images, digests, broken)
            except OSError as error:
                why = error.strerror or str(error)
    finally:
        for file in (part, part_side):  # a mapped file lives on until it is let go
            with suppress(OSError):
                file.unlink()
    note = f"The decoded images are not kept in {base.parent} ({why})." if why else ""
    return Decoded(images, digests, broken, note)


def _arrays(
    images: Array, size: int | None, channels: int, resize: str, progress: Progress | None
) -> Decoded:
    """A split that is arrays already."""
    shape = (*(images.shape[1:3] if size is None else (size, size)), channels)
    same = images.shape[1:] == shape
    out = images if same else np.empty((len(images), *shape), np.uint8)

    def work(i: int) -> int:
        if not same:
            out[i] = fit(images[i], size, channels, resize)
        return digest(images[i])

    return Decoded(out, np.array(on_all_cores(work, len(images), progress), np.uint64), {})


def _native(entries: Entries, bits: int) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    assert entries.read is not None
    why = ""
    for i in range(len(entries)):
        try:
            height, width = pixels(entries.read(i), bits).shape[:2]
            return height, width
        except (Broken, OSError) as error:
            why = why or f"{entries.ids[i]}: {reason(error)}"
    raise LevelheadError(f"{why}; nor can any other image be read")


def _decode_into(
    images: Array,
    entries: Entries,
    size: int | None,
    resize: str,
    bits: int,
    progress: Progress | None,
) -> tuple[Array, dict[int, str], bool]:
    """Fill `images`; return digests, broken images, and whether that will be so next time."""
    digests = np.zeros(len(entries), np.uint64)
    read = entries.read
    assert read is not None

    def work(i: int) -> tuple[str, bool] | None:
        try:
            data = read(i)
        except OSError as error:
            return reason(error), False  # rights may be given, a disk may come back
        try:
            array = pixels(data, bits)
        except Broken as error:
            return reason(error), True
        digests[i] = digest(array)
        if size is None and array.shape[:2] != images.shape[1:3]:
            (h, w), (height, width) = array.shape[:2], images.shape[1:3]
            raise LevelheadError(
                f"{entries.ids[i]}: {w} x {h} pixels, but others have {width} x {height}; "
                "bring them to one size with --image-size"
            )
        images[i] = fit(array, size, images.shape[3], resize)
        return None

    results = dict(enumerate(on_all_cores(work, len(entries), progress)))
    faults = {i: fault for i, fault in results.items() if fault}
    return digests, {i: why for i, (why, _) in faults.items()}, all(x for _, x in faults.values())


def _reserve(path: Path, shape: tuple[int, ...]) -> Array:
    """A new .npy of zeros, memory-mapped. Raises OSError if the disk has no room for it.

    The room is taken at once: a write to a map on a full disk would kill the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.*.npy"):  # by runs that were killed
        if time.time() - left.stat().st_mtime > 86_400:
            left.unlink()
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    elif shutil.disk_usage(path.parent).free < 1.1 * images.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return images


def _from_cache(base: Path, n: int) -> Decoded | None:
    """What an earlier run kept, or None if it is not there, not whole, or has changed since."""
    try:
        side = json.loads(base.with_suffix(".json").read_text())
        # Copy on write: torch warns of arrays that it may not write to.
        images = np.load(base.with_suffix(".npy"), mmap_mode="c")
        digests = np.array(side["digests"], np.uint64)
        broken = {int(i): str(why) for i, why in side["broken"]}
        whole = list(images.shape) == side["shape"] and len(images) == n == len(digests)
        if whole and images.dtype == np.uint8 and _checksum(images) == side["checksum"]:
            return Decoded(images, digests, broken)
    except Exception:  # whatever lies there: a cache is only a cache
        return None
    return None


def _checksum(images: Array) -> str:
    """CRC-32 of each 16 MB, on all cores: what fell to zeros or was changed is noticed."""
    data = memoryview(images.reshape(-1))  # type: ignore[arg-type]
    pieces = range(0, len(data), 1 << 24)
    with ThreadPoolExecutor(cores()) as threads:
        sums = threads.map(lambda start: zlib.crc32(data[start : start + (1 << 24)]), pieces)
        return " ".join(f"{value:08x}" for value in sums)
