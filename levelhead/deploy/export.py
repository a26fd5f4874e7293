"""A run as one file: ONNX (or torch's exported program) that decides images of any size.

Needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from levelhead.data.decode import pixels
from levelhead.decisions.policy import KINDS, SCHEMA, Answers, Policy
from levelhead.deploy.module import OUTPUTS, Decided, Deployed, check_exportable
from levelhead.errors import LevelheadError
from levelhead.files import reading, refuse_pipes, write
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.training.defaults import frozen
from levelhead.training.frozen import fuse

OPSET = 18
TOLERANCE = 1e-4
"""Probabilities of the run and of its export differ by this at most, in float32."""
EXTRA = "pip install 'levelhead[export]'"
KEY = "levelhead"
"""Under this name the metadata of an ONNX file hold what it is, as JSON."""


@dataclass(frozen=True)
class Verified:
    """A run and its export on the same images."""

    n: int
    largest: float  # difference of two probabilities
    changed: tuple[str, ...]  # images that are decided otherwise
    broken: tuple[tuple[str, str], ...]
    int8: bool = False  # an export in 8 bits, which was judged when it was made

    @property
    def good(self) -> bool:
        """Whether the export may stand for the run."""
        return self.int8 or (self.largest <= TOLERANCE and not self.changed)

    @property
    def words(self) -> tuple[str, ...]:
        """The verdict, and what speaks against."""
        lines = [
            f"{self.n:,} images: probabilities differ by {self.largest:.1e} at most "
            f"({'in 8 bits' if self.int8 else f'allowed: {TOLERANCE:g}'}); {len(self.changed):,} "
            "decided otherwise."
        ]
        return (*lines, *(f"Decided otherwise: {path}" for path in self.changed[:10]))

    def to_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "schema": 1,
            "n": self.n,
            "largest_difference": self.largest,
            "tolerance": None if self.int8 else TOLERANCE,
            "changed": list(self.changed),
            "good": self.good,
            "broken": [{"path": path, "why": why} for path, why in self.broken],
        }


def deployed(run: Run, policy: Policy | None = None) -> Deployed:
    """The run as one module, in evaluation mode on the CPU. Raises LevelheadError."""
    policy, recipe, data = policy or run.policy, run.recipe, run.data
    check_exportable(policy)
    network = run.network("cpu")
    if frozen(recipe):
        network = fuse(network, data["image_size"])
    return Deployed(network, policy, data["image_size"], recipe.resize, recipe.tta).eval()


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


def beside(
    policy: Policy, answer: Answerer, images: Iterable[tuple[str, np.ndarray, Answers]]
) -> Verified:
    """An exported file beside the answers [1] that are known of images, uint8 [H, W, 3]."""
    largest, changed, n = 0.0, [], 0
    for name, image, ours in images:
        values = [torch.from_numpy(np.asarray(value)) for value in answer.run(image[None])]
        theirs = Decided(*values).answers(policy)
        n += 1
        assert ours.probabilities is not None
        assert theirs.probabilities is not None
        largest = max(largest, float((ours.probabilities - theirs.probabilities).abs().max()))
        same = ours.decisions == theirs.decisions
        if ours.sets is not None and theirs.sets is not None:
            same &= torch.equal(ours.sets, theirs.sets)
        if not same:
            changed.append(name)
    return Verified(n, largest, tuple(changed), ())


def verify(path: str | Path, run: Run | str | Path, images: Sequence[str | Path]) -> Verified:
    """An exported file and the run's own answers (`predict`) on images and folders of them.

    Raises LevelheadError for a file that is none of ours, or of another run's classes.
    """
    from levelhead.deploy.predict import predict

    run = finished_run(run.folder if isinstance(run, Run) else run)
    answer, policy = open_export(path), run.policy
    names = policy.class_names
    if answer.metadata and tuple(answer.metadata["class_names"]) != names:
        raise LevelheadError(f"{path}: of other classes than {run.folder}; export it anew")
    with reading(run.folder / "data.json", MAKE_ANEW):
        bits = int(run.data.get("bits", 16))
    predicted = predict(run, [str(image) for image in images])
    known = (
        (
            name,
            coloured(pixels(Path(name).read_bytes(), bits)),
            predicted.answers.take(torch.tensor([i])),
        )
        for i, name in enumerate(predicted.paths)
    )
    int8 = bool(answer.metadata.get("int8"))
    return replace(beside(policy, answer, known), broken=predicted.broken, int8=int8)


def coloured(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] -> [H, W, 3]."""
    array = array[:, :, None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.repeat(array, 3, 2) if array.shape[2] == 1 else array)


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


__all__ = ["Answerer", "Verified", "deployed", "export", "open_export", "verify"]
