"""A study one training after the other, and side by side: the same trainings, timed in turn.

    LEVELHEAD_DATA=FOLDER python benchmarks/jobs.py --jobs 2

Each way is a process of its own, judging included; images are read (and cached) before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from levelhead.recipe import Recipe
from levelhead.training.prepare import prepare


def timed(words: list[str], jobs: int, folder: Path) -> float:
    """Seconds that a study takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "levelhead", "compare", *words, "--jobs", str(jobs)]
    subprocess.run(
        [*command, "--out", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main() -> None:
    """Time both ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    found = parser.parse_args()
    data = Path(os.environ["LEVELHEAD_DATA"]) / "cifar10"
    prepare(Recipe(str(data), model=found.model))
    words = [str(data), "--model", found.model, "--epochs", str(found.epochs), "--window", "0"]
    words += ["--smoothing", "0", "0.1", "--seeds", str(max(1, found.jobs // 2))]
    many = 2 * max(1, found.jobs // 2)
    print(f"{many} trainings of {found.model}, {found.epochs} epochs of CIFAR-10")
    with tempfile.TemporaryDirectory() as place:
        for repeat in range(found.repeats):
            one, several = (
                timed(words, jobs, Path(place) / f"{repeat}-{jobs}") for jobs in (1, found.jobs)
            )
            ratio = one / several
            print(
                f"one by one {one:.0f} s, {found.jobs} at once {several:.0f} s: ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
