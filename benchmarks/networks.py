"""Every network on CIFAR-10 at 32 px: what it costs, how right it is, how far it can be believed.

    python benchmarks/networks.py cifar10/ runs/networks [--only minigooglenet resnet18] [--table]

Trains each network once (seed 0) as PLANS says, into runs/networks/NAME, and prints one Markdown
table: parameters, multiply-accumulates, where it was trained, images a second and minutes there,
test accuracy and smooth calibration error before and after temperature with 95 % intervals, and the
accuracy that was published. The same command goes on where it stopped; --table prints what is
there and trains nothing. Of one seed: intervals hold for this network alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from levelhead.files import read_json
from levelhead.models.describe import describe
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.studies.workers import Job, carry_on
from levelhead.text import interval_text

LONG: dict[str, Any] = {"schedule": "polynomial", "warmup": 0.15}
WINDOWS: dict[str, Any] = {**LONG, "epochs": 14, "window": 24}
PLANS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {},
    "lecture_cnn": {"image_size": 64},
    "cnn": {},
    "alexnet": {"epochs": 20},
    "fast": {},
    "resnet20": {"epochs": 14},
    "minigooglenet": WINDOWS,
    "nin": {**LONG, "epochs": 30, "window": 24},
    "mobilenet": WINDOWS,
    "vgg16": {**LONG, "epochs": 12},
    "resnet18": {**LONG, "epochs": 30, "window": 24},
}
"""What is scaled down to two cores: the recipes' lengths (ResNet-18 takes hours even so). googlenet
(36 images/s here), resnet34 (57) and resnet56 are left out for their hours."""
PUBLISHED = {
    "linear": "about 38",
    "alexnet": "86.8",
    "fast": "94.0",
    "resnet20": "91.25",
    "minigooglenet": "89.05–89.31",
    "nin": "89.6–91.2",
    "mobilenet": "93.9",
    "vgg16": "92.6",
    "resnet18": "93–95",
}
"""Accuracy %: the lecture's; Müller et al. 2019; Jordan 2024; He et al. 2016; Zhang et al. 2017;
Lin et al. 2013; public re-implementations of MobileNetV2, VGG16 and ResNet-18 for 32 px."""


def row(name: str, run: Run) -> list[str]:
    """A network's cells."""
    found, size = run.findings, run.data["image_size"]
    described = describe(name, image_size=size, classes=10)
    rate, environment = found["images_per_second"], read_json(run.folder / "environment.json")
    on_cpu = environment["device"] == "cpu"

    def cell(stage: str, metric: str, digits: int, scale: float = 1.0) -> str:
        entry = found[stage]["metrics"][metric]
        ends = (scale * entry[end] for end in ("value", "low", "high"))
        return interval_text(*ends, digits=digits)

    return [
        f"`{name}`" + ("" if size == 32 else f" at {size} px"),
        f"{described.parameters:,}",
        f"{described.macs / 1e6:,.1f}",
        f"{environment['threads']} CPU threads" if on_cpu else environment["machine"],
        "–" if rate is None else f"{rate:,.0f}",
        f"{found['seconds'] / 60:.0f}",
        f"{run.recipe.epochs}",
        cell("test", "accuracy", 1, 100),
        cell("test", "smece", 3),
        cell("test_calibrated", "smece", 3),
        PUBLISHED.get(name, "–"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        for name in options.only:
            recipe = Recipe(options.data, model=name, **PLANS[name])
            run = carry_on(Job(name, recipe, options.out / name))
            print(name, f"{run.findings['seconds'] / 60:.0f} min", flush=True)
    runs = {name: Run(options.out / name) for name in PLANS}
    header = [
        "", "parameters", "MACs, millions", "trained on", "images/s", "minutes", "epochs",
        "accuracy, %", "smECE", "smECE after T", "published, %",
    ]  # fmt: skip
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for name, run in runs.items():
        if run.finished:
            print(f"| {' | '.join(row(name, run))} |")


if __name__ == "__main__":
    main()
