"""A run as one file: ONNX (or torch's exported program) that decides images of any size.

Needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from levelhead.data.decode import pixels
from levelhead.decisions.policy import KINDS, SCHEMA, Answers, Policy
from levelhead.deploy.exported import KEY, answerer, coloured, need
from levelhead.deploy.module import OUTPUTS, Decided, Deployed, check_exportable
from levelhead.deploy.verify import Verified, beside
from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.runs import Run, finished_run
from levelhead.training.augmentation import views_of
from levelhead.training.defaults import frozen
from levelhead.training.frozen import fuse

OPSET = 18


def deployed(run: Run, policy: Policy | None = None) -> Deployed:
    """The run as one module, in evaluation mode on the CPU. Raises LevelheadError."""
    policy, recipe, data = policy or run.policy, run.recipe, run.data
    check_exportable(policy)
    network = run.network("cpu")
    if frozen(recipe):
        network = fuse(network, data["image_size"])
    views = views_of(recipe, network)
    return Deployed(network, policy, data["image_size"], recipe.resize, views).eval()


def export(
    run: Run | str | Path, out: str | Path, *, batch: bool = False, check: int = 32
) -> Verified:
    """Write a run as ONNX (`out` ends in .onnx) or as torch's exported program (.pt2).

    Input: `image`, uint8 [1, H, W, 3] (with `batch` [B, H, W, 3]), RGB, upright, of any size.
    Outputs: those of `module.OUTPUTS`. Before the file gets its name it answers `check` of the
    run's own images, and odd ones, beside the run. Raises LevelheadError where the two differ, and
    where the libraries are missing.
    """
    run = finished_run(run.folder if isinstance(run, Run) else run)
    out = Path(out)
    if out.suffix not in (".onnx", ".pt2"):
        raise LevelheadError(f"{out}: give a name that ends in .onnx, or .pt2 for torch")
    module = deployed(run)
    if out.suffix == ".pt2":
        with _by_torch(run):
            content = _program(module, _example(run, batch), batch)
    else:
        content = onnx_of(run, module, batch=batch, metadata=metadata_of(run, module.policy))
    answer = answerer(content, str(out))
    known = ((name, image, _answers_of(module, image)) for name, image in _trials(run, check))
    verified = beside(module.policy, answer, known)
    if not verified.good:
        raise LevelheadError(f"{out}: not written: {' '.join(verified.words)}; please report it")
    write(out, content)
    return verified


def _answers_of(module: Deployed, image: np.ndarray) -> Answers:
    """What the module says of one image, uint8 [H, W, 3]."""
    with torch.no_grad():
        return Decided(*module(torch.from_numpy(image)[None])).answers(module.policy)


def onnx_of(
    run: Run,
    module: nn.Module,
    *,
    batch: bool = False,
    outputs: Sequence[str] = OUTPUTS,
    metadata: dict[str, Any] | None = None,
) -> bytes:
    """The bytes of an ONNX file of a module of the run, which says `metadata` of itself.

    Raises LevelheadError where torch cannot export it.
    """
    with _by_torch(run):
        return _onnx(module, _example(run, batch), batch, outputs, metadata or {})


@contextmanager
def _by_torch(run: Run) -> Iterator[None]:
    """What torch cannot export becomes one line."""
    try:
        yield
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise LevelheadError(
            f"{run.recipe.model}: cannot be exported by torch ({reason}); train another --model"
        ) from None


def _example(run: Run, batch: bool) -> Tensor:
    """Images to trace with, of no special size."""
    size = max(int(run.data["image_size"]), 8)
    return torch.randint(0, 256, (2 if batch else 1, size + 6, size + 9, 3), dtype=torch.uint8)


def metadata_of(run: Run, policy: Policy) -> dict[str, Any]:
    """What an exported file says of itself."""
    recipe, data, card = run.recipe, run.data, run.folder / "card.md"
    return {
        "schema": SCHEMA,
        "class_names": list(policy.class_names),
        "kinds": list(KINDS),
        "outputs": list(OUTPUTS),
        "image_size": data["image_size"],
        "channels": data["channels"],
        "bits": int(data.get("bits", 16)),
        "resize": recipe.resize,
        "model": recipe.model,
        "data": data["name"],
        "policy": policy.to_json(),
        "card": card.read_text(encoding="utf-8") if card.exists() else None,
    }


def _traced(module: nn.Module, example: Tensor, batch: bool) -> Any:
    """torch's exported program, whose images may have any size (and, with `batch`, number)."""
    dims: dict[int, Any] = dict.fromkeys((0, 1, 2) if batch else (1, 2), torch.export.Dim.DYNAMIC)
    return torch.export.export(module, (example,), dynamic_shapes=(dims,), strict=False)


def _program(module: Deployed, example: Tensor, batch: bool) -> bytes:
    """The bytes of torch's exported program."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(_traced(module, example, batch), buffer)
    return buffer.getvalue()


def _onnx(
    module: nn.Module,
    example: Tensor,
    batch: bool,
    outputs: Sequence[str],
    metadata: dict[str, Any],
) -> bytes:
    """The bytes of the ONNX file."""
    need("onnx", "onnxscript")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)
        traced = _traced(module, example, batch)
        program = torch.onnx.export(
            traced, dynamo=True, opset_version=OPSET, input_names=["image"],
            output_names=list(outputs), optimize=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(metadata, ensure_ascii=False)
    content: bytes = proto.SerializeToString()
    return content


def _trials(run: Run, n: int) -> list[tuple[str, np.ndarray]]:
    """Some of the run's own images where they still are, and odd ones: tiny, long, even, noise."""
    from levelhead.training.prepare import listing_of

    rng = np.random.default_rng(0)
    odd = [(1, 1), (3, 200), (200, 3), (37, 41), (64, 64), (256, 512), (640, 480)]
    images = [(f"noise {h} x {w}", rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in odd]
    images += [(f"plain {v}", np.full((50, 60, 3), v, np.uint8)) for v in (0, 128, 255)]
    try:
        listing = listing_of(run.recipe)
    except LevelheadError:  # the data has moved
        return images
    entries = listing.splits.get("test", listing.splits["train"])
    for i in np.linspace(0, len(entries) - 1, n).astype(int).tolist():
        try:
            if entries.images is not None:
                images.append((entries.ids[i], coloured(entries.images[i])))
            elif entries.read is not None:
                images.append((entries.ids[i], coloured(pixels(entries.read(i), listing.bits))))
        except Exception:  # a broken one proves nothing
            continue
    return images
