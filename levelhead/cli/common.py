"""What several commands share: flags, and results as JSON."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from levelhead.cli.flags import Parser
from levelhead.errors import LevelheadError


def add_out(parser: Parser, told: str) -> None:
    """`--out PATH`."""
    parser.add_argument("--out", metavar="PATH", help=told)


def add_json(parser: Parser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


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


def print_json(value: Any) -> None:
    """Print JSON that every reader accepts."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
