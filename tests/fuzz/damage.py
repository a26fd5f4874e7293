"""Damage, seeded: bytes, tables, JSON and folders as disks, networks and people leave them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import struct
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = (
    *("", "nan", "inf", "-inf", "-1", "1e999", "99999999999999999999", "0x10", "NULL", "\0", " "),
    *("=1+1", "\x1b[31m", "\u202ecba", "Ü" * 300, '"', "'", ",", ";", "\t", "label", "id", "1,5"),
)
VALUES: tuple[Any, ...] = (None, [], {}, "", "x", -1, 0, 1e308, True, [None], {"a": {}}, 10**30)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that were cut off, zeroed, flipped, shifted, swapped or replaced."""
    n = len(data)
    if n == 0:
        return rng.bytes(5)
    a, b = sorted(int(x) for x in rng.integers(0, n + 1, 2))
    way = int(rng.integers(9))
    if way == 0:
        return data[:a]
    if way == 1:
        return data[:a] + bytes(b - a) + data[b:]
    if way == 2:
        out = bytearray(data)
        for i in rng.integers(0, n, int(rng.integers(1, 9))):
            out[i] ^= 1 << int(rng.integers(8))
        return bytes(out)
    if way == 3:
        return data[:a] + rng.bytes(int(rng.integers(1, 40))) + data[a:]
    if way == 4:
        return data[:a] + data[b:]
    if way == 5:
        return data[b:] + data[:b]
    if way == 6:
        return rng.choice([b"", b"\n", b"PK\x03\x04", b"\x93NUMPY", b"PAR1", b"\xff\xfe", b"{"])
    if way == 7:  # a number in a header
        out = bytearray(data)
        at = int(rng.integers(0, min(n, 400)))
        out[at : at + 8] = struct.pack("<q", int(rng.choice([-1, 0, 2**31, 2**62, 10**9])))
        return bytes(out[:n])
    return data + data[a:b]


def damaged_text(text: str, rng: np.random.Generator) -> str:
    """A table whose cells or lines were changed, lost, doubled or written otherwise."""
    lines = text.split("\n")
    i = int(rng.integers(len(lines)))
    cells = lines[i].split(",")
    way = int(rng.integers(7))
    if way == 0:
        cells[int(rng.integers(len(cells)))] = str(rng.choice(TOKENS))
        lines[i] = ",".join(cells)
    elif way == 1:
        del lines[i]
    elif way == 2:
        lines.insert(i, lines[int(rng.integers(len(lines)))])
    elif way == 3:
        lines[i] = ",".join(cells + [str(rng.choice(TOKENS))] * int(rng.integers(1, 4)))
    elif way == 4:
        return text.replace(",", str(rng.choice([";", "\t", " ", "|", ",,"])))
    elif way == 5:
        column, token = int(rng.integers(len(cells))), str(rng.choice(TOKENS))
        split = [line.split(",") for line in lines]
        for row in split[1:]:
            if column < len(row):
                row[column] = token
        lines = [",".join(row) for row in split]
    else:
        lines = lines[: max(1, i)]
    return "\n".join(lines)


def damaged_json(text: str, rng: np.random.Generator) -> str:
    """JSON in which one value, anywhere, is another."""
    tree = [json.loads(text)]
    node: Any = tree
    place: Any = 0
    while True:
        inside = node[place]
        keys = (
            list(inside)
            if isinstance(inside, dict)
            else list(range(len(inside)))
            if isinstance(inside, list)
            else []
        )
        if not keys or rng.random() < 0.3:
            break
        node, place = inside, keys[int(rng.integers(len(keys)))]
    if isinstance(node, dict) and rng.random() < 0.4:
        del node[place]
    else:
        node[place] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(tree[0])


def damage_file(path: Path, rng: np.random.Generator) -> str:
    """Damage a file in place; what was done, in words."""
    way = rng.random()
    if way < 0.06:
        path.unlink()
        return "removed"
    if way < 0.1:
        path.unlink()
        path.mkdir()
        return "a folder"
    if way < 0.12:
        path.unlink()
        os.mkfifo(path)
        return "a pipe"
    data = path.read_bytes()
    if path.suffix == ".json" and way < 0.7:
        with contextlib.suppress(ValueError):
            path.write_text(damaged_json(data.decode(), rng))
            return "another value"
    if path.suffix in (".csv", ".toml", ".txt") and way < 0.7:
        path.write_text(damaged_text(data.decode(errors="replace"), rng), errors="replace")
        return "another text"
    path.write_bytes(damaged(data, rng))
    return "other bytes"


class Slow(Exception):
    """It took longer than it may."""


