"""Reading data: every source, every kind of image, the cache, and input that is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levelhead.data import LAYOUTS, load, load_images, scan
from levelhead.data.decode import Broken, digest, fit, header, pixels
from levelhead.errors import LevelheadError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
SMOOTH = cv2.resize(RGB[:4, :5], (40, 30), interpolation=cv2.INTER_CUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(array: np.ndarray = RGB) -> bytes:
    return encode(Image.fromarray(array), "PNG")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# One image, every mode ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_and_colour(kind: str) -> None:
    """Lossless images would not come back as they were saved."""
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind != "GIF":
        assert np.array_equal(pixels(encode(Image.fromarray(RGB), kind, **options)), RGB)
    grey = pixels(encode(Image.fromarray(GREY), kind, **options))
    wanted = GREY if kind not in ("WEBP", "GIF") else np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(grey, wanted) or np.array_equal(grey, GREY)


def test_one_bit() -> None:
    """A scanned black-and-white page would be read as 0 and 1, that is: black."""
    bits = GREY > 127
    assert np.array_equal(pixels(encode(Image.fromarray(bits), "PNG")), bits * np.uint8(255))


def test_palette() -> None:
    """Palette images would show indices instead of colours."""
    index = RNG.integers(0, 5, (9, 11), dtype=np.uint8)
    colours = RNG.integers(0, 256, (5, 3), dtype=np.uint8)
    image = Image.frombytes("P", (11, 9), index.tobytes())
    image.putpalette(colours.ravel().tolist())
    for kind in ("PNG", "GIF", "TIFF"):
        assert np.array_equal(pixels(encode(image, kind)), colours[index])
    clear = colours[index].copy()
    clear[index == 2] = 255
    assert np.array_equal(pixels(encode(image, "PNG", transparency=2)), clear)
    partly = bytes([255, 255, 51, 255, 255])  # an alpha for each colour: 51/255 = 1/5
    mixed = np.rint(colours[index] * 0.2 + 255 * 0.8)
    mixed = np.where((index == 2)[..., None], mixed, colours[index])
    assert np.abs(pixels(encode(image, "PNG", transparency=partly)) - mixed).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(kind: str) -> None:
    """What is transparent would show the hidden colour below it (often black)."""
    alpha = RNG.integers(0, 256, GREY.shape, dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    a = alpha[..., None] / 255
    got = pixels(encode(Image.fromarray(np.dstack([RGB, alpha])), kind, **options))
    assert np.abs(got - (RGB * a + 255 * (1 - a))).max() <= 1
    if kind != "WEBP":
        got = pixels(encode(Image.fromarray(np.dstack([GREY, alpha]), "LA"), kind))
        assert got.shape == GREY.shape
        assert np.abs(got - (GREY * a[..., 0] + 255 * (1 - a[..., 0]))).max() <= 1


def test_colour_key_of_png() -> None:
    """A PNG that names one colour as transparent would keep that colour."""
    for array, key in ((RGB, tuple(map(int, RGB[0, 0]))), (GREY, int(GREY[0, 0]))):
        got = pixels(encode(Image.fromarray(array), "PNG", transparency=key))
        same = (array == np.array(key)).all(-1) if array.ndim == 3 else array == key
        wanted = array.copy()
        wanted[same] = 255
        assert np.array_equal(got, wanted)


def test_cmyk() -> None:
    """Print colours would come out inverted, as they do where Adobe's marker is not heeded."""
    ink = RNG.integers(0, 256, (6, 7, 4), dtype=np.uint8)
    k = 1 - ink[..., 3:] / 255
    wanted = (255 - ink[..., :3].astype(float)) * k
    assert np.abs(pixels(encode(Image.fromarray(ink, "CMYK"), "TIFF")) - wanted).max() <= 2
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    adobe = encode(red, "JPEG", quality=95)
    assert b"Adobe" in adobe
    assert np.abs(pixels(adobe).astype(int) - [255, 0, 0]).max() <= 4
    inks = np.array([[[0, 255, 255, 0]] * 9, [[40, 90, 10, 60]] * 9] * 4, np.uint8)
    data = encode(Image.fromarray(np.repeat(inks, 8, 0), "CMYK"), "JPEG", quality=98)
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(pixels(data).astype(int) - other).max() <= 4


@pytest.mark.parametrize("kind", [".png", ".tiff", ".pgm"])
def test_sixteen_bit_grey(kind: str) -> None:
    """16-bit scans would be clipped to white instead of scaled."""
    deep = RNG.integers(0, 65536, (8, 9), dtype=np.uint16)
    ok, data = cv2.imencode(kind, deep)
    assert ok
    assert np.array_equal(pixels(data.tobytes()), deep >> 8)


