"""A run or a study for TensorBoard: its course, figures, hyper-parameters and words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.metrics import HEADLINE
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.training.events import Epoch

FOLDER = "tensorboard"
"""Where it stands in the folder of a run or a study."""


def require() -> None:
    """Raise LevelheadError where TensorBoard is not installed."""
    _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise LevelheadError(
            "--tensorboard: needs the package tensorboard; pip install 'levelhead[tensorboard]'"
        ) from None
    return SummaryWriter


def scalars(folder: Path, epochs: int) -> Callable[[Epoch], None]:
    """What writes each epoch of a run that has so many behind it: what came after them is void."""
    purge = epochs + 1 if epochs else None
    kept = _writer_class()(str(folder / FOLDER), purge_step=purge)

    def write(epoch: Epoch) -> None:
        for name, value in dataclasses.asdict(epoch).items():
            if name != "epoch" and math.isfinite(value):
                kept.add_scalar(_tag(name), value, epoch.epoch)
        kept.flush()

    return write


def _tag(name: str) -> str:
    """`train_loss` is `train/loss`, so that a board groups them."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in ("train", "validation") else f"course/{name}"


def add_results(
    folder: Path, run: Run, outputs: Mapping[str, Outputs], findings: Mapping[str, Any]
) -> None:
    """The end of a run: its test metrics beside its recipe, figures, and what was found."""
    from levelhead.figures import FIGURES, confusion, reliability
    from levelhead.figures.canvas import to_png

    writer = _writer_class()(str(folder / FOLDER))
    test = outputs["test"]
    for name, panel in (
        ("reliability", reliability.data(test)[0]),
        ("confusion", confusion.data(test)[0]),
    ):
        image = _pixels(to_png(panel, FIGURES[name].draw))
        writer.add_image(f"test/{name}", image, dataformats="HWC")
    writer.add_text("found", _paragraphs(findings["words"]))
    metrics = findings["test"]["metrics"]
    values = {name: metrics[name]["value"] for name in HEADLINE if name in metrics}
    _add_hyper_parameters(writer, run.recipe, values)
    writer.close()


def add_study(
    folder: Path,
    settings: Sequence[tuple[str, Recipe, Mapping[str, float | None]]],
    words: Sequence[str],
) -> None:
    """A study: each setting's recipe beside its mean test metrics, and the recommendation."""
    for name, recipe, values in settings:
        writer = _writer_class()(str(folder / FOLDER / name.replace("/", "-").replace(" ", "-")))
        _add_hyper_parameters(writer, recipe, values)
        writer.close()
    writer = _writer_class()(str(folder / FOLDER))
    writer.add_text("recommendation", _paragraphs(words))
    writer.close()


def _add_hyper_parameters(writer: Any, recipe: Recipe, values: Mapping[str, float | None]) -> None:
    """The recipe and metrics, by the writer's own folder: `add_hparams` would open another."""
    from torch.utils.tensorboard.summary import hparams

    fields = {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(recipe).items()
        if value not in (None, ())
    }
    known = {f"test/{name}": value for name, value in values.items() if value is not None}
    for summary in hparams(fields, known):
        writer.file_writer.add_summary(summary)
    for name, value in known.items():
        writer.add_scalar(name, value)


def _paragraphs(words: Sequence[str]) -> str:
    """Markdown that keeps each sentence as it is."""
    return "\n\n".join(sentence.replace("_", "\\_").replace("*", "\\*") for sentence in words)


def _pixels(png: bytes) -> np.ndarray:
    """uint8 [H,W,3] of a PNG, on white."""
    import cv2

    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    if image.shape[2] == 4:
        opacity = image[:, :, 3:] / 255
        image = (image[:, :, :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return np.ascontiguousarray(image[:, :, ::-1])
