"""A Keras notebook on label smoothing: MiniGoogLeNet on CIFAR-10, by labels and by the loss.

After Rosebrock 2019, "Label smoothing with Keras, TensorFlow, and deep learning": smoothing of 0.1
once as explicit labels (accuracy 0.89), once inside the loss (0.90), with a momentum of 0.7 and of
0.9. It leaves open what the two differ by, and why the validation loss lies below the training
loss although the training accuracy is the higher one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levelhead.figures import curves
from levelhead.files import read_json
from levelhead.metrics import METRICS
from levelhead.papers.claims import contrast, of_seeds
from levelhead.papers.plan import Experiment, Found, Planned, by_field, settings
from levelhead.papers.rows import ABOVE, ANY, Row, claim, missing
from levelhead.recipe import Recipe
from levelhead.report.run_page import curve_panels
from levelhead.runs import Run
from levelhead.statistics.measured import mean
from levelhead.studies.qualities import by_seed

TITLE = "A Keras notebook on label smoothing"
ACCURACY = METRICS["accuracy"].quantity
EPSILON = 0.1
SHIFTS: dict[str, Any] = {"crop": 0, "shift": 0.1, "fill": "nearest", "flip": True}


def studies(data: Path, out: Path, full: bool) -> dict[str, Planned]:
    """The trainings by name: as in the notebook with `full`, else scaled down to two CPU cores.

    data: a folder that holds cifar10/.
    """
    cifar = str(data / "cifar10")
    schedule: dict[str, Any] = {"schedule": "polynomial", "power": 1.0}
    large = Recipe(cifar, model="minigooglenet", smoothing=EPSILON, **schedule)
    if full:
        own: dict[str, Any] = {
            "optimizer": "sgd", "lr": 5e-3, "batch_size": 8, "weight_decay": 0.0, "warmup": 0.0,
            "epochs": 32, **SHIFTS,
        }  # fmt: skip
        large = small = large.replace(**own)
        slow = large
    else:
        large = large.replace(epochs=14, warmup=0.15, window=24)
        small = Recipe(cifar, model="cnn", smoothing=EPSILON, epochs=6, **schedule, **SHIFTS)
        slow = small.replace(optimizer="sgd", lr=5e-3, weight_decay=0.0, batch_size=32, warmup=0.0)
    return {
        "notebook-minigooglenet": Planned(large, {}),
        "notebook-targets": Planned(small, {"targets": ("loss", "explicit")}),
        "notebook-momentum": Planned(slow, {"momentum": (0.7, 0.9)}),
        "notebook-hard": Planned(small.replace(smoothing=0.0), {}),
        "notebook-two-classes": Planned(
            small.replace(classes=("cat", "dog"), epochs=3 * (small.epochs or 1)),
            {"smoothing": (0.0, EPSILON)},
        ),
    }


def accuracy(studies: Mapping[str, Path]) -> Found:
    """The accuracy of MiniGoogLeNet with smoothing, by a faster recipe."""
    runs = settings(studies["notebook-minigooglenet"]).get(EPSILON, [])
    what, words = "accuracy %, MiniGoogLeNet, ε = 0.1", "0.89 and 0.90: at least 89"
    if not runs:
        return Found([missing(what, words)], [], {})
    measured = mean(by_seed(runs, "accuracy"), ACCURACY)
    minutes = sum(run.findings["seconds"] for run in runs) / len(runs) / 60
    machines = {read_json(run.folder / "environment.json")["machine"] for run in runs}
    sentence = f"{minutes:.0f} minutes of training each, on {' and '.join(sorted(machines))}."
    rows = [claim(what, measured, (89.0, 100.0), words, 2, 100)]
    return Found(rows, [sentence], {"curves-minigooglenet": curve_panels(runs[0])})


def explicit(studies: Mapping[str, Path]) -> Found:
    """Smoothing as explicit labels against smoothing inside the loss."""
    runs = by_field(studies["notebook-targets"], "targets", Run)
    pair = runs.get("explicit", []), runs.get("loss", [])
    rows = [
        contrast("accuracy %, explicit labels minus loss", pair, "accuracy", (-0.005, 0.005),
               "−1 (0.89 − 0.90): ours within ±0.5", 2, 100),
        contrast("NLL, explicit labels minus loss", pair, "nll", (-0.01, 0.01),
               "ours within ±0.01", 4),
    ]  # fmt: skip
    return Found(rows, [], {})


def momentum(studies: Mapping[str, Path]) -> Found:
    """What the notebook's two runs differ by besides: momentum 0.9 against 0.7."""
    runs = by_field(studies["notebook-momentum"], "momentum", Run)
    pair = runs.get(0.9, []), runs.get(0.7, [])
    rows = [
        contrast("accuracy %, momentum 0.9 minus 0.7", pair, "accuracy", ABOVE,
               "above 0 (0.90 − 0.89, taken for the loss there)", 2, 100),
    ]  # fmt: skip
    return Found(rows, [], {})


