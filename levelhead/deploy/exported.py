"""An exported file that answers: ONNX by onnxruntime, or torch's exported program.

Needs the extra `export` for ONNX.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levelhead.deploy.module import OUTPUTS
from levelhead.errors import LevelheadError
from levelhead.files import reading, refuse_pipes

EXTRA = "pip install 'levelhead[export]'"
KEY = "levelhead"
"""Under this name the metadata of an ONNX file hold what it is, as JSON."""


def need(*names: str) -> None:
    """Raise LevelheadError where a library of the extra is missing."""
    import importlib.util

    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise LevelheadError(f"{missing[0]}: not installed, and this needs it; {EXTRA}")


@dataclass(frozen=True)
class Answerer:
    """An exported file that answers one image, uint8 [H, W, 3], and what it says of itself."""

    run: Any
    metadata: dict[str, Any]
    batch: bool = False  # takes several images of one size at a time


def open_export(path: str | Path) -> Answerer:
    """An exported .onnx or .pt2. Raises LevelheadError for a file that is damaged or not ours."""
    path = Path(path)
    refuse_pipes(path)
    with reading(path, "export it anew"):
        content = path.read_bytes()
    return answerer(content, str(path))


def answerer(content: bytes, name: str) -> Answerer:
    """What answers, from the bytes of an exported file called `name`."""
    if name.endswith(".pt2"):
        try:
            module = torch.export.load(io.BytesIO(content)).module()
        except Exception as error:  # torch raises nearly anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LevelheadError(
                f"{name}: not an exported program ({reason}); export it anew"
            ) from None

        def run(image: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [value.numpy() for value in module(torch.tensor(image))]

        return Answerer(run, {})
    need("onnxruntime")
    session = session_of(content, name)
    stored = session.get_modelmeta().custom_metadata_map.get(KEY)
    if stored is None:
        raise LevelheadError(f"{name}: not a file that levelhead export wrote; export the run")
    try:
        metadata = dict(json.loads(stored))
    except (ValueError, TypeError):
        raise LevelheadError(f"{name}: damaged (what it says of itself); export it anew") from None
    if metadata.get("outputs") != list(OUTPUTS):
        raise LevelheadError(f"{name}: written by another version of levelhead; export it anew")
    several = session.get_inputs()[0].shape[0] != 1
    return Answerer(lambda image: session.run(list(OUTPUTS), {"image": image}), metadata, several)


def session_of(content: bytes, name: str) -> Any:
    """onnxruntime's session on the CPU. Raises LevelheadError for what it cannot read."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class for each reason, none of them public
        text = " ".join(str(error).split())
        why = (
            "of a newer opset than this onnxruntime reads" if "opset" in text.lower() else "damaged"
        )
        raise LevelheadError(f"{name}: {why} ({text[:120]}); export it anew") from None


def coloured(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] -> [H, W, 3]."""
    array = array[:, :, None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.repeat(array, 3, 2) if array.shape[2] == 1 else array)
