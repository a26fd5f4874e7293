"""What a person sees: notes and a line an epoch while it runs, tables and words at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from levelhead.train import Event


def watcher() -> Callable[[Event], None]:
    """A `watch` for train and compare: live lines on a terminal, a line now and then in a log."""
    from rich.console import Console

    from levelhead.train import Epoch, Note, Progress, Step

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    live = console.is_terminal
    last = 0.0

    def passing(text: str) -> None:
        """A line that the next one overwrites; in a log one every ten seconds."""
        nonlocal last
        now = time.monotonic()
        if live:
            if now - last > 0.1:
                last = now
                sys.stderr.write(f"\r\x1b[2K{text}"[: console.width + 5])
                sys.stderr.flush()
        elif now - last > 10:
            last = now
            console.print(text, markup=False)

    def lasting(text: str) -> None:
        if live:
            sys.stderr.write("\r\x1b[2K")
        console.print(text, markup=False)

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            lasting(event.text)
        elif isinstance(event, Progress):
            passing(f"{event.what}: {event.done:,} of {event.total:,}")
        elif isinstance(event, Step):
            left = event.images_left / max(event.images_per_second, 1e-9)
            passing(
                f"step {event.step:,} of {event.steps:,}: loss {event.loss:.4f}, "
                f"{event.images_per_second:,.0f} images/s, {duration(left)} left"
            )
        elif isinstance(event, Epoch):
            lasting(
                f"epoch {event.epoch:3}: train loss {event.train_loss:.4f}, "
                f"NLL {event.train_nll:.4f}, accuracy {event.train_accuracy:.4f}; "
                f"validation NLL {event.validation_nll:.4f}, "
                f"accuracy {event.validation_accuracy:.4f}; "
                f"{event.images_per_second:,.0f} images/s, {duration(event.seconds)}"
            )

    return watch


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(75)
    '1 min 15 s'
    >>> duration(4.2)
    '4 s'
    >>> duration(7300)
    '2 h 2 min'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def columns(header: list[str], rows: list[list[str]]) -> str:
    """A plain table: the first column left, numbers right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])

