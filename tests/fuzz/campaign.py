"""The long pass: thousands of damaged inputs and run folders, hundreds of kills.

    python tests/fuzz/campaign.py --inputs 2000 --runs 600 --kills 200 --seed 0

Every damaged input has to end in a result or in one line with exit code 2; within 60 s and the
memory limit; every training that is killed has to end, by the same command or `resume`, in the
same weights, byte for byte. Prints each fault with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from damage import datasets, fault_of, one_damaged, photos, predictions

QUICK = ["--model", "mlp", "--width", "8", "--epochs", "3", "--batch-size", "16"]
QUICK += ["--validation", "0.3", "--device", "cpu"]


def inputs(n: int, seed: int, work: Path) -> Iterator[tuple[str, str | None]]:
    """Damaged predictions and data sets through the commands that read them."""
    whole = np.random.default_rng(seed)
    files = predictions(work / "predictions", whole)
    folders = datasets(work / "data", whole)
    for i in range(n):
        rng = np.random.default_rng([seed, 1, i])
        if rng.random() < 0.6:
            file = files[int(rng.integers(len(files)))]
            done = one_damaged(file, work / "one", rng)
            words = ["audit", str(work / "one" / file.name), "--json"]
            if file.suffix in (".csv", ".parquet"):
                words.append("--confidence" if file.stem == "confidence" else "--logits")
        else:
            folder = folders[int(rng.integers(len(folders)))]
            done = f"{folder.name}/{one_damaged(folder, work / 'one', rng)}"
            words = ["check", str(work / "one")]
        yield f"input {i} ({done}): levelhead {' '.join(words)}", fault_of(words)


def runs(n: int, seed: int, work: Path) -> Iterator[tuple[str, str | None]]:
    """Damaged run folders, finished and stopped, through the commands that take a run."""
    folder = photos(work / "photos", np.random.default_rng(seed), 40)
    finished, stopped = work / "finished", work / "stopped"
    assert fault_of(["train", str(folder), *QUICK, "--out", str(finished)]) is None
    _stop_after_an_epoch(["train", str(folder), *QUICK, "--out", str(stopped)])
    assert (stopped / "checkpoint" / "last.safetensors").exists()
    image = next(folder.rglob("*.png"))
    new = next(photos(work / "new", np.random.default_rng(seed + 1), 1).rglob("*.png"))
    commands = (
        *[["report"]] * 3, ["predict"], ["audit", "--json"], ["decide", "--json"],
        ["calibrate", "--json"], ["resume"], ["penultimate", "--json"], ["tradeoff", "--json"],
        *[["watch", "--json"]] * 2,
    )  # fmt: skip
    for i in range(n):
        rng = np.random.default_rng([seed, 2, i])
        name, *flags = commands[int(rng.integers(len(commands)))]
        done = one_damaged(stopped if name == "resume" else finished, work / "one", rng)
        more = {"predict": [str(image)], "watch": [str(new)]}.get(name, [])
        words = [name, str(work / "one"), *more, *flags]
        words += ["--out", str(work / "result")] if name in ("audit", "decide") else []
        shutil.rmtree(work / "result", ignore_errors=True)
        yield f"run {i} ({done}): levelhead {' '.join(words)}", fault_of(words)


def _stop_after_an_epoch(words: list[str]) -> None:
    """Train in this process, as if Ctrl-C came after the first epoch."""
    from levelhead.cli import run
    from levelhead.training import checkpoint, course

    whole = course.save_checkpoint

    def stop(*rest: Any) -> None:
        whole(*rest)
        raise KeyboardInterrupt

    course.save_checkpoint = stop
    try:
        assert run(words) == 130
    finally:
        course.save_checkpoint = checkpoint.save_checkpoint


def kills(n: int, seed: int, work: Path) -> Iterator[tuple[str, str | None]]:
    """Trainings killed at any moment, and what the next command makes of them."""
    folder = photos(work / "photos", np.random.default_rng(seed), 20)
    command = [sys.executable, "-m", "levelhead"]
    words = ["train", str(folder), *QUICK, "--out", str(work / "killed")]
    began = time.monotonic()
    subprocess.run([*command, *words], check=True, capture_output=True)
    whole = time.monotonic() - began
    wanted = _hash(work / "killed" / "model.safetensors")
    for i in range(n):
        rng = np.random.default_rng([seed, 3, i])
        shutil.rmtree(work / "killed", ignore_errors=True)
        after = float(rng.uniform(0.3, 1.05)) * whole
        process = subprocess.Popen([*command, *words], stdout=-3, stderr=-3)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        made = (work / "killed" / "recipe.toml").exists()
        again = ["resume", str(work / "killed")] if made else words
        end = subprocess.run([*command, *again], capture_output=True, text=True, check=False)
        fault = None
        if end.returncode:
            fault = end.stderr
        elif _hash(work / "killed" / "model.safetensors") != wanted:
            fault = "other weights"
        elif any((work / "killed").rglob("*.part")) or (work / "killed" / "checkpoint").exists():
            fault = "left something behind"
        yield f"kill {i} (after {after:.2f} s of {whole:.2f}): {again[0]}", fault


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def main() -> int:
    """Run the campaign; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=float, default=6.0, help="limit in GB (default: 6)")
    asked = parser.parse_args()
    limit = int(asked.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faults: Counter[str] = Counter()
    for part, n in ((inputs, asked.inputs), (runs, asked.runs), (kills, asked.kills)):
        began, name = time.monotonic(), part.__name__
        with tempfile.TemporaryDirectory() as folder:
            for i, (what, fault) in enumerate(part(n, asked.seed, Path(folder))):
                if i % 100 == 0:
                    print(f"{name}: {i} of {n}, {time.monotonic() - began:.0f} s", flush=True)
                if fault is not None:
                    faults[name] += 1
                    print(f"{what}\n{fault}\n", flush=True)
        print(f"{name}: {n}, faults {faults[name]}, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