def test_sixteen_bit_big_endian_and_colour() -> None:
    """The bytes of a 16-bit image would be swapped, or its colours clipped."""
    deep = RNG.integers(0, 65536, (8, 9), dtype=np.uint16)
    big = Image.frombytes("I;16B", (9, 8), deep.astype(">u2").tobytes())
    assert np.array_equal(pixels(encode(big, "TIFF")), deep >> 8)
    colour = RNG.integers(0, 65536, (8, 9, 3), dtype=np.uint16)
    _, data = cv2.imencode(".png", colour)
    assert np.array_equal(pixels(data.tobytes()), (colour >> 8)[:, :, ::-1])


def test_thirty_two_bits_are_refused() -> None:
    """Floating-point pixels, whose range is unknown, would become a black image."""
    data = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(Broken, match="32-bit"):
        pixels(data)


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(turn: int, kind: str) -> None:
    """Photos of a phone held upright would lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(SMOOTH)
    plain = pixels(encode(image, kind, **options))
    got = pixels(encode(image, kind, exif=exif, **options))
    assert np.array_equal(got, TURNS[turn](plain))


def test_gamma_chunk_is_not_applied() -> None:
    """OpenCV and Pillow would read one PNG as two different images."""
    data = png()
    data = data[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + data[33:]
    assert np.array_equal(pixels(data), RGB)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_same_pixels_as_pillow(height: int, width: int, kind: str, grey: bool, seed: int) -> None:
    """The fast way (OpenCV) would see other pixels than the slow one (Pillow)."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    array = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    image = Image.fromarray(array[:, :, 0] if grey else array)
    data = encode(image, kind)
    reference = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(data), reference)


