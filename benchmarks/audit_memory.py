"""The memory that `levelhead audit` takes for a file of logits that may be larger than memory.

python benchmarks/audit_memory.py                                # 4.0 GB, 1,000,000 × 1,000, npz
python benchmarks/audit_memory.py --examples 2000000 --classes 10
python benchmarks/audit_memory.py --examples 400000 --classes 100 --format csv

Writes a file of simulated logits, audits it with the command, and prints the largest anonymous
memory of that process (what no system can take away; pages of the file it can) beside the file's
size. Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

PIECE = 1 << 24  # scores made at once


def write_npz(path: Path, n: int, k: int) -> None:
    """Float32 logits [n, k] and labels, stored plainly, never held whole."""
    draw = np.random.default_rng(0)
    labels = draw.integers(k, size=n)
    step = max(1, PIECE // k)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("labels.npy", "w") as file:
            np.lib.format.write_array(file, labels)
        with archive.open("logits.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, k)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, n, step):
                file.write(logits(labels[start : start + step], k, draw).data)


def write_csv(path: Path, n: int, k: int) -> None:
    """The same as a table with a column a class."""
    draw = np.random.default_rng(0)
    step = max(1, PIECE // k // 16)
    with path.open("w") as file:
        file.write(",".join(f"c{j}" for j in range(k)) + ",label\n")
        for start in range(0, n, step):
            labels = draw.integers(k, size=min(step, n - start))
            table = np.column_stack([logits(labels, k, draw), labels])
            np.savetxt(file, table, ",".join(["%.4f"] * k + ["c%d"]))


def logits(labels: np.ndarray, k: int, draw: np.random.Generator) -> np.ndarray:
    """Float32 [n, k], about four in five right."""
    scores = 1.5 * draw.standard_normal((len(labels), k), dtype=np.float32)
    scores[np.arange(len(labels)), labels] += 3 if k <= 10 else 6
    return scores


def most_memory(words: list[str]) -> tuple[int, float]:
    """The largest anonymous memory of a command in bytes, and its seconds."""
    began, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "levelhead", *words], stdout=-3)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        held = [int(s.split()[1]) for s in status.splitlines() if s.startswith("RssAnon")]
        most = max([most, *held])
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(f"levelhead {' '.join(words)} ended with {process.returncode}")
    return most * 1024, time.perf_counter() - began


def main() -> None:
    """Write, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--format", choices=["npz", "csv"], default="npz")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in (1_000, asked.examples):  # what the program takes anyway, and with the file
            file = Path(folder) / f"{n}.{asked.format}"
            write = write_npz if asked.format == "npz" else write_csv
            write(file, n, asked.classes)
            kind = ["--logits"] if asked.format == "csv" else []
            most, seconds = most_memory(["audit", str(file), *kind, "--json"])
            size = file.stat().st_size
            print(
                f"{n:,} × {asked.classes:,}, {asked.format} of {size / 1e9:.3f} GB: at most "
                f"{most / 1e9:.2f} GB held ({most / size:.2f} of the file), {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
