"""CIFAR-10 on this machine: levelhead against a plain notebook loop, interleaved in one run.

    LEVELHEAD_DATA=FOLDER python benchmarks/cifar10.py --seeds 3

FOLDER/cifar10 holds the parquet shards. The notebook loop and each training of levelhead run in
processes of their own, one after the other, so that neither slows the other down and each shows
its own memory. See benchmarks/README.md for what is timed and what is not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESULTS = Path(__file__).with_name("results")
NOTEBOOK_EPOCHS = 25
NOTEBOOK_BATCH = 256
WARM_UP = 5  # steps of a slice that are not timed


def main() -> None:
    """Run slices and trainings in turn, print what they gave, keep it as JSON."""
    given = arguments()
    folder = data_folder()
    if given.notebook:
        print(json.dumps(notebook(folder, given.slice)))
        return
    flags = given.flags.split()
    if given.quick:
        given.slice, flags = 5.0, ["--model", "linear", "--epochs", "2"]
        print("--quick: tries this script out; the figures mean nothing.\n")
    slices: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    slices.append(notebook_slice(given.slice))
    for seed in range(given.seeds):
        runs.append(training(folder, seed, flags))
        slices.append(notebook_slice(given.slice))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "flags": flags,
        "quick": given.quick,
        "notebook": slices,
        "levelhead": runs,
    } | summary(slices, runs)
    print("\n" + "\n".join(words(result)))
    RESULTS.mkdir(exist_ok=True)
    names = ["latest.json", *([f"cifar10-{result['date']}.json"] if given.save else [])]
    for name in names:
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nAll figures: benchmarks/results/{names[-1]}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of levelhead (default: 1)")
    parser.add_argument(
        "--slice", type=float, default=75.0, help="seconds of the notebook loop at a time, timed"
    )
    parser.add_argument(
        "--flags", default="--model fast --smoothing 0.2", help="flags of levelhead train"
    )
    parser.add_argument("--save", action="store_true", help="keep the JSON under its date, too")
    parser.add_argument("--quick", action="store_true", help="seconds long; to try the script out")
    parser.add_argument("--notebook", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.seeds < 1 or given.slice <= 0:
        parser.error("--seeds and --slice must be above 0")
    return given


def data_folder() -> Path:
    """Where CIFAR-10 lies; leaves with one line where it does not."""
    root = os.environ.get("LEVELHEAD_DATA", "")
    folder = Path(root) / "cifar10"
    if not root:
        sys.exit("LEVELHEAD_DATA is not set: name the folder that holds cifar10/ (parquet shards)")
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; put CIFAR-10's parquet shards there")
    return folder


@dataclass(frozen=True)
class Pictures:
    """Like torchvision's CIFAR10: arrays in memory, a PIL image at a time, then the transform."""

    images: np.ndarray
    labels: np.ndarray
    transform: Callable[[Image.Image], Any]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def notebook(folder: Path, seconds: float) -> dict[str, float]:
    """The loop that people write: its images a second over `seconds`, after a warm-up.

    torchvision's ResNet-18 at 32 px, float32, AutoAugment on PIL images in a 2-worker DataLoader,
    AdamW, smoothing 0.1. Nothing of levelhead is in it but the reading of the parquet shards,
    which is not timed, and the import of torchvision.
    """
    import torch
    from torch import nn

    from levelhead import data as datasets
    from levelhead.machine import import_torchvision

    import_torchvision()
    from torchvision import models, transforms

    examples = datasets.load(datasets.scan(str(folder)), image_size=None, channels=3).splits[
        "train"
    ]

    transform = transforms.Compose(
        [
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ]
    )
    pictures = Pictures(examples.images, examples.labels, transform)
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=NOTEBOOK_BATCH, shuffle=True, num_workers=2, drop_last=True
    )

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    model = models.resnet18(num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    running, seen, began = 0.0, 0, 0.0
    for step, (images, labels) in enumerate(batches()):
        if step == WARM_UP:
            began = time.perf_counter()
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
        if step >= WARM_UP:
            seen += len(images)
            spent = time.perf_counter() - began
            if spent >= seconds:
                break
    return {
        "images": seen,
        "seconds": round(spent, 3),
        "images_per_second": round(seen / spent, 1),
        "epoch_images": len(examples),
    }


def notebook_slice(seconds: float) -> dict[str, Any]:
    """`notebook` in a process of its own, with its peak memory."""
    print(f"notebook loop, {seconds:.0f} s … ", end="", flush=True)
    command = [sys.executable, __file__, "--notebook", "--slice", str(seconds)]
    output, memory = measured(command)
    found = json.loads(output) | {"peak_memory_bytes": memory}
    print(f"{found['images_per_second']:,.0f} images/s, {memory / 1e9:.2f} GB", flush=True)
    return found


def training(folder: Path, seed: int, flags: list[str]) -> dict[str, Any]:
    """One `levelhead train` in a process of its own: speed, memory, accuracy, history."""
    print(f"levelhead train {' '.join(flags)} --seed {seed} … ", end="", flush=True)
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / "run"
        command = [sys.executable, "-m", "levelhead", "train", str(folder), *flags]
        began = time.perf_counter()
        output, memory = measured([*command, "--seed", str(seed), "--out", str(out), "--json"])
        whole = time.perf_counter() - began
        with (out / "history.csv").open(encoding="utf-8") as file:
            history = [
                {name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)
            ]
    found = json.loads(output)
    run = {
        "seed": seed,
        "seconds": found["seconds"],
        "images_per_second": found["images_per_second"],
        "test_accuracy": found["test"]["metrics"]["accuracy"],
        "test_images": found["test"]["n"],
        "train_images": found["train"]["train"],
        "whole_command_seconds": round(whole, 1),
        "peak_memory_bytes": memory,
        "history": history,
    }
    print(
        f"{run['images_per_second']:,.0f} images/s, {memory / 1e9:.2f} GB, "
        f"test accuracy {run['test_accuracy']['value']:.2%} after {run['seconds']:.0f} s",
        flush=True,
    )
    return run


def measured(command: list[str]) -> tuple[str, int]:
    """Standard output of a command, and the peak resident memory of its largest process."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaints.seek(0)
            sys.exit(f"\n{complaints.read()[-2000:]}\n{' '.join(command)}: failed")
    return output, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What these figures were measured on."""
    import torch

    from levelhead.machine import environment

    known = environment(torch.device("cpu"))
    return {key: known[key] for key in ("levelhead", "git", "python", "torch", "machine", "cores")}


def summary(slices: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the whole is about; rates are means over slices and over runs."""
    plain = statistics.mean(found["images_per_second"] for found in slices)
    ours = statistics.mean(run["images_per_second"] for run in runs)
    extrapolated = NOTEBOOK_EPOCHS * slices[0]["epoch_images"] / plain
    return {
        "notebook_images_per_second": round(plain, 1),
        "levelhead_images_per_second": round(ours, 1),
        "ratio": round(ours / plain, 3),
        "levelhead_seconds": round(statistics.mean(run["seconds"] for run in runs), 1),
        "levelhead_test_accuracy": statistics.mean(r["test_accuracy"]["value"] for r in runs),
        f"notebook_{NOTEBOOK_EPOCHS}_epochs_seconds_extrapolated": round(extrapolated),
    }


def words(result: dict[str, Any]) -> list[str]:
    """The result, for a person."""
    slices, runs, known = result["notebook"], result["levelhead"], result["machine"]
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    lines = [
        f"{known['machine']}, {known['cores']} cores; torch {known['torch']}",
        "",
        f"{'':<12}{'images/s':>10}{'peak memory':>14}   (each in turn; of the largest process)",
    ]
    for name in ("notebook", "levelhead"):
        peak = max(one["peak_memory_bytes"] for one in result[name]) / 1e9
        each = ", ".join(f"{one['images_per_second']:,.0f}" for one in result[name])
        mean = result[f"{name}_images_per_second"]
        lines.append(f"{name:<12}{mean:>10,.0f}{peak:>11.2f} GB   ({each})")
    lines.append(f"{'ratio':<12}{result['ratio']:>10.2f}")
    rates = [one["images_per_second"] for one in slices]
    spread = max(rates) / min(rates)
    if spread > 1.2:
        lines.append(
            f"Careful: the fastest slice of the notebook is {spread:.1f} times the slowest: the "
            "machine was busy, believe neither rates nor ratio."
        )
    lines += [
        "",
        f"Accuracy against seconds of training (with validation), mean of {seeds}:",
        f"{'epoch':>8}{'seconds':>10}{'validation accuracy':>22}",
    ]
    for rows in zip(*(run["history"] for run in runs), strict=True):
        seconds = statistics.mean(row["seconds"] for row in rows)
        accuracy = statistics.mean(row["validation_accuracy"] for row in rows)
        lines.append(f"{rows[0]['epoch']:>8.0f}{seconds:>10.1f}{accuracy:>22.2%}")
    lines.append(
        f"{'test':>8}{result['levelhead_seconds']:>10.1f}{result['levelhead_test_accuracy']:>22.2%}"
        f"   (last weights, plain, {runs[0]['test_images']:,} images)"
    )
    for run in runs:
        accuracy = run["test_accuracy"]
        lines.append(
            f"  seed {run['seed']}: test accuracy {accuracy['value']:.2%}, 95 % interval "
            f"{accuracy['low']:.2%} to {accuracy['high']:.2%}, after {run['seconds']:.0f} s"
        )
    minutes = result[f"notebook_{NOTEBOOK_EPOCHS}_epochs_seconds_extrapolated"] / 60
    lines += [
        "",
        f"Extrapolated, not run: {NOTEBOOK_EPOCHS} epochs of the notebook loop would take "
        f"{minutes:.0f} minutes, without validation.",
    ]
    return lines


if __name__ == "__main__":
    main()