# Broken images --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.booleans())
def test_truncated_jpeg(where: float, progressive: bool) -> None:
    """A half-downloaded JPEG would be trained on, its lower part grey."""
    data = encode(Image.fromarray(SMOOTH), "JPEG", quality=90, progressive=progressive)
    with pytest.raises(Broken):
        pixels(data[: int(where * (len(data) - 1))])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated_others(kind: str) -> None:
    """A half-downloaded image of another kind would pass."""
    data = encode(Image.fromarray(SMOOTH), kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(Broken):
            pixels(data[: int(share * len(data))])


def test_empty_text_and_foreign_files() -> None:
    """Files that are no images would raise whatever the decoder raises."""
    with pytest.raises(Broken, match="empty file"):
        pixels(b"")
    with pytest.raises(Broken, match="not an image"):
        pixels(b"hello world, this is text")
    with pytest.raises(Broken, match="not an image"):  # Pillow would start a helper program
        pixels(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_decompression_bomb(side: int) -> None:
    """A small file that unfolds to gigabytes would take all memory."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(Broken, match=r"178,956,970 pixels \(a decompression bomb"):
        pixels(data)


def test_garbage_never_escapes() -> None:
    """A flipped bit would raise an error that nobody catches."""
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        data = encode(Image.fromarray(SMOOTH), kind)
        for seed in range(40):
            rng = np.random.default_rng(seed)
            bad = bytearray(data)
            for at in rng.integers(0, min(len(bad), 200), 3):
                bad[at] = rng.integers(256)
            try:
                array = pixels(bytes(bad))
            except Broken:
                continue
            assert array.dtype == np.uint8


# Sizes and channels -----------------------------------------------------------------------------


def test_shrinking_averages() -> None:
    """Shrinking would skip pixels (aliasing) instead of averaging them."""
    array = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    wanted = array.reshape(4, 3, 4, 3, 3).astype(float).mean((1, 3))
    assert np.abs(fit(array, 4, 3, "crop") - wanted).max() <= 0.51


def test_crop_and_squash() -> None:
    """The crop would not be the middle, or squash would crop."""
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert (fit(wide, 5, 1, "crop") == 200).all()
    squashed = fit(wide, 6, 1, "squash")[:, :, 0]
    assert np.array_equal(squashed, np.tile([0, 0, 200, 200, 0, 0], (6, 1)))
    assert np.array_equal(fit(wide.T, 6, 1, "squash")[:, :, 0], squashed.T)
    # One side shrinks (and must average), the other grows.
    stripes = np.tile(np.array([0, 200], np.uint8), (2, 32))
    assert (np.abs(fit(stripes, 8, 1, "squash").astype(int) - 100) <= 1).all()


def test_enlarging_keeps_means() -> None:
    """Enlarged images would be shifted or dimmed."""
    big = fit(np.full((4, 4, 3), 77, np.uint8), 9, 3, "crop")
    assert big.shape == (9, 9, 3)
    assert (big == 77).all()


def test_channels() -> None:
    """Colour to grey would not be luma, or grey to colour would tint."""
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(fit(RGB, None, 1, "crop")[:, :, 0] - luma).max() <= 1
    assert np.array_equal(fit(GREY, None, 3, "crop"), np.repeat(GREY[..., None], 3, 2))


def test_digest() -> None:
    """Images of the same bytes but other shapes would count as copies."""
    flat = np.arange(36, dtype=np.uint8)
    shapes = [(6, 6), (4, 9), (9, 4), (4, 3, 3), (3, 4, 3)]
    assert len({digest(flat.reshape(shape)) for shape in shapes}) == len(shapes)
    assert digest(flat.reshape(6, 6)) == digest(flat.reshape(6, 6, 1))
    assert digest(RGB) == digest(np.asfortranarray(RGB))


# Sources ----------------------------------------------------------------------------------------


def test_digits() -> None:
    """The embedded digits would not be scikit-learn's, scaled to bytes."""
    from sklearn.datasets import load_digits

    listing = scan("digits")
    assert (listing.size, listing.channels, listing.source) == (8, 1, "digits")
    data = load(listing, image_size=None, channels=1)
    images = data.splits["train"].images[..., 0]
    assert np.array_equal(np.rint(images / 255 * 16), load_digits().images)
    assert np.array_equal(data.splits["train"].labels, load_digits().target)
    assert load(listing, image_size=16, channels=3).splits["train"].images.shape[1:] == (16, 16, 3)


def test_folder_train_and_test(folder: Callable[..., Path]) -> None:
    """Classes, labels or ids of a folder of images would be mixed up."""
    root = folder({"train/dog": 3, "train/cat": 4, "test/cat": 2, "test/dog": 1})
    (root / "train" / "cat" / "more").mkdir()
    Image.fromarray(RGB).save(root / "train/cat/more/UPPER.JPG")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "README.txt").write_text("about")
    listing = scan(str(root))
    assert (listing.class_names, listing.name) == (("cat", "dog"), "photos")
    train, test = listing.splits["train"], listing.splits["test"]
    assert train.ids[4] == "train/cat/more/UPPER.JPG"
    assert (train.labels.tolist(), test.labels.tolist()) == ([0] * 5 + [1] * 3, [0, 0, 1])
    assert any("3 files" in note and "README.txt" not in note for note in listing.notes)
    data = load(listing, image_size=8, channels=3)
    wanted = fit(np.asarray(Image.open(root / test.ids[2])), 8, 3, "crop")
    assert np.array_equal(data.splits["test"].images[2], wanted)


def test_one_folder_of_classes(folder: Callable[..., Path], monkeypatch: Any) -> None:
    """Relative paths would not be followed, or numbered classes be sorted 0, 1, 10, 2."""
    root = folder({str(k): 2 for k in range(11)})
    monkeypatch.chdir(root.parent)
    listing = scan("photos")
    assert listing.source == str(root)
    assert listing.class_names == tuple(map(str, range(11)))
    assert list(listing.splits) == ["train"]


def test_val_is_the_test_set(folder: Callable[..., Path]) -> None:
    """train/ and val/ would leave no test set, silently."""
    listing = scan(str(folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})))
    assert list(listing.splits) == ["train", "test"]
    assert listing.splits["test"].ids[0].startswith("val/")
    assert any("taken as the test set" in note for note in listing.notes)


@pytest.mark.parametrize("word", ["val", "valid", "Validation"])
def test_three_split_folders(folder: Callable[..., Path], word: str) -> None:
    """A validation folder by another name would be lost."""
    names = {f"{split}/{name}": 2 for split in ("train", word, "test") for name in "ab"}
    listing = scan(str(folder(names)))
    assert list(listing.splits) == ["train", "validation", "test"]


def test_a_class_called_train(folder: Callable[..., Path]) -> None:
    """A folder of vehicles (car, plane, train) would be taken for a split."""
    assert scan(str(folder({"car": 2, "train": 2}))).class_names == ("car", "train")


def test_splits_without_classes(folder: Callable[..., Path]) -> None:
    """train/ and test/ full of unsorted images would become the two classes."""
    root = folder({"train": 3, "test": 3})
    with pytest.raises(LevelheadError, match="a folder for each class"):
        scan(str(root))


def test_unlabelled_test_folder(folder: Callable[..., Path]) -> None:
    """A test/ without class folders (as in competitions) would stop the training."""
    listing = scan(str(folder({"train/a": 2, "train/b": 2, "test": 3})))
    assert list(listing.splits) == ["train"]
    assert "test/ has no class folders: it is not used." in listing.notes


TABLE = """path,label,group,split
a/0.png,x,p1,train
a/1.png,y,p1,train
b/0.png,x,p2,test
b/1.png,y,p3,test
"""


