"""Files: written whole or not at all, read with an error that names them; where caches lie."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from levelhead.errors import CannotWrite, LevelheadError


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing of it. Raises CannotWrite when the disk is full."""
    try:
        _replace(path, content)
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror})") from None


def write_cache(path: Path, content: bytes) -> bool:
    """Keep what can be made again, whole or not at all; False where the place does not allow it."""
    try:
        _replace(path, content)
    except OSError:
        return False
    return True


def _replace(path: Path, content: str | bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader accepts: NaN and infinity are refused."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises LevelheadError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LevelheadError(f"{path}: missing; {_remedy(path)}") from None
    except (OSError, ValueError) as error:
        raise LevelheadError(
            f"{path}: cannot be read ({error}); restore it, or make it anew"
        ) from None


def _remedy(path: Path) -> str:
    """What brings a missing file: training goes on, or whatever made the folder is run again."""
    if (path.parent / "recipe.toml").exists():
        return f"training has not finished: levelhead resume {path.parent}"
    return "give the folder that holds it, or make it anew"


def write_rows(path: Path, rows: list[Any]) -> None:
    """Write a list of dataclasses as CSV."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(rows[0])] if rows else []
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(row) for row in rows)
    write(path, text.getvalue())


def cache_folder() -> Path:
    """`$LEVELHEAD_CACHE`, or the user's cache folder; not created here."""
    import platformdirs

    return Path(os.environ.get("LEVELHEAD_CACHE") or platformdirs.user_cache_dir("levelhead"))
