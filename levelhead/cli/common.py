"""What several commands share: flags, and results as JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from levelhead.cli.flags import Parser
from levelhead.errors import LevelheadError
from levelhead.text import printable


def add_out(parser: Parser, help_: str) -> None:
    """`--out PATH`."""
    parser.add_argument("--out", metavar="PATH", help=help_)


def add_json(parser: Parser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_quiet(parser: Parser) -> None:
    """`--quiet`."""
    parser.add_argument("--quiet", action="store_true", help="no progress, only notes and the end")


def add_device(parser: Parser) -> None:
    """`--device NAME`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")


def name_broken(broken: Iterable[tuple[str, str]]) -> None:
    """A line on standard error for each image that was left out: (path, why)."""
    for path, why in broken:
        print(f"levelhead: {printable(path)}: {why}; left out", file=sys.stderr)


def add_budget(parser: Parser) -> None:
    """`--budget MINUTES`."""
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="begin no training that would end later; judge what is there (default: no limit)",
    )


def add_jobs(parser: Parser) -> None:
    """`--jobs N`."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at once, each in a process with its share of the cores (default: 1)",
    )


def deadline(minutes: float) -> float:
    """`--budget` from now, by time.monotonic. Raises LevelheadError for what is no time."""
    if not minutes >= 0:
        raise LevelheadError(f"--budget {minutes}: must be 0 or more, for example 60")
    return time.monotonic() + 60 * minutes


class Result(Protocol):
    """What every command ends in: sentences, JSON, files."""

    @property
    def words(self) -> Sequence[str]: ...

    def to_json(self) -> dict[str, Any]: ...

    def save(self, folder: str | Path) -> None: ...


def deliver(
    result: Result,
    lines: Iterable[str],
    *,
    as_json: bool,
    folder: Path | None = None,
    write_pages: Callable[[Path], Any] = lambda folder: None,
    more: Mapping[str, Any] | None = None,
) -> int:
    """Save a result and its pages where there is a folder; print JSON (with `more`), or lines."""
    if folder is not None:
        result.save(folder)
        write_pages(folder)
    if as_json:
        print_json(result.to_json() | dict(more or {}))
    else:
        print("\n".join(lines))
    return 0


@contextmanager
def new_result_folder(options: Any, name: str) -> Iterator[Path | None]:
    """A new folder, made first: a place that cannot be is said before the work, not after.

    None for `--json` without `--out`, which only prints.
    """
    from levelhead.runs import new_folder

    if options.json and options.out is None:
        yield None
        return
    folder = new_folder(options.out, name)
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # only where nothing was written


def print_json(value: Any) -> None:
    """Print JSON that every reader accepts."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