def test_table(folder: Callable[..., Path]) -> None:
    """labels.csv would be read wrongly, or class folders beside it be preferred."""
    root = folder({"a": 2, "b": 2})
    (root / "labels.csv").write_text("\ufeff" + TABLE, encoding="utf-8")
    listing = scan(str(root))
    assert listing.class_names == ("x", "y")
    assert listing.splits["train"].groups == ("p1", "p1")
    assert listing.splits["test"].ids == ("b/0.png", "b/1.png")
    assert listing.notes == ()  # all images of the folders are the table's
    assert scan(str(root / "labels.csv")).splits["test"].labels.tolist() == [0, 1]
    assert scan(str(root), group_column="label").splits["train"].groups == ("x", "y")
    (root / "labels.csv").write_text(TABLE.replace(",", ";"))
    assert scan(str(root)).splits["train"].ids == ("a/0.png", "a/1.png")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b/1.png", "b/9.png", "line 5: b/9.png is no file"),
        ("b/1.png", "a/0.png", "line 5: a/0.png stands already in line 2"),
        (",p3,", ",,", "line 5: no group"),
        ("p3,test", "p3,tset", "line 5: unknown split 'tset'"),
        ("path,", "place,", "no column of images .path. among place, label"),
        ("b/1.png,y", "b/1.png,z", "class 'z' has no image in train"),
        ("a/1.png,y", "a/1.png,x", "class 'y' has no image in train"),
    ],
)
def test_wrong_table(folder: Callable[..., Path], old: str, new: str, message: str) -> None:
    """A slip in labels.csv would not be told with its line."""
    root = folder({"a": 2, "b": 2})
    (root / "labels.csv").write_text(TABLE.replace(old, new))
    with pytest.raises(LevelheadError, match=message):
        scan(str(root))


def test_table_that_is_none(tmp_path: Path) -> None:
    """A spreadsheet renamed to .csv would give a traceback."""
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe\x00\x01,a\n")
    with pytest.raises(LevelheadError, match="not a CSV table in UTF-8"):
        scan(str(tmp_path))


def shard(
    path: Path, labels: list[Any], names: list[str] | None = None, rows: int = 4, **more: Any
) -> list[np.ndarray]:
    """Write one parquet shard of random WebP images in row groups of `rows`; return them."""
    rng = np.random.default_rng(len(str(path.name)) + len(labels))
    arrays = [rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in labels]
    images = [
        {"bytes": encode(Image.fromarray(a), "WEBP", lossless=True), "path": None} for a in arrays
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels), **more})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        told = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": told})
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path, row_group_size=rows)
    return arrays


@pytest.mark.parametrize("inside", ["", "data"])
def test_parquet(tmp_path: Path, inside: str) -> None:
    """Rows, names or ids of Hugging Face shards would be mixed up."""
    at = tmp_path / inside
    first = shard(at / "train-00000-of-00002.parquet", [0, 1] * 5, ["cat", "dog"])
    second = shard(at / "train-00001-of-00002.parquet", [1, 0, 1], ["cat", "dog"])
    shard(at / "test-00000-of-00001.parquet", [1, 0], ["cat", "dog"])
    shard(at / "validation-00000-of-00001.parquet", [1, 0], ["cat", "dog"])
    listing = scan(str(tmp_path))
    assert listing.class_names == ("cat", "dog")
    assert list(listing.splits) == ["train", "validation", "test"]
    assert listing.splits["train"].ids[11] == "train-00001-of-00002.parquet#1"
    assert listing.splits["train"].labels.tolist() == [0, 1] * 5 + [1, 0, 1]
    data = load(listing, image_size=None, channels=3)
    assert np.array_equal(data.splits["train"].images, np.stack(first + second))


def test_parquet_labels(tmp_path: Path) -> None:
    """Words and bare numbers as labels would not become classes, or lose their groups."""
    shard(tmp_path / "a" / "train.parquet", ["b", "a"], group=pa.array([7, 8]))
    listing = scan(str(tmp_path / "a"))
    assert (listing.class_names, listing.splits["train"].groups) == (("a", "b"), ("7", "8"))
    shard(tmp_path / "b" / "0000.parquet", [10, 9, 10])
    listing = scan(str(tmp_path / "b" / "0000.parquet"))
    assert (listing.class_names, listing.name) == (("9", "10"), "0000")
    assert listing.splits["train"].labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2], ["a", "b"], r"train.parquet#2: the label '2' is no class; .* 0 to 1"),
        ([0, 1, -2], ["a", "b"], "train.parquet#2: the label '-2' is no class"),
        ([0.5, 1.5], None, "label 0.5 of train.parquet#0 is no class"),
        ([0, 1], ["a", "a"], "two classes are called 'a'"),
        ([0, 1], ["a", "b", "c"], "2 training images for 3 classes"),
    ],
)
def test_wrong_parquet_labels(tmp_path: Path, labels: Any, names: Any, message: str) -> None:
    """A label that is no class would be trained on."""
    shard(tmp_path / "train.parquet", labels, names)
    with pytest.raises(LevelheadError, match=message):
        scan(str(tmp_path))


