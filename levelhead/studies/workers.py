"""Trainings side by side, each in a process of its own with its share of the cores.

Threads wait for each other at every layer, processes do not (benchmarks/jobs.py times both ways).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from levelhead.data.entries import Dataset
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.text import duration
from levelhead.training.events import Event, Note
from levelhead.training.run import resume, train
from levelhead.translation.train_translator import resume_translator, train_translator
from levelhead.translation.translation_recipe import TASK, TranslationRecipe
from levelhead.translation.translation_run import TranslationRun

LATE = "not begun, the time is spent; the same command goes on"
CHILD = "import sys; from levelhead.studies.workers import child; sys.exit(child(sys.argv[1]))"


@dataclass(frozen=True)
class Job:
    """One training: what to call it, its recipe, its folder."""

    name: str
    recipe: Recipe | TranslationRecipe
    folder: Path


def carry_on(
    job: Job, data: Dataset | None = None, watch: Callable[[Event], None] = lambda event: None
) -> Run:
    """Train a job, or go on where it was stopped. Raises LevelheadError as `train` does."""
    assert isinstance(job.recipe, Recipe)
    if (job.folder / "recipe.toml").exists():
        return resume(job.folder, data=data, watch=watch)
    for part in job.folder.glob(".recipe.toml.*part"):  # stopped while it was being written
        part.unlink(missing_ok=True)
    return train(job.recipe, out=job.folder, data=data, watch=watch)


def carry_on_translator(
    job: Job, watch: Callable[[Event], None] = lambda event: None
) -> TranslationRun:
    """The same for a translator."""
    assert isinstance(job.recipe, TranslationRecipe)
    if (job.folder / "data.json").exists():
        return resume_translator(job.folder, watch=watch)
    for part in (*job.folder.glob(".*part"), job.folder / "recipe.toml"):
        part.unlink(missing_ok=True)  # stopped while it was being written
    (job.folder / "vocabulary.model").unlink(missing_ok=True)
    return train_translator(job.recipe, job.folder, watch=watch)


def side_by_side(
    jobs: Sequence[Job],
    at_once: int,
    deadline: float,
    watch: Callable[[Event], None],
) -> dict[Path, str]:
    """Train jobs in order, so many at once; returns by folder why some are not finished.

    None is begun that would end after `deadline` (by time.monotonic), going by the longest so far.
    """
    waiting = [*enumerate(jobs, 1)]
    running: dict[subprocess.Popen[bytes], tuple[Job, IO[bytes], float]] = {}
    failed: dict[Path, str] = {}
    longest = 0.0
    with contextlib.ExitStack() as stack:
        stack.callback(_end, running)
        while waiting or running:
            while waiting and len(running) < at_once:
                number, job = waiting.pop(0)
                began = time.monotonic()
                if began + longest > deadline:
                    failed[job.folder] = LATE
                    continue
                watch(Note(f"{job.name} ({number} of {len(jobs)})"))
                words = stack.enter_context(tempfile.TemporaryFile())
                running[_start(job, at_once, words)] = job, words, began
            for process in [p for p in running if p.poll() is not None]:
                job, said, began = running.pop(process)
                took = time.monotonic() - began
                if process.returncode:
                    failed[job.folder] = _why(process.returncode, said)
                    watch(Note(f"{job.name} failed: {failed[job.folder]}"))
                else:
                    longest = max(longest, took)
                    watch(Note(f"{job.name}: trained in {duration(took)}"))
            time.sleep(0.1)
    return failed


def child(folder: str) -> int:
    """What a process does: train the recipe that comes in, in that folder."""
    text, where = sys.stdin.read(), f"{folder}/recipe.toml"
    try:
        if f'task = "{TASK}"' in text:
            own = TranslationRecipe.from_toml(text, where)
            carry_on_translator(Job(folder, own, Path(folder)))
        else:
            carry_on(Job(folder, Recipe.from_toml(text, where), Path(folder)))
    except LevelheadError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _start(job: Job, at_once: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    # The library of this process, whatever lies in the working folder (-P).
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, str(job.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": paths},
    )
    assert process.stdin is not None
    process.stdin.write(job.recipe.to_toml().encode())
    process.stdin.close()
    return process


def _why(code: int, said: IO[bytes]) -> str:
    """The refusal of a process, or that it died."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines() or ["no word"]
    return lines[-1] if code == 2 else f"its process ended with {code}: {lines[-1]}"


def _end(running: dict[subprocess.Popen[bytes], tuple[Job, IO[bytes], float]]) -> None:
    """Stopped: no process may go on alone. Checkpoints are kept."""
    for process in running:
        process.terminate()
    for process in running:
        process.wait()
