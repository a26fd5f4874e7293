"""Reading one encoded image right, whatever its mode.

Pillow reads every header. Plain 8-bit RGB and grey images are then decoded by OpenCV (faster,
the same pixels), all others by Pillow. Colour profiles are not applied; CMYK in a JPEG is taken to
be inverted, as Adobe writes it and browsers read it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, BinaryIO, Literal

import numpy as np

from levelhead.data.entries import Array
from levelhead.machine import memory

MOST_PIXELS = 178_956_970
"""Images with more pixels than this are refused by their header (a decompression bomb)."""
BYTES_A_PIXEL = 24
"""What decoding takes: four channels, a copy on white, the result, and what libraries keep."""
# Pillow's other formats run helper programs (EPS) or are no images one trains on.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"}
)
"""Endings (lower case) of the files that are taken for images."""
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of grey images of more than 8 bits."""
GREY = {"1", "L", "LA", "La"} | DEEP


class Broken(Exception):
    """Why one image cannot be read (without its name)."""


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(stream: BinaryIO) -> Any:
    """Pillow's lazy image: only the header is read. Raises Broken."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(stream, formats=_formats())
    except Image.DecompressionBombError:
        raise Broken(f"more than {MOST_PIXELS:,} pixels (a decompression bomb?)") from None
    except UnidentifiedImageError:
        stream.seek(0)
        raise Broken("not an image" if stream.read(1) else "empty file") from None
    except Exception as error:  # a damaged header can raise nearly anything
        raise Broken(f"damaged header ({error})") from None
    if image.width * image.height > (most := _most_pixels()):
        why = "a decompression bomb?" if most == MOST_PIXELS else "what this memory allows"
        raise Broken(f"{image.width} x {image.height} is more than {most:,} pixels ({why})")
    return image


@cache
def _most_pixels() -> int:
    """Pixels of one image, while as many others are decoded as there are cores."""
    return min(MOST_PIXELS, memory() // (2 * BYTES_A_PIXEL * (os.cpu_count() or 1)))


def _turned(image: Any, data: bytes) -> bool:
    """Whether EXIF says that the image is to be turned or mirrored."""
    if image.format == "PNG" and b"eXIf" not in data:
        return False  # Pillow would decode the image to look for it
    try:
        return bool(image.getexif().get(0x0112, 1) not in (0, 1))
    except Exception:  # damaged EXIF: the pixels may still be good
        return False


def _plain(image: Any, data: bytes) -> bool:
    """Whether OpenCV reads this image like Pillow does, and would notice if it were cut off."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    if image.format == "JPEG":  # older OpenCV paints what is missing of a JPEG grey, silently
        return data.endswith(b"\xff\xd9")
    if image.format == "PNG":
        return data[24] == 8 and data.endswith(b"IEND\xaeB`\x82")
    return bool(image.format == "WEBP")


def _is_deep(image: Any) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))


def _convert(image: Any, bits: int) -> Array:
    """Pillow's image -> uint8 [H,W] or [H,W,3]; transparent pixels lie on white."""
    from PIL import Image

    if _is_deep(image):
        values: Array = np.asarray(image).astype(np.int64) >> (bits - 8)
        return values.clip(max=255).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise Broken("32-bit pixels, whose range nothing tells; save as 8 or 16 bit")
    grey = image.mode in GREY
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(image.getchannel("R") if grey else image.convert("RGB"))
    return np.asarray(image.convert("L" if grey else "RGB"))


def pixels(data: bytes, bits: int = 16) -> Array:
    """Decode one image: bytes -> uint8 [H,W] if it is grey, else [H,W,3] RGB, upright.

    Of 16-bit values that use the lowest `bits`, the 8 highest of these are kept. Raises Broken if
    the image is damaged, cut off, too large, or none at all.
    """
    import cv2
    from PIL import ImageOps

    with _open(io.BytesIO(data)) as image:
        turned = _turned(image, data)
        if not turned and _plain(image, data):
            flag = cv2.IMREAD_GRAYSCALE if image.mode == "L" else cv2.IMREAD_COLOR
            try:
                array = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
            except cv2.error:
                array = None  # Pillow will say why
            if array is not None and array.shape[1::-1] == image.size:
                return array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
        try:
            return _convert(ImageOps.exif_transpose(image) if turned else image, bits)
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"damaged or cut off ({error})") from None


def brightest(data: bytes) -> int:
    """The largest value of a 16-bit image, 0 of others. Raises Broken like `pixels`."""
    with _open(io.BytesIO(data)) as image:
        if not _is_deep(image):
            return 0
        try:
            return int(np.asarray(image).max())
        except Exception as error:
            raise Broken(f"damaged or cut off ({error})") from None


def header(stream: BinaryIO) -> tuple[str, int, int]:
    """(Pillow's mode, width, height) without decoding. A grey palette counts as L."""
    with _open(stream) as image:
        mode, palette = image.mode, image.palette
        if mode == "P" and palette is not None and palette.rawmode in ("RGB", None):
            colours = np.frombuffer(bytes(palette.palette), np.uint8)
            colours = colours[: len(colours) // 3 * 3].reshape(-1, 3)
            mode = "L" if (colours == colours[:, :1]).all() else mode
        return mode, image.width, image.height


def digest(array: Array) -> int:
    """64-bit BLAKE2b of the pixels and their shape; [H,W] and [H,W,1] are the same."""
    shape = "x".join(map(str, (*array.shape[:2], array.shape[2] if array.ndim == 3 else 1)))
    state = hashlib.blake2b(shape.encode(), digest_size=8)
    state.update(np.ascontiguousarray(array).data)
    return int.from_bytes(state.digest(), "little")


def fit(
    array: Array, size: int | None, channels: int, resize: Literal["crop", "squash"] | str
) -> Array:
    """Bring uint8 [H,W] or [H,W,C] to [size,size,channels] (None: keep the size).

    `crop` keeps the centre square, `squash` changes the proportions; see `resized`. Colour becomes
    luma (0.299 R + 0.587 G + 0.114 B), grey is repeated.
    """
    import cv2

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and channels == 1:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2GRAY)
    if size is not None and array.shape[:2] != (size, size):
        if resize == "crop":
            side = min(array.shape[:2])
            top, left = ((length - side) // 2 for length in array.shape[:2])
            array = array[top : top + side, left : left + side]
        array = resized(array, size)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], channels, axis=2)
    return array


