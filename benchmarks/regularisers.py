"""What each regulariser buys on CIFAR-10, and what it does to confidence.

    python benchmarks/regularisers.py cifar10/ runs/regularisers [--images 5000] [--seeds 3]

One network (cnn: three convolutions) on some of the images, so that there is something to
overfit, as many more for validation, and the whole test set: trained plainly, then with one thing
more at a time: dropout, L1, L2, crop and mirror, a published policy, mixup, CutMix, cutout, label
smoothing, half and twice the width. SGD with momentum, for L2 to be L2. The same command goes on
where it stopped. Differences are paired by example and seed; ECE beside the temperature that
validation asks for (above 1: over-confident) and ECE after it. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from levelhead.data import from_arrays
from levelhead.recipe import Recipe
from levelhead.statistics.measured import Measured
from levelhead.studies.settings import Cell, Setting, changes, judged
from levelhead.studies.workers import Job, carry_on
from levelhead.text import interval_text
from levelhead.training.prepare import prepare
from levelhead.training.run_data import stratified

PLAIN: dict[str, Any] = {
    "model": "cnn", "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0, "dropout": 0.0, "crop": 0,
    "flip": False, "batch_size": 128,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout .2": {"dropout": 0.2},
    "dropout .5": {"dropout": 0.5},
    "L1 1e-5": {"l1": 1e-5},
    "L1 1e-4": {"l1": 1e-4},
    "L2 5e-4": {"weight_decay": 5e-4},
    "L2 5e-3": {"weight_decay": 5e-3},
    "crop 4, mirror": {"crop": 4, "flip": True},
    "TrivialAugment": {"policy": "trivialaugment"},
    "cutout 8": {"cutout": 8},
    "mixup .2": {"mix": "mixup"},
    "CutMix 1": {"mix": "cutmix"},
    "smoothing .1": {"smoothing": 0.1},
    "half the width": {"width": 16},
    "twice the width": {"width": 64},
}


def cell(measured: Measured, digits: int, scale: float = 1.0) -> str:
    """A number with its interval."""
    value, low, high = (
        None if x is None else scale * x for x in (measured.value, measured.low, measured.high)
    )
    return interval_text(value, low, high, digits=digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    plain = Recipe("arrays", epochs=options.epochs, validation=0.5, **PLAIN)
    _, read = prepare(Recipe(options.data, model="cnn"))
    some = stratified(read.train.labels, 2 * options.images)
    data = from_arrays(
        read.train.images[some], read.train.labels[some], class_names=read.class_names,
        test=(read.test.images, read.test.labels),
    )  # fmt: skip
    groups: dict[str, list[Any]] = {name: [] for name in SETTINGS}
    for seed in range(options.seeds):  # a whole table after each seed
        for name, fields in SETTINGS.items():
            recipe = plain.replace(seed=seed, **fields)
            folder = name.replace(" ", "-").replace(",", "")
            run = carry_on(Job(name, recipe, options.out / folder / f"seed-{seed}"), data)
            groups[name].append(judged(Cell(name, fields, seed, folder, run.recipe), run))
            print(name, seed, f"{run.findings['seconds']:.0f} s", flush=True)
    settings = [Setting(tuple(group)) for group in groups.values()]
    gains = {
        (change.setting, change.metric): change.difference
        for change in changes(settings)
        if change.kind == "raw" and change.baseline == "plain"
    }
    print("| | accuracy % | against plain | NLL | ECE | temperature | ECE after it | s |")
    print("|---|---|---|---|---|---|---|---|")
    for one in settings:
        gain = gains.get((one.name, "accuracy"))
        seconds = sum(c.findings["seconds"] for c in one.cells) / len(one.cells)
        cells = [
            one.name,
            cell(one.mean("raw", "accuracy"), 1, 100),
            "–" if gain is None else cell(gain, 1, 100),
            cell(one.mean("raw", "nll"), 3),
            cell(one.mean("raw", "ece"), 3),
            cell(one.temperature(), 2),
            cell(one.mean("calibrated", "ece"), 3),
            f"{seconds:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