def test_wrong_parquet_files(tmp_path: Path) -> None:
    """Other tables, damaged shards and rows without bytes would give a traceback."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "train.parquet")
    with pytest.raises(LevelheadError, match=r"no column image\{bytes,path\} .columns: x"):
        scan(str(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LevelheadError, match=r"not a parquet file that can be read"):
        scan(str(tmp_path))
    images = [{"bytes": png(), "path": "a"}] * 3 + [{"bytes": None, "path": "b"}]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(LevelheadError, match=r"train.parquet#3: the row holds no bytes"):
        load(scan(str(tmp_path)), image_size=8, channels=3)


def test_each_row_group_is_read_once(tmp_path: Path, monkeypatch: Any) -> None:
    """Decoding would read a whole row group again for every image in it."""
    shard(tmp_path / "train.parquet", [0, 1] * 50, rows=5)
    listing = scan(str(tmp_path))
    reads = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, i, **more: reads.append(i) or plain(self, i, **more),
    )
    listing = scan(str(tmp_path))
    reads.clear()
    load(listing, image_size=4, channels=3)
    assert len(reads) <= 20 + 8  # the sample of `scan` may have left some in memory


def idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("dash", ["-", "."])
def test_idx(tmp_path: Path, gz: str, dash: str) -> None:
    """MNIST as its authors publish it would be read wrongly."""
    for split, n in (("train", 5), ("t10k", 3)):
        images = np.arange(n * 20, dtype=np.uint8).reshape(n, 4, 5)
        idx(tmp_path / f"{split}-images{dash}idx3-ubyte{gz}", images)
        idx(tmp_path / f"{split}-labels{dash}idx1-ubyte{gz}", np.arange(n, dtype=np.uint8) % 3)
    listing = scan(str(tmp_path))
    assert (listing.class_names, listing.size, listing.channels) == (("0", "1", "2"), 4, 1)
    data = load(listing, image_size=None, channels=1)
    assert np.array_equal(data.splits["test"].images, np.arange(60).reshape(3, 4, 5, 1))
    assert data.splits["test"].ids == ("test/0", "test/1", "test/2")


def test_wrong_idx(tmp_path: Path) -> None:
    """Cut-off, lying or label-less IDX files would give a traceback or wrong images."""
    file, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    idx(file, np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(LevelheadError, match="train-labels-idx1-ubyte: no such file"):
        scan(str(tmp_path))
    idx(labels, np.array([0, 1, 0], np.uint8))
    with pytest.raises(LevelheadError, match="train has 3 labels for 4 images"):
        scan(str(tmp_path))
    idx(labels, np.array([0, 1, 0, 1], np.uint8))
    whole = file.read_bytes()
    for bad in (whole[:-1], whole + b"x", whole[:7], b"", whole[:4] + b"\xff" * 12):
        file.write_bytes(bad)
        with pytest.raises(LevelheadError, match=r"train-images-idx3-ubyte: .*fetch it again"):
            scan(str(tmp_path))
    file.unlink()
    for bad in (gzip.compress(whole)[:-9], b"not gzip"):
        file.with_name(file.name + ".gz").write_bytes(bad)
        with pytest.raises(LevelheadError, match="damaged or cut off"):
            scan(str(tmp_path))


def test_npz(tmp_path: Path) -> None:
    """Arrays in an npz would be mixed up, or Keras's column of labels be refused."""
    images = RNG.integers(0, 256, (6, 5, 5), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "a.npz", images=images, labels=labels, classes=["x", "y", "z"])
    listing = scan(str(tmp_path / "a.npz"))
    assert (listing.name, listing.class_names) == ("a", ("x", "y", "z"))
    assert np.array_equal(listing.splits["train"].images, images[..., None])
    (tmp_path / "b").mkdir()
    both = {"x_train": images, "y_train": labels[:, None], "x_test": images, "y_test": labels}
    np.savez_compressed(tmp_path / "b" / "b.npz", **both, groups_train=list("aabbcc"))
    listing = scan(str(tmp_path / "b"))
    assert listing.splits["test"].labels.tolist() == labels.tolist()
    assert listing.splits["train"].groups == tuple("aabbcc")
    words = np.array(["up", "down"] * 3)
    np.savez(tmp_path / "c.npz", train_images=images, train_labels=words)
    assert scan(str(tmp_path / "c.npz")).class_names == ("down", "up")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4))}, "images without labels"),
        ({"images": np.zeros((2, 4, 4)), "labels": [0, 1]}, "images is float64; save uint8"),
        ({"images": np.zeros((2, 3, 4, 4), "u1"), "labels": [0, 1]}, "channels go last"),
        ({"images": np.zeros((2, 4, 4), "u1"), "labels": [0, 1, 1]}, "3 labels for 2 images"),
        ({"images": np.zeros((2, 4, 4), "u1"), "labels": [0.5, 1.0]}, "label 0.5 .* is no class"),
        ({"images": np.zeros((2, 4, 4), "u1"), "labels": [[1, 1], [1, 0]]}, "one 1 in each row"),
        (
            {"images": np.zeros((2, 4, 4), "u1"), "labels": [0, 7], "classes": ["a", "b"]},
            "train/1: the label '7' is no class; .* 0 to 1",
        ),
        ({"images": np.zeros((2, 4, 4), "u1"), "labels": [1, 1]}, r"only one class \(1\)"),
        ({"logits": np.zeros((2, 4))}, "no images"),
        (
            {"images": np.zeros((2, 4, 4), "u1"), "labels": np.array([{}, 1], object)},
            "Python objects, which are never loaded",
        ),
    ],
)
def test_wrong_npz(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """A wrong npz would be trained on, or would run code."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(LevelheadError, match=message):
        scan(str(tmp_path / "a.npz"))


def test_damaged_npz(tmp_path: Path) -> None:
    """A cut-off npz would give a traceback."""
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 4, 4), "u1"), labels=np.arange(9))
    whole = (tmp_path / "a.npz").read_bytes()
    for bad in (whole[:100], b"", b"text"):
        (tmp_path / "a.npz").write_bytes(bad)
        with pytest.raises(LevelheadError, match=r"a\.npz: not an npz that can be read"):
            scan(str(tmp_path / "a.npz"))


def test_names_longer_than_the_data(tmp_path: Path) -> None:
    """Ten images of two of ImageNet's thousand classes would train a thousand outputs."""
    images = RNG.integers(0, 256, (10, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[1, 3] * 5, classes=list("abcd"))
    listing = scan(str(tmp_path / "a.npz"))
    assert (listing.class_names, listing.splits["train"].labels.max()) == (("b", "d"), 1)
    assert "No image of class a, c: left out." in listing.notes


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 2, "b": 0}, "photos/b: no image in this class folder"),
        ({"a": 2}, r"only one class \(a\)"),
        ({"photos/a": 2, "photos/b": 2}, "did you mean .*photos/photos?"),
        (
            {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, "test/c": 1},
            "class 'c' has no image in train; add training",
        ),
        ({"test/a": 2, "test/b": 2}, "no train/ with a folder for each class"),
        ({"train/a": 1, "training/a": 1}, "train/ and training/ are both train; keep one"),
    ],
)
def test_wrong_folders(folder: Callable[..., Path], counts: dict[str, int], message: str) -> None:
    """Folders that cannot train a classifier would fail later, or worse, not at all."""
    with pytest.raises(LevelheadError, match=message):
        scan(str(folder(counts)))


