"""Model + images -> Outputs, in float32; and predictions of new images, calibrated."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead.data import load_images
from levelhead.data.batches import as_batch
from levelhead.data.entries import Examples
from levelhead.data.layouts.folder import image_paths
from levelhead.errors import LevelheadError
from levelhead.files import reading, write
from levelhead.machine import pick_device, tune_malloc
from levelhead.models import Network
from levelhead.outputs import Outputs
from levelhead.outputs.outputs import RESERVED
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.text import printable
from levelhead.training.defaults import frozen
from levelhead.training.frozen import fuse
from levelhead.training.inference import features_of

AT_ONCE = 64
"""Images in memory at a time, and as many again that are being decoded."""


@dataclass(frozen=True)
class Predicted:
    """Calibrated predictions of N images: probabilities float64 [N,K]; what could not be read."""

    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: Tensor
    abstain_below: float
    broken: tuple[tuple[str, str], ...]

    @property
    def predictions(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.class_names[k] for k in self.probabilities.argmax(1).tolist()]

    @property
    def confidence(self) -> list[float]:
        """Its probability."""
        return [float(p) for p in self.probabilities.amax(1)]

    @property
    def decisions(self) -> list[str]:
        """The prediction, or `abstain` where the confidence is below the threshold."""
        return [
            name if sure >= self.abstain_below else "abstain"
            for name, sure in zip(self.predictions, self.confidence, strict=True)
        ]

    @property
    def words(self) -> tuple[str, ...]:
        """A line an image: path, decision, confidence."""
        paths = [printable(path) for path in self.paths]
        width = max(map(len, paths), default=0)
        rows = zip(paths, self.decisions, self.confidence, strict=True)
        return tuple(f"{path:<{width}}  {decision}  {sure:.3f}" for path, decision, sure in rows)

    def save(self, path: str | Path, *, spreadsheet: bool = False) -> None:
        """Write a CSV: path, prediction, confidence, decision, a column a class; `audit` reads it.

        With `spreadsheet`, cells of text that a spreadsheet would take for a formula (they begin
        with = + - or @) get an apostrophe before them. Raises LevelheadError if a class has the
        name of a column, or `path` is no CSV or one of the images.
        """
        if Path(path).suffix.lower() not in (".csv", ".txt"):
            raise LevelheadError(
                f"--out {path}: predictions are a CSV; give a name that ends in .csv"
            )
        if Path(path).resolve() in {Path(image).resolve() for image in self.paths}:
            raise LevelheadError(f"--out {path}: is one of the images; give another name")
        if clash := set(RESERVED) & set(self.class_names):
            raise LevelheadError(
                f"class {min(clash)!r}: is also the name of a column; use --json, or rename the "
                "class"
            )
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "prediction", "confidence", "decision", *self.class_names])
        columns = (self.paths, self.predictions, self.confidence, self.decisions)
        for i, cells in enumerate(zip(*columns, strict=True)):
            row = [_inert(cell) if spreadsheet else cell for cell in cells]
            table.writerow([*row, *(f"{p:.9g}" for p in self.probabilities[i].tolist())])
        write(Path(path), text.getvalue())

    def to_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        rows = zip(self.paths, self.predictions, self.confidence, self.decisions, strict=True)
        return {
            "schema": 1,
            "class_names": list(self.class_names),
            "abstain_below": self.abstain_below,
            "predictions": [
                {
                    "path": path,
                    "prediction": prediction,
                    "confidence": sure,
                    "decision": decision,
                    "probabilities": self.probabilities[i].tolist(),
                }
                for i, (path, prediction, sure, decision) in enumerate(rows)
            ],
            "broken": [{"path": path, "why": why} for path, why in self.broken],
        }


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else cell


def predict(
    run: Run | str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    abstain_below: float = 0.0,
    device: str = "auto",
) -> Predicted:
    """Predict images, and every image in folders, with a run's calibrator applied.

    `run`: a finished run, or its folder. `images`: a path, or several. On Linux the process keeps
    freed memory from here on (`machine.tune_malloc`): a third of the time.

    Raises LevelheadError for a path that does not exist, a folder without images, and where no
    image at all can be read; single broken ones are listed in `broken`.
    """
    if not 0 <= abstain_below <= 1:
        raise LevelheadError(f"--abstain-below {abstain_below}: must be between 0 and 1")
    tune_malloc()
    run = finished_run(run.folder if isinstance(run, Run) else run)
    several = [images] if isinstance(images, str | Path) else images
    recipe, data = run.recipe, run.data
    with reading(run.folder / "data.json", MAKE_ANEW):
        names, size = tuple(map(str, data["class_names"])), int(data["image_size"])
        channels, bits = int(data["channels"]), int(data.get("bits", 16))
    paths = image_paths([str(path) for path in several])
    ids: list[str] = []
    broken: list[tuple[str, str]] = []
    rows: list[Tensor] = []
    network, forward = _forward(run, pick_device(device))
    for examples, faults in _decoded(paths, recipe.resize, size, channels, bits):
        broken += faults
        if len(examples):
            ids += examples.ids
            with torch.no_grad():  # logits alone are kept: features are a hundred times as many
                rows.append(network.head(forward(examples)).cpu())
    if not rows:
        first, why = broken[0]
        raise LevelheadError(f"{first}: {why}; no image could be read: give another")
    unknown = torch.zeros(len(ids), dtype=torch.int64)
    outputs = Outputs("logits", torch.cat(rows), unknown, names)
    if (calibrator := run.calibrator) is not None:
        outputs = calibrator.apply(outputs)
    return Predicted(tuple(ids), names, outputs.probabilities(), abstain_below, tuple(broken))


def _forward(run: Run, device: torch.device) -> tuple[Network, Callable[[Examples], Tensor]]:
    """The network, and the features [N,D] of examples as the run's own test was judged by."""
    recipe, network = run.recipe, run.network(device)
    body = fuse(network, run.data["image_size"]).place(device) if frozen(recipe) else network
    return network, lambda part: features_of(body, as_batch(part, device), tta=recipe.tta)


def _decoded(
    paths: Sequence[Path], resize: str, size: int, channels: int, bits: int
) -> Iterator[tuple[Examples, tuple[tuple[str, str], ...]]]:
    """Some images at a time, decoded while the network works on those before them."""

    def some(start: int) -> tuple[Examples, tuple[tuple[str, str], ...]]:
        part = paths[start : start + AT_ONCE]
        return load_images(part, image_size=size, channels=channels, resize=resize, bits=bits)

    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(some, 0)
        for start in range(AT_ONCE, len(paths) + AT_ONCE, AT_ONCE):
            part = waiting.result()
            if start < len(paths):
                waiting = ahead.submit(some, start)
            yield part
