"""Time the judge beside torchmetrics, netcal, probmetrics and relplot, in one run.

python benchmarks/audit.py                  # 1,000,000 × 10 and 50,000 × 1,000 logits
python benchmarks/audit.py --quick          # tries the script out; the figures mean nothing

Simulated overconfident logits. Each task is done by all in turn, `--repeats` times; the median
counts. A peer does the part of a task that it can. Memory is that of a process of its own that maps
the logits from a file and judges them: its largest anonymous memory beyond that after the imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from levelhead import Outputs, judge
from levelhead.calibrators import Temperature
from levelhead.machine import import_torchvision
from levelhead.metrics import METRICS, reason

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_torchvision()
    import netcal.metrics
    import netcal.scaling
    import relplot
    from probmetrics.calibrators import get_calibrator
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
    )

Task = dict[str, Callable[[], object]]


def simulated(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, k] float32 that are twice too large, and labels; about four in five right."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n,), generator=draw)
    logits = torch.randn(n, k, generator=draw)
    logits[torch.arange(n), labels] += 3.0 if k <= 10 else 4.5
    return 4 * logits, labels


def tasks(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Task]:
    """What is timed: by task, the one side and the others. The first is levelhead's."""
    k = logits.shape[1]
    p, y = torch.softmax(logits, 1), labels
    p_array, p_double, y_array = p.numpy(), p.double().numpy(), y.numpy()
    top, right = p.amax(1).numpy(), (p.argmax(1) == y).numpy().astype(float)

    def ours(names: list[str]) -> dict[str, object]:
        outputs = Outputs.from_logits(logits, labels)
        chosen = [METRICS[n] for n in names if reason(METRICS[n], outputs) is None]
        return {m.name: m.value(m.prepare(outputs)) for m in chosen}

    def three() -> None:
        probabilities = torch.softmax(logits, 1)
        multiclass_accuracy(probabilities, y, k, average="micro")
        multiclass_calibration_error(probabilities, y, k, n_bins=15)
        torch.nn.functional.cross_entropy(logits, y)

    def ts_mix() -> None:
        get_calibrator("ts-mix").fit(p_array, y_array)

    def classic() -> None:
        """Guo's own: L-BFGS on the temperature."""
        t = torch.ones(1, requires_grad=True)
        optimiser = torch.optim.LBFGS([t], lr=0.01, max_iter=50)

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits / t, y)
            loss.backward()
            return loss

        optimiser.step(closure)

    every = list(METRICS)
    return {
        "all point metrics": {
            f"levelhead, {len(ours(every))} metrics": lambda: ours(every),
            "torchmetrics accuracy and ECE, torch cross-entropy": three,
        },
        "accuracy, NLL, ECE": {
            "levelhead": lambda: ours(["accuracy", "nll", "ece"]),
            "torchmetrics and torch": three,
        },
        "ECE": {
            "levelhead": lambda: ours(["ece"]),
            "torchmetrics": lambda: multiclass_calibration_error(p, y, k, n_bins=15),
            "netcal": lambda: netcal.metrics.ECE(15).measure(p_array, y_array),
        },
        "smooth ECE": {
            "levelhead": lambda: ours(["smece"]),
            "relplot": lambda: relplot.smECE(top, right),
        },
        "temperature": {
            "levelhead": lambda: Temperature.fit(logits, labels),
            "probmetrics ts-mix": ts_mix,
            # On float32 netcal 1.4 stays at T = 1.
            "netcal, float64": lambda: netcal.scaling.TemperatureScaling().fit(p_double, y_array),
            "torch L-BFGS, 50 steps": classic,
        },
        "all metrics with intervals, 1,000 resamples": {
            "levelhead": lambda: judge(Outputs.from_logits(logits, labels)),
        },
    }


def timed(task: Task, repeats: int) -> dict[str, float]:
    """Median seconds of each side, in turn; what takes above 20 s is done once."""
    seconds: dict[str, list[float]] = {name: [] for name in task}
    for _ in range(repeats):
        for name, work in task.items():
            if seconds[name] and seconds[name][0] > 20:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                begin = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


MEASURE = """
import json, sys, threading, time
from pathlib import Path
import levelhead.judging, levelhead.metrics, scipy.special, torch
from levelhead import judge, read_predictions
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
judge(levelhead.Outputs.from_logits(torch.eye(4), range(4)))
start = most = anonymous()
done = False
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
judge(read_predictions(sys.argv[1]))
done = True; thread.join()
print(json.dumps(most - start))
"""


def memory(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Largest anonymous memory of judging a mapped file, in sizes of its logits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        Outputs.from_logits(logits, labels).save(path)
        words = [sys.executable, "-c", MEASURE, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) / (logits.numel() * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    found = parser.parse_args()
    sizes = [(20_000, 10), (2_000, 100)] if found.quick else [(1_000_000, 10), (50_000, 1_000)]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
    for task in tasks(*simulated(1_000, 10)).values():  # whatever is imported or compiled at first
        timed(task, 1)
    for n, k in sizes:
        logits, labels = simulated(n, k)
        print(f"\n| {n:,} × {k:,} | | seconds | of levelhead's |\n|---|---|---|---|")
        for name, task in tasks(logits, labels).items():
            seconds = timed(task, found.repeats)
            first = next(iter(seconds.values()))
            for side, value in seconds.items():
                print(f"| {name} | {side} | {value:.3f} | {value / first:.2f} |", flush=True)
        if Path("/proc/self/status").exists():
            print(
                f"| memory beyond the mapped logits | levelhead | {memory(logits, labels):.2f} × |"
            )


if __name__ == "__main__":
    main()