def test_nothing_there(tmp_path: Path) -> None:
    """A wrong path would not be told together with what could be given."""
    with pytest.raises(LevelheadError, match="nowhere: no such file or folder; check the path"):
        scan(str(tmp_path / "nowhere"))
    with pytest.raises(LevelheadError, match="no data in a known layout") as error:
        scan(str(tmp_path))
    assert all(layout.words in str(error.value) for layout in LAYOUTS.values())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_permissions(folder: Callable[..., Path]) -> None:
    """A folder without read permission would pass for an empty one."""
    root = folder({"a": 2, "b": 2})
    (root / "b").chmod(0)
    try:
        with pytest.raises(LevelheadError, match=r"b: cannot be read .Permission denied"):
            scan(str(root))
    finally:
        (root / "b").chmod(0o755)


def test_unreadable_file(folder: Callable[..., Path], monkeypatch: Any) -> None:
    """An image without read permission would stop with a traceback, or stay broken for good."""
    root = folder({"a": 3, "b": 3})
    listing = scan(str(root))
    plain = Path.open

    def refuse(path: Path, *mode: str, **more: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(LevelheadError, match=r"^a/1.png: Permission denied .1 image more"):
            load(listing, image_size=8, channels=3)
        data = load(listing, image_size=8, channels=3, skip_broken=True)
    assert data.skipped == (("a/1.png", "Permission denied"), ("b/1.png", "Permission denied"))
    assert len(load(listing, image_size=8, channels=3).splits["train"]) == 6


# Loading and the cache --------------------------------------------------------------------------


def test_broken_pictures(folder: Callable[..., Path]) -> None:
    """Broken images would stop a run without a name, or be left out without a word."""
    root = folder({"a": 4, "b": 4})
    (root / "a" / "1.png").write_bytes(b"")
    (root / "b" / "2.png").write_bytes(b"only text")
    listing = scan(str(root))
    message = r"^a/1.png: empty file \(1 image more\); .*--skip-broken$"
    for _ in range(2):  # decoded, and from the cache
        with pytest.raises(LevelheadError, match=message):
            load(listing, image_size=8, channels=3)
        data = load(listing, image_size=8, channels=3, skip_broken=True)
        assert [name for name, _ in data.skipped] == ["a/1.png", "b/2.png"]
        train = data.splits["train"]
        assert len(train) == len(train.images) == len(train.digests) == 6
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        wanted = fit(np.asarray(Image.open(root / "b/3.png")), 8, 3, "crop")
        assert np.array_equal(train.images[-1], wanted)


def test_a_class_of_broken_pictures(folder: Callable[..., Path]) -> None:
    """Leaving out broken images would leave a class without any."""
    root = folder({"a": 2, "b": 1, "c": 2})
    (root / "b" / "0.png").write_bytes(b"")
    with pytest.raises(LevelheadError, match="no image of 'b' in train can be read"):
        load(scan(str(root)), image_size=8, channels=3, skip_broken=True)
    for file in root.glob("*/*.png"):
        file.write_bytes(b"text")
    with pytest.raises(LevelheadError, match=r"a/0.png: not an image; nor can any of 5 images"):
        scan(str(root))


def test_native_size(folder: Callable[..., Path]) -> None:
    """Images of several sizes would be stacked without being asked for one."""
    root = folder({"a": 2, "b": 2}, size=(12, 10))
    images = load(scan(str(root)), image_size=None, channels=3).splits["train"].images
    assert images.shape == (4, 12, 10, 3)
    assert np.array_equal(images[3], np.asarray(Image.open(root / "b/1.png")))
    Image.fromarray(RGB).save(root / "b" / "odd.png")
    with pytest.raises(
        LevelheadError, match=r"b/odd\.png: 17 x 13 pixels, but others have 10 x 12"
    ):
        load(scan(str(root)), image_size=None, channels=3)


def test_size_and_channels_of_a_sample(folder: Callable[..., Path]) -> None:
    """The size or colour on which the model is chosen would be wrong."""
    root = folder({"a": 2, "b": 3}, size=(50, 20))
    assert (scan(str(root)).size, scan(str(root)).channels) == (20, 3)
    for file in root.glob("*/*.png"):
        Image.open(file).convert("L").save(file)
    assert scan(str(root)).channels == 1
    Image.open(root / "b" / "0.png").convert("P").save(root / "b" / "0.png")  # a grey palette
    assert scan(str(root)).channels == 1


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(a.splits[s].images, b.splits[s].images) for s in a.splits) and (
        a.fingerprint == b.fingerprint
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def test_second_run_decodes_nothing(
    folder: Callable[..., Path], cache: Path, monkeypatch: Any
) -> None:
    """The second run would decode everything again."""
    listing = scan(str(folder({"train/a": 40, "train/b": 3, "test/a": 1, "test/b": 1})))
    seen: list[tuple[int, int]] = []
    first = load(listing, image_size=8, channels=3, progress=lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1] == (45, 45)
    assert not list(cache.glob("*.*.*"))

    def never(data: bytes) -> np.ndarray:
        raise AssertionError

    monkeypatch.setattr("levelhead.data.cache.pixels", never)
    second = load(listing, image_size=8, channels=3)
    assert same(first, second)
    assert isinstance(second.splits["train"].images, np.memmap)
    assert second.notes == ()


@pytest.mark.parametrize("damage", ["shorter", "empty", "gone", "garbage", "other"])
def test_damaged_cache_is_rebuilt(folder: Callable[..., Path], cache: Path, damage: str) -> None:
    """A half-written cache would be trained on, or stop every later run."""
    listing = scan(str(folder({"a": 4, "b": 3})))
    first = load(listing, image_size=8, channels=3)
    whole = {split: examples.images.copy() for split, examples in first.splits.items()}
    first.splits["train"] = first.splits["train"].take(np.arange(7))
    for file in cache.iterdir():
        data = file.read_bytes()
        if damage == "gone" and file.suffix == ".json":
            file.unlink()
        elif damage == "other" and file.suffix == ".npy":
            np.save(file, np.zeros((7, 8, 9, 3), np.uint8))
        elif damage in ("shorter", "empty", "garbage"):
            new = {"shorter": data[: len(data) // 2], "empty": b"", "garbage": b"x" * len(data)}
            file.write_bytes(new[damage])
    again = load(listing, image_size=8, channels=3)
    assert np.array_equal(again.splits["train"].images, whole["train"])
    assert again.fingerprint == first.fingerprint


def test_changed_picture_and_options(folder: Callable[..., Path], cache: Path) -> None:
    """An image that was replaced, or another size, would come stale from the cache."""
    root = folder({"a": 2, "b": 2})
    first = load(scan(str(root)), image_size=8, channels=3)
    shutil.copy(root / "b" / "1.png", root / "a" / "0.png")
    changed = load(scan(str(root)), image_size=8, channels=3)
    assert np.array_equal(changed.splits["train"].images[0], first.splits["train"].images[3])
    assert changed.fingerprint != first.fingerprint
    squashed = load(scan(str(root)), image_size=8, channels=3, resize="squash")
    assert not same(changed, squashed) or not np.array_equal(
        changed.splits["train"].images, squashed.splits["train"].images
    )
    assert load(scan(str(root)), image_size=8, channels=1).splits["train"].images.shape[3] == 1


def test_cache_that_cannot_be_written(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """A missing permission or a full disk would lose the work of decoding."""
    listing = scan(str(folder({"a": 2, "b": 2})))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "file" / "below"))
    blocked = load(listing, image_size=8, channels=3)
    assert any("not kept in" in note for note in blocked.notes)
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "good"))
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "posix_fallocate", full, raising=False)
        disk = load(listing, image_size=8, channels=3)
    assert any("No space left on device" in note for note in disk.notes)
    assert not list((tmp_path / "good" / "decoded").iterdir())
    good = load(listing, image_size=8, channels=3)
    assert same(blocked, good)
    assert same(disk, good)


