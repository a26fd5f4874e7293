"""Model + images -> Outputs, in float32; and predictions of new images, calibrated."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead.data import load_images
from levelhead.data.batches import as_batch
from levelhead.data.layouts.folder import image_paths
from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.machine import pick_device
from levelhead.outputs import Outputs
from levelhead.outputs.outputs import RESERVED
from levelhead.runs import Run
from levelhead.training.inference import features_of


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
        width = max((len(path) for path in self.paths), default=0)
        rows = zip(self.paths, self.decisions, self.confidence, strict=True)
        return tuple(f"{path:<{width}}  {decision}  {sure:.3f}" for path, decision, sure in rows)

    def save(self, path: str | Path) -> None:
        """Write a CSV: path, prediction, confidence, decision, a column a class; `audit` reads it.

        Raises LevelheadError if a class has the name of a column.
        """
        if clash := set(RESERVED) & set(self.class_names):
            raise LevelheadError(
                f"class {min(clash)!r}: is also the name of a column; use --json, or rename the "
                "class"
            )
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "prediction", "confidence", "decision", *self.class_names])
        columns = (self.paths, self.predictions, self.confidence, self.decisions)
        for i, row in enumerate(zip(*columns, strict=True)):
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


def predict_files(
    run: Run, images: list[str], *, abstain_below: float = 0.0, device: str = "auto"
) -> Predicted:
    """Predict images, and every image in folders, with a run's temperature applied.

    Raises LevelheadError for a path that does not exist, a folder without images, and where no
    image at all can be read; single broken ones are listed in `broken`.
    """
    if not 0 <= abstain_below <= 1:
        raise LevelheadError(f"--abstain-below {abstain_below}: must be between 0 and 1")
    where = pick_device(device)
    recipe, data = run.recipe, run.data
    examples, broken = load_images(
        image_paths(images),
        image_size=data["image_size"],
        channels=data["channels"],
        resize=recipe.resize,
        bits=data.get("bits", 16),
    )
    if not len(examples):
        first, why = broken[0]
        raise LevelheadError(f"{first}: {why}; no image could be read: give another")
    names = tuple(data["class_names"])
    network = run.network(where)
    features = features_of(network, as_batch(examples, where), tta=recipe.tta)
    with torch.no_grad():
        logits = network.head(features).cpu()
    unknown = torch.zeros(len(examples), dtype=torch.int64)
    outputs = Outputs("logits", logits, unknown, names)
    if (calibrator := run.calibrator) is not None:
        outputs = calibrator.apply(outputs)
    return Predicted(examples.ids, names, outputs.probabilities(), abstain_below, broken)