def losses(studies: Mapping[str, Path]) -> Found:
    """The training loss beside the validation loss, and the floor of the one."""
    smoothed = by_field(studies["notebook-targets"], "targets", Run).get("loss", [])
    by_epsilon = settings(studies["notebook-hard"]) | ({EPSILON: smoothed} if smoothed else {})
    rows: list[Row] = []
    ends = {epsilon: [run.history[-1] for run in runs] for epsilon, runs in by_epsilon.items()}
    floor = curves.floor(EPSILON, 10)
    for epsilon, claimed, words in (
        (EPSILON, ABOVE, "above 0: validation loss below training loss"),
        (0.0, ANY, "–"),
    ):
        last = ends.get(epsilon, [])
        rows.append(
            of_seeds(f"training loss minus validation NLL, ε = {epsilon:g}",
                  [row["train_loss"] - row["validation_nll"] for row in last], claimed, words, 3)
        )  # fmt: skip
    last = ends.get(EPSILON, [])
    rows += [
        of_seeds("training NLL minus validation NLL, ε = 0.1, both plain",
              [row["train_nll"] - row["validation_nll"] for row in last], ANY, "–", 3),
        of_seeds("training accuracy minus validation accuracy, points, ε = 0.1",
              [row["train_accuracy"] - row["validation_accuracy"] for row in last], ABOVE,
              "above 0: normal under smoothing", 2, 100),
        of_seeds(f"training loss minus its floor of {floor:.3f} nats, ε = 0.1",
              [row["train_loss"] - floor for row in last], ABOVE, "above 0: no network goes below",
              3),
    ]  # fmt: skip
    panels = {"curves-smoothed": curve_panels(smoothed[0])} if smoothed else {}
    if hard := by_epsilon.get(0.0):
        panels |= {"curves-hard": curve_panels(hard[0])}
    return Found(rows, [], panels)


def two_classes(studies: Mapping[str, Path]) -> Found:
    """Smoothing in two classes, where ε/K and ε/(K−1) differ most."""
    runs = settings(studies["notebook-two-classes"])
    pair = runs.get(EPSILON, []), runs.get(0.0, [])
    sure = [run.history[-1]["validation_confidence"] for run in pair[0]]
    rows = [
        contrast("accuracy %, cat and dog, ε 0.1 minus 0", pair, "accuracy", ANY, "–", 2, 100),
        contrast("NLL, cat and dog, ε 0.1 minus 0", pair, "nll", ANY, "–", 3),
        contrast("ECE, cat and dog, ε 0.1 minus 0", pair, "ece", ANY, "–", 3),
        of_seeds("mean confidence %, ε = 0.1 (target of the right class: 95)", sure, ANY, "–", 1,
                 100),
    ]  # fmt: skip
    return Found(rows, [], {})


EXPERIMENTS = {
    "accuracy": Experiment(
        "Accuracy of MiniGoogLeNet", ("notebook-minigooglenet",), accuracy,
        "14 epochs in batches of 128 with momentum, crops and windows of 24 px at first, instead "
        "of 32 epochs in batches of 8; standardised by channel, where the notebook subtracts the "
        "mean image.",
    ),
    "explicit": Experiment(
        "Explicit labels and the loss are one thing", ("notebook-targets",), explicit,
        "`cnn`, 6 epochs.",
    ),
    "momentum": Experiment(
        "What told the notebook's two runs apart", ("notebook-momentum",), momentum,
        "`cnn`, 6 epochs of SGD at 5e-3 in batches of 32, instead of 8.",
    ),
    "losses": Experiment(
        "Validation loss below training loss", ("notebook-targets", "notebook-hard"), losses,
        "`cnn`, 6 epochs.",
    ),
    "two-classes": Experiment(
        "Two classes", ("notebook-two-classes",), two_classes,
        "`cnn`, 18 epochs of cats and dogs.",
    ),
}  # fmt: skip