FULL = """
import resource, sys
from levelhead.data import load, scan
listing = scan(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
data = load(listing, image_size=32, channels=3)
print(data.notes[0], data.splits["train"].images.shape)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits files as Linux does")
def test_file_size_limit(folder: Callable[..., Path], tmp_path: Path) -> None:
    """A write beyond what the disk allows would kill the process (a map has no error code)."""
    root = folder({"a": 2, "b": 2})
    environment = {**os.environ, "LEVELHEAD_CACHE": str(tmp_path / "limited")}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(root)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert "(4, 32, 32, 3)" in done.stdout


def test_loose_pictures(folder: Callable[..., Path]) -> None:
    """Images to predict on would be read otherwise than those trained on."""
    root = folder({"a": 2, "b": 2})
    (root / "a" / "1.png").write_bytes(b"")
    trained = load(scan(str(root)), image_size=8, channels=3, skip_broken=True).splits["train"]
    paths = sorted(root.glob("*/*.png"))
    examples, broken = load_images(paths, image_size=8, channels=3)
    assert np.array_equal(examples.images, trained.images)
    assert broken == ((str(paths[1]), "empty file"),)
    assert examples.ids == tuple(str(p) for i, p in enumerate(paths) if i != 1)


def test_no_torch() -> None:
    """`levelhead check` would wait seconds for torch, which it does not need."""
    code = (
        "import sys, levelhead.data.check, levelhead.data.splits\n"
        "assert not {'torch', 'cv2', 'PIL', 'pyarrow', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Real data --------------------------------------------------------------------------------------


def test_real_parquet(real_data: Callable[[str], Path]) -> None:
    """CIFAR-10's canonical order (on which human labels hang) or MNIST would be read wrongly."""
    listing = scan(str(real_data("cifar10")))
    assert {s: len(e) for s, e in listing.splits.items()} == {"train": 50_000, "test": 10_000}
    assert (listing.size, listing.channels, listing.class_names[3]) == (32, 3, "cat")
    human = pq.read_table(real_data("cifar10n") / "labels.parquet")["clean"].to_numpy()
    assert np.array_equal(listing.splits["train"].labels, human)
    read = listing.splits["train"].read
    assert read is not None
    for i in (0, 16_666, 16_667, 49_999):  # the ends of shards
        data = read(i)
        assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))
    listing = scan(str(real_data("mnist")))
    assert (listing.size, listing.channels) == (28, 1)
    assert np.bincount(listing.splits["test"].labels)[:2].tolist() == [980, 1135]


def test_real_photos(real_data: Callable[[str], Path]) -> None:
    """Real photos would be counted, cropped or decoded wrongly."""
    listing = scan(str(real_data("trashnet")))
    assert (listing.size, listing.channels) == (160, 3)
    assert np.bincount(listing.splits["train"].labels).tolist() == [322, 401, 328, 475, 386, 110]
    with (real_data("trashnet") / listing.splits["test"].ids[0]).open("rb") as file:
        assert header(file)[0] == "RGB"
