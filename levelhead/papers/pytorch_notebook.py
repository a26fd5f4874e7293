"""A PyTorch notebook on label smoothing: torchvision's ResNet-18 on CIFAR-10, ε 0 against 0.1.

It prints no numbers and asks: what does smoothing change in loss and accuracy, what does greyscale
cost, what do first weights, are the two loss landscapes comparable?
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levelhead.papers.claims import contrast, of_seeds
from levelhead.papers.plan import Experiment, Found, Planned, by_field, paired, settings
from levelhead.papers.rows import ANY, Row, claim, missing
from levelhead.recipe import Recipe
from levelhead.report.run_page import curve_panels
from levelhead.runs import Run
from levelhead.statistics.measured import spread
from levelhead.studies.landscape import landscape

TITLE = "A PyTorch notebook on label smoothing"
EPSILON = 0.1
INITS = ("own", "kaiming", "xavier", "orthogonal", "normal")


def studies(data: Path, out: Path, full: bool) -> dict[str, Planned]:
    """The trainings by name: as in the notebook with `full`, else scaled down to two CPU cores.

    data: a folder that holds cifar10/.
    """
    cifar = str(data / "cifar10")
    # Its one-cycle schedule, meant for every step, is stepped once an epoch: the rate stays at the
    # start of the rise, 5e-2 / 25.
    notebook: dict[str, Any] = {
        "model": "torchvision:resnet18", "image_size": 32, "batch_size": 256,
        "optimizer": "adamw", "lr": 2e-3, "momentum": 0.9, "weight_decay": 1e-2,
        "schedule": "constant", "warmup": 0.0, "crop": 0, "flip": True,
        "policy": "autoaugment-cifar10",
    }  # fmt: skip
    resnet = Recipe(cifar, epochs=25 if full else 5, **notebook)
    small = resnet if full else Recipe(cifar, model="cnn", epochs=6)
    epsilons = {"smoothing": (0.0, EPSILON)}
    return {
        "notebook-resnet18": Planned(resnet, epsilons),
        "notebook-valleys": Planned(small, epsilons),
        "notebook-grey": Planned(small, {"grey": (False, True)}),
        "notebook-init": Planned(small, {"init": INITS}),
    }


def smoothing(studies: Mapping[str, Path]) -> Found:
    """ε 0 against 0.1: loss, accuracy, calibration, and the curves."""
    runs = settings(studies["notebook-resnet18"])
    pair = runs.get(EPSILON, []), runs.get(0.0, [])
    rows = [
        contrast("accuracy %, ResNet-18, ε 0.1 minus 0", pair, "accuracy", ANY, "asked", 2, 100),
        contrast("NLL, ResNet-18, ε 0.1 minus 0", pair, "nll", ANY, "asked", 3),
        contrast("ECE, ResNet-18, ε 0.1 minus 0", pair, "ece", ANY, "–", 3),
    ]
    for epsilon in (0.0, EPSILON):
        last = [run.history[-1]["validation_confidence"] for run in runs.get(epsilon, [])]
        rows.append(of_seeds(f"mean confidence %, ε = {epsilon:g}", last, ANY, "–", 1, 100))
    panels = {
        f"curves-resnet18-{name}": curve_panels(runs[epsilon][0])
        for name, epsilon in (("hard", 0.0), ("smoothed", EPSILON))
        if runs.get(epsilon)
    }
    return Found(rows, [], panels)


def valleys(studies: Mapping[str, Path]) -> Found:
    """Whether the loss landscapes of ε 0 and 0.1 are alike, along the same directions."""
    runs = settings(studies["notebook-valleys"])
    pairs = paired(runs.get(0.0, []), runs.get(EPSILON, []))
    rises: list[float] = []
    falls: list[float] = []
    words: list[str] = []
    panels: dict[str, Any] = {}
    for place, pair in enumerate(pairs):
        study = landscape(pair, grid=0 if place else 15)
        (apart,) = study.findings["differences"]
        rises.append(apart["rise"]["value"])
        falls.append(apart["fall"]["value"])
        if not place:
            words = [*study.words]
            panels = {"landscape": study.drawn, "landscapeplane": study.drawn}
    rows: list[Row] = []
    for what, values, digits, scale in (
        ("rise of NLL half a filter's length away, ε 0.1 minus 0", rises, 3, 1.0),
        ("fall of accuracy there, points, ε 0.1 minus 0", falls, 1, 100.0),
    ):
        if values:
            rows.append(claim(what, spread(values), ANY, "asked", digits, scale))
        else:
            rows.append(missing(what, "asked"))
    return Found(rows, words, panels)


def grey(studies: Mapping[str, Path]) -> Found:
    """What greyscale costs."""
    runs = by_field(studies["notebook-grey"], "grey", Run)
    pair = runs.get(True, []), runs.get(False, [])
    rows = [
        contrast("accuracy %, grey minus colour", pair, "accuracy", ANY, "asked", 2, 100),
        contrast("NLL, grey minus colour", pair, "nll", ANY, "–", 3),
    ]
    return Found(rows, [], {})


def first_weights(studies: Mapping[str, Path]) -> Found:
    """What first weights change, against the network's own."""
    runs = by_field(studies["notebook-init"], "init", Run)
    rows = [
        contrast(f"accuracy %, {name} minus own", (runs.get(name, []), runs.get("own", [])),
               "accuracy", ANY, "asked", 2, 100)
        for name in INITS[1:]
    ]  # fmt: skip
    return Found(rows, [], {})


EXPERIMENTS = {
    "smoothing": Experiment(
        "ResNet-18, ε 0 against 0.1", ("notebook-resnet18",), smoothing,
        "5 epochs instead of 25.",
    ),
    "landscape": Experiment(
        "Are the loss landscapes comparable?", ("notebook-valleys",), valleys, "`cnn`, 6 epochs.",
    ),
    "grey": Experiment("Greyscale against colour", ("notebook-grey",), grey, "`cnn`, 6 epochs."),
    "init": Experiment("First weights", ("notebook-init",), first_weights, "`cnn`, 6 epochs."),
}  # fmt: skip