def resized(array: Array, size: int) -> Array:
    """uint8 [H,W] or [H,W,C] -> uint8 [size,size] or [size,size,C], the same bits everywhere.

    Rows, then columns are multiplied by `resize_matrix`. Its entries are multiples of 1/8192 and
    rows are kept to a quarter of a level, so that every sum is a whole number below 2²⁴: exact in
    float32, in whatever order a library adds (`deploy.module.fitted` is the same in torch, ONNX
    holds that). Rounded half to even.
    """
    height, width = array.shape[:2]
    flat = array.reshape(height, -1)
    parts = []
    # A small file may be an image of 1 x 40,000,000 pixels: then a few rows of the result at once.
    step = max(1, min(size, HELD // flat.shape[1]))
    for first in range(0, size, step):
        end = min(first + step, size)
        rows = _multiplied(flat, size, first, end)
        np.rint(np.multiply(rows, 4, out=rows), out=rows)
        turned = rows.reshape(end - first, width, -1).transpose(1, 0, 2)
        columns = _multiplied(np.multiply(turned, 0.25, order="C").reshape(width, -1), size)
        exact = columns.reshape(size, end - first, -1).transpose(1, 0, 2)
        parts.append(np.rint(exact).clip(0, 255).astype(np.uint8))
    result = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return result[:, :, 0] if array.ndim == 2 else result


HELD = 1 << 25
"""Numbers of an image with new rows and old columns that are held at a time."""
LONG = 1 << 14
"""Pixels of an axis from which on the pieces of its matrix are not kept."""


def _multiplied(array: Array, size: int, first: int = 0, end: int | None = None) -> Array:
    """Rows `first` to `end` − 1 of `resize_matrix` times [N, M], float32, where it is not 0."""
    length, end = len(array), size if end is None else end
    product = np.empty((end - first, array.shape[1]), np.float32)
    whole = length < LONG and (first, end) == (0, size)
    pieces = _kept_pieces(length, size) if whole else _pieces(length, size, first, end)
    for place, start, part in pieces:
        here = array[start : start + part.shape[1]].astype(np.float32, copy=False)
        np.matmul(part, here, out=product[place - first : place - first + len(part)])
    return product


@lru_cache(maxsize=64)
def _kept_pieces(length: int, size: int) -> list[tuple[int, int, Array]]:
    return list(_pieces(length, size, 0, size))


def _pieces(length: int, size: int, first: int, end: int) -> Iterator[tuple[int, int, Array]]:
    """Sixteen rows of `resize_matrix` at a time (of a long axis one): the first, the first column
    not 0, those not 0."""
    rows = 16 if length < LONG else 1
    for place in range(first, end, rows):
        part = _rows(length, size, place, min(place + rows, end))
        yield place, part.start, part.entries


UNIT = 8192
"""Entries of `resize_matrix` are multiples of 1/UNIT."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a resize matrix: their columns from `start` on that are not all 0."""

    start: int
    entries: Array  # float32 [rows, columns]


def resize_matrix(length: int, size: int) -> Array:
    """What an axis of `length` pixels is multiplied by to have `size`: float32 [size, length].

    Shrinking averages the area that a new pixel covers (antialiased), enlarging is cubic with
    a = −0.75, the border repeated. Sums from the left are rounded, so that rows sum to exactly 1.
    """
    rows = _rows(length, size, 0, size)
    matrix = np.zeros((size, length), np.float32)
    matrix[:, rows.start : rows.start + rows.entries.shape[1]] = rows.entries
    return matrix


def _rows(length: int, size: int, first: int, end: int) -> Rows:
    """Rows `first` to `end` − 1 of `resize_matrix`."""
    new = np.arange(first, end, dtype=np.float64)[:, None]
    if length >= size:
        start, stop = first * length // size, -(-end * length // size)
        ends = np.arange(start, stop + 1, dtype=np.float64)[None]
        sums = np.rint(((ends * size - new * length) / length).clip(0, 1) * UNIT)
        shares: Array = np.diff(sums, axis=1) / UNIT
        return Rows(start, shares.astype(np.float32))
    at = ((2 * new + 1) * length - size) / (2 * size)
    base = np.floor(at)
    start, stop = max(int(base[0, 0]) - 1, 0), min(int(base[-1, 0]) + 3, length)
    old = np.arange(start, stop, dtype=np.float64)[None]
    matrix = np.zeros((len(new), stop - start))
    total, before = np.zeros_like(at), np.zeros_like(at)
    for tap in (-1, 0, 1, 2):
        distance = np.abs(at - base - tap)
        near = (1.25 * distance - 2.25) * distance * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        total = total + np.where(distance <= 1, near, far)
        upto = np.rint(total * UNIT)
        matrix += (old == (base + tap).clip(0, length - 1)) * (upto - before)
        before = upto
    return Rows(start, (matrix / UNIT).astype(np.float32))


def reason(error: Broken | OSError) -> str:
    """Why an image could not be read, without its name."""
    return str(error) if isinstance(error, Broken) else (error.strerror or str(error))