@contextlib.contextmanager
def limited(seconds: int, folders: Sequence[Path] = ()) -> Iterator[None]:
    """Raise Slow where the block takes longer, also for pipes in `folders`."""

    def ring(*_: Any) -> None:
        raise Slow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    # A library that waits in C sees no signal: the pipes that it may read come to their end.
    ends = threading.Timer(seconds, _end_pipes, [folders])
    ends.daemon = True
    ends.start()
    signal.alarm(seconds)
    try:
        yield
    finally:
        ends.cancel()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _end_pipes(folders: Sequence[Path]) -> None:
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_fifo():
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def fault_of(words: list[str], seconds: int = 60) -> str | None:
    """Run a command in this process: what it did that no command may, or None.

    It may end well or with 2 and one line; nothing else.
    """
    from levelhead.cli import run

    out, err = io.StringIO(), io.StringIO()
    there = [
        folder for word in words for folder in (Path(word), Path(word).parent) if word[0] != "-"
    ]
    there = [folder for folder in there if folder.is_absolute() and folder.is_dir()]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            limited(seconds, there),
        ):
            code = run(words)
    except Slow as error:
        return str(error)
    except SystemExit as error:
        return None if error.code in (0, 2) else f"left with {error.code}"
    except BaseException:
        return traceback.format_exc()
    said = [line for line in err.getvalue().splitlines() if line.startswith("levelhead: ")]
    if code not in (0, 2):
        return f"left with {code}"
    if code == 2 and not said:
        return "left with 2 and no word"
    if any("\x1b" in line for line in [*said, *out.getvalue().splitlines()]):
        return "an escape sequence reached the terminal"
    return None


def predictions(folder: Path, rng: np.random.Generator, n: int = 60, k: int = 3) -> list[Path]:
    """Whole predictions in every format."""
    import pyarrow as pa
    from pyarrow import parquet

    from levelhead.outputs import Outputs

    folder.mkdir(parents=True, exist_ok=True)
    z = rng.normal(size=(n, k)).astype(np.float32)
    y = rng.integers(0, k, n)
    names = [f"c{i}" for i in range(k)]
    rows = [",".join(["id", *names, "label"])]
    rows += [",".join([f"{i}.png", *map(str, z[i]), names[y[i]]]) for i in range(n)]
    sure = ["prediction,confidence,label"]
    sure += [f"{names[z[i].argmax()]},{rng.random():.4f},{names[y[i]]}" for i in range(n)]
    (folder / "p.csv").write_text("\n".join(rows) + "\n")
    (folder / "confidence.csv").write_text("\n".join(sure) + "\n")
    np.savez(folder / "p.npz", logits=z, labels=y, classes=names)
    np.savez_compressed(folder / "packed.npz", logits=z, labels=y, ids=np.arange(n))
    table = pa.table({name: z[:, i] for i, name in enumerate(names)} | {"label": y})
    parquet.write_table(table, folder / "p.parquet")
    Outputs.from_logits(z, y, names).save(folder / "p.safetensors")
    return sorted(folder.iterdir())


def datasets(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Whole small data sets in every layout."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    def image(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)

    for split, n in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(n):
                image(folder / "folder" / split / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    for i in range(8):
        image(folder / "table" / "images" / f"{i}.png")
    lines = [f"images/{i}.png,{'cat' if i % 2 else 'dog'},g{i // 2},train" for i in range(8)]
    (folder / "table" / "labels.csv").write_text("path,label,group,split\n" + "\n".join(lines))
    x, y = rng.integers(0, 256, (12, 6, 6), dtype=np.uint8), np.arange(12) % 3
    (folder / "npz").mkdir()
    np.savez(folder / "npz" / "d.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    (folder / "idx").mkdir()
    head = bytes([0, 0, 8, 3]) + struct.pack(">III", *x.shape)
    (folder / "idx" / "train-images-idx3-ubyte").write_bytes(head + x.tobytes())
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", len(y)) + y.astype(np.uint8).tobytes()
    (folder / "idx" / "train-labels-idx1-ubyte").write_bytes(labels)
    out = []
    for i in range(12):
        stream = io.BytesIO()
        Image.fromarray(x[i]).save(stream, "PNG")
        out.append({"bytes": stream.getvalue(), "path": f"{i}.png"})
    (folder / "parquet").mkdir()
    parquet.write_table(
        pa.table({"image": out, "label": y}), folder / "parquet" / "train-0.parquet"
    )
    return sorted(folder.iterdir())


def photos(folder: Path, rng: np.random.Generator, n: int) -> Path:
    """A folder of three classes, train and test, n images each, hard to tell apart."""
    from PIL import Image

    for split in ("train", "test"):
        for name, mean in (("cat", 100), ("dog", 130), ("owl", 160)):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(mean, 60, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def one_damaged(whole: Path, into: Path, rng: np.random.Generator) -> str:
    """A copy of a file or folder in which one file is damaged; what was done to which."""
    if into.is_dir():
        shutil.rmtree(into)
    if whole.is_file():
        into.mkdir(parents=True)
        shutil.copy(whole, into / whole.name)
    else:
        shutil.copytree(whole, into)
    files = sorted(path for path in into.rglob("*") if path.is_file())
    chosen = files[int(rng.integers(len(files)))]
    return f"{chosen.relative_to(into)}: {damage_file(chosen, rng)}"
