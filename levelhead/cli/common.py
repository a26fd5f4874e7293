"""What several commands share: flags, and results as JSON."""

from __future__ import annotations

import json
from typing import Any

from levelhead.flags import Parser


def add_out(parser: Parser, told: str) -> None:
    """`--out PATH`."""
    parser.add_argument("--out", metavar="PATH", help=told)


def add_json(parser: Parser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def print_json(value: Any) -> None:
    """Print JSON that every reader accepts."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
