"""An export in 8 bits: smaller and faster, judged again before it is written.

Needs the extra `export`, and the run's own images: their activations set the scales.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levelhead.data.entries import Array, Examples
from levelhead.decisions import halves
from levelhead.decisions.policy import KINDS, Answers, Policy, joined
from levelhead.deploy.decider import Decide, decide_by, decider_of
from levelhead.deploy.export import deployed, metadata_of, onnx_of
from levelhead.deploy.exported import EXTRA, answerer, coloured, need, session_of
from levelhead.deploy.kept import basis
from levelhead.deploy.module import Bare
from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.judging.setting import Wishes, policy_of
from levelhead.outputs import Outputs
from levelhead.runs import Run, finished_run
from levelhead.training.run_data import run_data

IMAGES = 128
"""Training images whose activations set the scales."""
IN_FLOAT = 5
"""The first convolution in so many (a fifth) stays in float: few weights, the widest ranges.

On trashnet (lite0, 49 convolutions) all in 8 bits gave 81.0 % and 33 % other decisions, without the
first ten 87.5 % (float: 87.5) and 7 %, as fast.
"""


@dataclass(frozen=True)
class Quantised:
    """The run and its 8-bit export on the run's test images."""

    n: int
    accuracy: float  # of the run
    accuracy_int8: float
    largest: float  # difference of two probabilities
    changed: int  # images that are decided otherwise
    answered: int  # in 8 bits
    wrong: int  # of these
    bytes_float: int
    bytes_int8: int
    promises: tuple[str, ...]  # of the policy set anew

    @property
    def words(self) -> tuple[str, ...]:
        """What changes."""
        return (
            f"{self.n:,} test images: accuracy {100 * self.accuracy_int8:.1f} % in 8 bits, "
            f"{100 * self.accuracy:.1f} % before; {self.changed:,} decided otherwise, "
            f"probabilities differ by {self.largest:.2f} at most; {self.bytes_int8 / 1e6:.1f} MB, "
            f"{self.bytes_float / 1e6:.1f} MB before.",
            f"The policy was set anew on outputs in 8 bits: {self.answered:,} of the test images "
            f"are answered, {self.wrong:,} of these wrong. {self.promises[0]}",
        )

    def to_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "schema": 1,
            "n": self.n,
            "accuracy": self.accuracy,
            "accuracy_int8": self.accuracy_int8,
            "largest_difference": self.largest,
            "changed": self.changed,
            "bytes": self.bytes_int8,
            "bytes_float": self.bytes_float,
            "answered": self.answered,
            "wrong": self.wrong,
            "promises": list(self.promises),
        }


def export_int8(run: Run | str | Path, out: str | Path, *, batch: bool = False) -> Quantised:
    """Write a run as ONNX whose convolutions have 8-bit weights and activations.

    1. Logits and features of the validation images in 8 bits.
    2. The policy is set anew on them, for the same wishes and with the same calibrator: limits are
       of the numbers that they were set on.
    3. The file is written with that policy.

    Raises LevelheadError where a risk that the run promises cannot be promised in 8 bits (nothing
    is written), where the run's images have moved, and as `export` does.
    """
    run, out = finished_run(run.folder if isinstance(run, Run) else run), Path(out)
    if out.suffix != ".onnx":
        raise LevelheadError(f"{out}: 8 bits are for ONNX; give a name that ends in .onnx")
    need("onnx", "onnxscript", "onnxruntime")
    data, validation = run_data(run), run.outputs("validation")
    some = np.sort(np.random.default_rng(0).permutation(len(data.train))[:IMAGES])
    images = data.train.images[some]
    module = deployed(run)
    bare = quantised(onnx_of(run, Bare(module), outputs=("logits", "features")), images)
    policy = _set_anew(module.policy, _in_8_bits(bare, data.validation, validation), run)
    about = metadata_of(run, policy) | {"int8": True}
    plain = onnx_of(run, deployed(run, policy), batch=batch, metadata=about)
    content = quantised(plain, images)
    before = answers_of(decider_of(run, device="cpu").decide, data.test.images)
    after = answers_of(decide_by(answerer(content, str(out)), policy), data.test.images)
    p, q = before.probabilities, after.probabilities
    assert p is not None
    assert q is not None
    labels = torch.from_numpy(data.test.labels)
    same = (before.kind == after.kind) & (before.choice == after.choice)
    answered = after.kind == KINDS.index("class")
    result = Quantised(
        n=len(data.test),
        accuracy=float((p.argmax(1) == labels).double().mean()),
        accuracy_int8=float((q.argmax(1) == labels).double().mean()),
        largest=float((p - q).abs().max()),
        changed=int((~same).sum()),
        answered=int(answered.sum()),
        wrong=int((after.choice != labels)[answered].sum()),
        bytes_float=len(plain),
        bytes_int8=len(content),
        promises=policy.promises,
    )
    write(out, content)
    return result


