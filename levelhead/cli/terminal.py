"""What a person sees while it runs: notes, how far it is, a line an epoch; on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from levelhead.training.events import Event


EPOCHS_APART = 1.0
"""Seconds between two lines of epochs that stay: short ones would fill the screen."""
_DECODERS = re.compile(
    rb"libpng (error|warning): |(Corrupt|Premature end of) JPEG |Invalid SOS parameters|"
    rb"TIFF\w*: |\[ ?(WARN|ERROR):[\d.:@]+\] global .*(grfmt|loadsave|utils\.cpp)"
)
"""How lines begin that libraries print of a damaged image; levelhead's own sentence names it."""


def watcher(
    epochs: bool = True, quiet: bool = False, unit: str = "images"
) -> Callable[[Event], None]:
    """A `watch` for train and compare: a bar on a terminal, a line now and then in a log.

    Without `epochs` they get no lines, nor where they come faster than one a second. `quiet`: notes
    alone. `unit`: what an example is called.
    """
    from levelhead.text import duration
    from levelhead.training.events import Epoch, Note, Progress, Step

    passing, lasting = _lines()
    last = -EPOCHS_APART

    def watch(event: Event) -> None:
        nonlocal last
        if isinstance(event, Note):
            lasting(event.text)
        elif quiet:
            return
        elif isinstance(event, Progress):
            passing(event.what, event.done, event.total)
        elif isinstance(event, Step):
            left = event.images_left / max(event.images_per_second, 1e-9)
            speed = f"{event.images_per_second:,.0f} {unit}/s, {duration(left)} left"
            passing("step", event.step, event.steps, f"loss {event.loss:.4f}, {speed}")
        elif isinstance(event, Epoch):
            if not epochs or time.monotonic() - last < EPOCHS_APART:
                return
            last = time.monotonic()
            lasting(
                f"epoch {event.epoch:3}: train loss {event.train_loss:.4f}, "
                f"NLL {event.train_nll:.4f}, accuracy {event.train_accuracy:.4f}; "
                f"validation NLL {event.validation_nll:.4f}, "
                f"accuracy {event.validation_accuracy:.4f}; "
                f"{event.images_per_second:,.0f} {unit}/s, {duration(event.seconds)}"
            )

    return watch


def counter(what: str, rate: bool = False, quiet: bool = False) -> Callable[[int, int], None]:
    """A `progress(done, total)` that shows how far a stage is, and how fast (`rate`); `quiet`:
    shows nothing."""
    if quiet:
        return lambda done, total: None
    passing, _ = _lines()
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        speed = f"{done / max(time.monotonic() - began, 1e-9):,.0f} images/s" if rate else ""
        passing(what, done, total, speed)

    return progress


@contextlib.contextmanager
def without_decoders() -> Iterator[None]:
    """Leave out what C libraries write of damaged images, straight to the process's error output.

    Descriptor 2 is read through a pipe meanwhile, Python writes to where it led before. For the
    whole process, so for the command line alone; descriptor 2 is open there (`__main__`).
    """
    known = os.dup(2)
    end, start = os.pipe()
    os.dup2(start, 2)
    os.close(start)
    before = sys.stderr
    sys.stderr = io.TextIOWrapper(
        os.fdopen(os.dup(known), "wb"),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    reader = threading.Thread(target=_forward, args=(end, known), daemon=True)
    reader.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.close()
        sys.stderr = before
        os.dup2(known, 2)  # the pipe ends here, but for children that go on
        reader.join(1.0)
        if not reader.is_alive():
            os.close(known)


def _forward(end: int, known: int) -> None:
    """Lines of the pipe `end` to `known`, but for those of decoders."""
    with os.fdopen(end, "rb") as lines, contextlib.suppress(OSError):
        for line in lines:
            if not _DECODERS.match(line):
                os.write(known, line)


def end_bars() -> None:
    """Take away the bar of a stage that was broken off, so that a line may follow."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


class Passing(Protocol):
    """How far a stage is: its name, what is done of how much, and more words."""

    def __call__(self, what: str, done: int, total: int, more: str = "", /) -> None: ...


def _lines() -> tuple[Passing, Callable[[str], None]]:
    """Two writers: of how far a stage is, and of a line that stays (above the bar)."""
    return _bars() if sys.stderr.isatty() else _log()


def _log() -> tuple[Passing, Callable[[str], None]]:
    """In a file: a line every ten seconds."""
    last = time.monotonic()

    def passing(what: str, done: int, total: int, more: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            last = time.monotonic()
            text = f"{what} {done:,} of {total:,}" + (f": {more}" if more else "")
            print(text, file=sys.stderr, flush=True)

    return passing, lambda text: print(text, file=sys.stderr, flush=True)


def _bars() -> tuple[Passing, Callable[[str], None]]:
    """On a terminal: a bar a stage, gone when the stage is done."""
    from tqdm import tqdm

    bar: Any = None

    def passing(what: str, done: int, total: int, more: str = "") -> None:
        nonlocal bar
        if bar is not None and (bar.desc != what or bar.total != total or done < bar.n):
            bar.close()
            bar = None
        if bar is None:
            shape = "{desc} {n_fmt} of {total_fmt}{postfix} |{bar}|"
            bar = tqdm(
                desc=what, total=total, file=sys.stderr, leave=False, bar_format=shape,
                ncols=shutil.get_terminal_size().columns,  # also where the terminal says 0
            )  # fmt: skip
        bar.set_postfix_str(more, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            bar = None

    def lasting(text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    return passing, lasting
