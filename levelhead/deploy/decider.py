"""What decides images: a run, or the file that export wrote of it. Both obey one policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators import calibrator_of
from levelhead.data.batches import Batch
from levelhead.data.decode import fit
from levelhead.data.entries import Array
from levelhead.decisions.policy import Answers, Policy, threshold_at
from levelhead.decisions.unknown import Reference
from levelhead.deploy.exported import Answerer, coloured, open_export
from levelhead.deploy.module import Decided
from levelhead.errors import LevelheadError
from levelhead.files import read_object, reading, sha256
from levelhead.machine import pick_device
from levelhead.outputs import Outputs
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.training.augmentation import views_of
from levelhead.training.defaults import frozen
from levelhead.training.frozen import fuse
from levelhead.training.inference import scores_of

ONNX_AT_ONCE = 8
"""Images that onnxruntime gets at a time: 64 take a fifth longer each (two cores, lite0)."""
Decide = Callable[[Array], tuple[Answers, Tensor | None]]
"""Images uint8 [B,S,S,C], as `Decider.fit` makes them: the answers, and features [B,D] if known."""


@dataclass(frozen=True, eq=False)
class Decider:
    """What decides images of `size` px with C channels, decoded with `bits` (`decode.pixels`)."""

    source: str
    policy: Policy
    decide: Decide
    size: int
    channels: int
    bits: int
    resize: str
    model: str  # SHA-256 of the weights, or of the file
    run: Run | None = None
    scores: Callable[[Array], Outputs] | None = None  # before any decision; labels mean nothing

    def fit(self, image: Array) -> Array:
        """An image uint8 [H,W] or [H,W,C] as training saw those: [S,S,C]."""
        return fit(image, self.size, self.channels, self.resize)

    @property
    def stamp(self) -> str:
        """What decides an answer besides the image."""
        content = json.dumps([self.model, self.policy.to_json()], default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def decider_of(
    source: Run | str | Path,
    *,
    calibration: str | Path | None = None,
    abstain_below: float | None = None,
    device: str = "auto",
) -> Decider:
    """A finished run or its folder, or an exported .onnx file, ready to decide.

    `calibration` and `abstain_below` replace a run's policy as in `predict`. Raises LevelheadError
    for what is neither, or damaged, and for an exported file whose policy is to be replaced.
    """
    if isinstance(source, Run) or Path(source).suffix not in (".onnx", ".pt2"):
        run = finished_run(source.folder if isinstance(source, Run) else source)
        return _of_run(run, calibration, abstain_below, device)
    if Path(source).suffix == ".pt2":
        raise LevelheadError(f"{source}: holds no class names; give the run, or a .onnx file")
    if calibration is not None or abstain_below is not None:
        raise LevelheadError(f"{source}: its policy is built in; give the run to decide otherwise")
    if device not in ("auto", "cpu"):
        raise LevelheadError(f"--device {device}: an exported file runs on the CPU; give the run")
    return _of_export(Path(source))


def _of_run(
    run: Run, calibration: str | Path | None, abstain_below: float | None, device: str
) -> Decider:
    recipe = run.recipe  # what is damaged is named before what leans on it
    with reading(run.folder / "data.json", MAKE_ANEW):
        data = run.data
        size, channels = int(data["image_size"]), int(data["channels"])
        bits, names = int(data.get("bits", 16)), tuple(data["class_names"])
    policy, place = policy_for(run, calibration, abstain_below), pick_device(device)
    network = run.network(place)
    views = views_of(recipe, network)
    body = fuse(network, size).place(place) if frozen(recipe) else network

    def scores(images: Array) -> Outputs:
        nothing = torch.zeros(len(images), dtype=torch.int64)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        batch = Batch(pixels, nothing, torch.arange(len(images)))
        with torch.no_grad():
            logits, features = scores_of(body, batch, views)
        return Outputs("logits", logits.cpu(), nothing, names, features=features.cpu())

    def decide(images: Array) -> tuple[Answers, Tensor | None]:
        outputs = scores(images)
        return policy.answers(outputs), outputs.features

    weights = policy.model or sha256(run.folder / "model.safetensors")  # `run.policy` hashed them
    return Decider(
        str(run.folder), policy, decide, size, channels, bits, recipe.resize, weights, run, scores
    )


def _of_export(path: Path) -> Decider:
    answer = open_export(path)
    about = answer.metadata
    with reading(path, "export it anew"):
        # What distances are measured from is in the graph.
        policy = Policy.from_json(about["policy"], Reference(torch.empty(0, 0), torch.empty(0, 0)))
        size, channels = int(about["image_size"]), int(about["channels"])
        bits, resize = int(about["bits"]), str(about["resize"])
    decide = decide_by(answer, policy)
    return Decider(str(path), policy, decide, size, channels, bits, resize, sha256(path))


def decide_by(answer: Answerer, policy: Policy) -> Decide:
    """The answers of an exported file, as those of a run."""

    def decide(images: Array) -> tuple[Answers, Tensor | None]:
        colour = np.stack([coloured(image) for image in images])
        step = ONNX_AT_ONCE if answer.batch else 1
        parts = [colour[i : i + step] for i in range(0, len(colour), step)]
        rows = [answer.run(part) for part in parts]
        columns = (np.concatenate(values) for values in zip(*rows, strict=True))
        decided = Decided(*(torch.from_numpy(values) for values in columns))
        return decided.answers(policy), None

    return decide


def policy_for(
    run: Run, calibration: str | Path | None = None, abstain_below: float | None = None
) -> Policy:
    """The run's policy; a plain one where a calibration ("none" or a file) or a threshold is given.

    Raises LevelheadError for a calibration that is none, and for a threshold outside 0 to 1.
    """
    if calibration is None and abstain_below is None:
        return run.policy
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise LevelheadError(f"--abstain-below {abstain_below}: must be between 0 and 1")
    calibrator = run.calibrator
    if calibration is not None:
        calibrator = None
        if str(calibration) != "none":
            with reading(calibration, "give a calibration.json, or none"):
                calibrator = calibrator_of(read_object(Path(calibration)))
    return threshold_at(abstain_below or 0.0, run.data["class_names"], calibrator)