def _in_8_bits(content: bytes, examples: Examples, outputs: Outputs) -> Outputs:
    """`outputs` with the logits and features of an 8-bit graph, for the same examples."""
    session = session_of(content, "8 bits")
    place = {id_: i for i, id_ in enumerate(examples.ids)}
    rows = [
        session.run(["logits", "features"], {"image": coloured(examples.images[place[id_]])[None]})
        for id_ in outputs.ids or ()
    ]
    logits, features = (torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True))
    return replace(outputs, scores=logits, features=features)


def _set_anew(policy: Policy, validation: Outputs, run: Run) -> Policy:
    """The policy for the same wishes from other outputs. Raises LevelheadError where it breaks."""
    several, one = len(policy.thresholds) > 1, next(iter(policy.thresholds), None)
    wishes = Wishes(alpha=0.1 if policy.sets is None else policy.sets.alpha, costs=policy.costs)
    if policy.unknown is not None:
        wishes = replace(wishes, unknown=policy.unknown.false_alarms)
    else:
        wishes = replace(wishes, unknown=None)
    level = policy.level
    if several:
        named = zip(policy.class_names, policy.thresholds, strict=True)
        wishes = replace(wishes, risk_by_class={name: t.risk_wanted for name, t in named})
    elif one is not None and one.method == "coverage":
        wishes = replace(wishes, coverage=one.coverage)
    elif one is not None:
        wishes, level = replace(wishes, risk=one.risk_wanted), 1 - one.delta
    first, second = halves(validation, 0)
    anew = policy_of(
        first, second, wishes, policy.calibrator, reason=policy.calibrator_reason,
        level=level, rule="sgr" if one is not None and one.method == "sgr" else "ltt",
        **basis(run),
    )  # fmt: skip
    if one is None and policy.costs is None:  # every image was answered, without a promise
        return replace(anew, thresholds=(), note=policy.note)
    for before, after in zip(policy.thresholds, anew.thresholds, strict=True):
        if before.value is not None and after.value is None:
            raise LevelheadError(
                f"--int8: a risk of {100 * before.risk_wanted:.4g} % cannot be promised in 8 bits "
                f"({after.reason}); export without --int8, or set another policy: levelhead decide"
            )
    return replace(anew, level=policy.level)


def quantised(content: bytes, images: Array) -> bytes:
    """An ONNX file of ours with 8-bit convolutions; images uint8 [N,S,S,C] set the scales.

    Weights by channel, activations by their least and largest value (onnxruntime's static
    quantisation, QDQ).
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Array] = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.images, None)
            if image is None:
                return None
            return {"image": coloured(image)[None]}

    model = onnx.load_from_string(content)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    if not names:
        raise LevelheadError("--int8: the network has no convolution; export it without")
    first = names[: math.ceil(len(names) / IN_FLOAT)]
    before = logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix="levelhead-") as folder:
        path = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # it advises steps that the exporter has done
        try:
            quantize_static(
                model, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=["Conv"], nodes_to_exclude=first,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        except ImportError as error:
            raise LevelheadError(f"{error.name}: not installed; {EXTRA}") from None
        finally:
            logging.disable(before)
        return path.read_bytes()


def answers_of(decide: Decide, images: Array) -> Answers:
    """The answers to images [N,S,S,C], some at a time."""
    return joined([decide(images[i : i + 64])[0] for i in range(0, len(images), 64)])
