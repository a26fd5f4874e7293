"""Files: written whole or not at all, read with an error that names them; hashes, locks, caches."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from levelhead.errors import CannotWrite, LevelheadError


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing of it, also where power fails.

    Raises CannotWrite when the disk is full, or the place is not to be written to.
    """
    try:
        _replace(path, content, lasting=True)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        fix = f"allow writing into {path.parent}" if denied else "free some space"
        raise CannotWrite(f"{path}: cannot be written ({error.strerror})", fix) from None


def write_cache(path: Path, content: bytes) -> bool:
    """Keep what can be made again, whole or not at all; False where the place does not allow it."""
    try:
        _replace(path, content, lasting=False)
    except OSError:
        return False
    return True


def _replace(path: Path, content: str | bytes, lasting: bool) -> None:
    # A name that nobody can have laid a link under.
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    # A name of bytes that are no UTF-8 (a lone surrogate) is escaped, which JSON reads back.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def clean(folder: Path) -> None:
    """Remove what a process that was killed while it wrote left in a folder."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            part.unlink()


@contextmanager
def reading(path: str | Path, fix: str) -> Iterator[None]:
    """Whatever goes wrong with a file that somebody else may have made becomes one line.

    Libraries raise nearly anything for damaged files; what is a LevelheadError passes as it is.
    """
    refuse_pipes(Path(path))
    try:
        yield
    except (LevelheadError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise LevelheadError(f"{error.filename or path}: no such file; check the path") from None
    except OSError as error:
        where = error.filename or path
        raise LevelheadError(
            f"{where}: cannot be read ({error.strerror or error}); {fix}"
        ) from None
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
        raise LevelheadError(
            f"{path}: damaged, or not what it should be ({reason}); {fix}"
        ) from None


def refuse_pipes(path: Path) -> None:
    """Raise LevelheadError for a pipe or a device: reading it might never end."""
    try:
        odd = path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return  # whoever opens it says why it cannot be
    if odd:
        raise LevelheadError(f"{path}: a pipe or device, no file; put the file there")


def refuse_address(text: str) -> None:
    """Raise LevelheadError for a web address given as a path (which loses a slash)."""
    if "://" in text or text.startswith(("http:/", "https:/")):
        raise LevelheadError(
            f"{text}: levelhead downloads nothing; fetch it, unpack it, and give its path"
        )


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for one process. Raises LevelheadError where another works on it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LevelheadError(
            f"{folder}: another process works on this {what}; wait for it, or stop it first"
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks, or a read-only one
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / ".lock").unlink()
        lock.release()


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader accepts: NaN and infinity are refused."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises LevelheadError if it is missing or damaged."""
    refuse_pipes(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LevelheadError(f"{path}: missing; {_remedy(path)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LevelheadError(
            f"{path}: cannot be read ({error}); restore it, or make it anew"
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises LevelheadError for anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise LevelheadError(f"{path}: holds no object; restore it, or make it anew")
    return value


def _remedy(path: Path) -> str:
    """What brings a missing file: training goes on, or whatever made the folder is run again."""
    if (path.parent / "recipe.toml").exists():
        return f"training has not finished: levelhead resume {path.parent}"
    return "give the folder that holds it, or make it anew"


def write_rows(path: Path, rows: list[Any], renamed: Mapping[str, str] | None = None) -> None:
    """Write a list of dataclasses as CSV; `renamed`: columns that are called otherwise there."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(rows[0])] if rows else []
    table = csv.writer(text, lineterminator="\n")
    table.writerow([(renamed or {}).get(name, name) for name in names])
    table.writerows(dataclasses.astuple(row) for row in rows)
    write(path, text.getvalue())


def cache_folder() -> Path:
    """`$LEVELHEAD_CACHE`, or the user's cache folder; not created here."""
    import platformdirs

    return Path(os.environ.get("LEVELHEAD_CACHE") or platformdirs.user_cache_dir("levelhead"))


CACHED = ("decoded", "features", "weights")
"""The folders in the cache: what is in others is not levelhead's."""


def cached() -> dict[str, tuple[int, int]]:
    """What lies in the cache: files and bytes by kind."""
    sizes = {}
    for kind in CACHED:
        files = [path for path in (cache_folder() / kind).glob("*") if path.is_file()]
        sizes[kind] = len(files), sum(path.stat().st_size for path in files)
    return sizes


def empty_cache() -> int:
    """Delete what the cache keeps; returns the bytes. What is in use stays until it is let go."""
    freed = 0
    for kind in CACHED:
        for path in (cache_folder() / kind).glob("*"):
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
    return freed
