"""Outputs: what a classifier said about labelled examples.

Every judgement and every study is a function of Outputs. Whether the scores are logits or
probabilities is a type, stated by whoever made them and never guessed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.outputs.coerce import (
    answers,
    class_labels,
    floats,
    integers,
    shares,
    strings,
    two_columns,
    unmasked,
)
from levelhead.outputs.validate import PIECE, Kind, check_log_probabilities, check_range, check_rows

RESERVED = ("id", "path", "label", "prediction", "confidence", "decision", "group")
BESIDE_CONFIDENCE = ("correct", "log_probability")  # read where only confidences are known
BESIDE_DECISIONS = ("set", "reason")  # reserved, too, where `decision` stands beside them
"""Columns of a table of predictions that are no classes."""

TENSORS = (
    *("features", "head_weight", "head_bias", "predicted", "label_log_probability"),
    *("label_distribution", "acceptable"),
)
STRINGS = ("ids", "groups", "split", "split_hash", "superclasses", "anonymous")
"""The optional fields of Outputs, by how a file keeps them."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What each example says, [N]; made once by `Outputs.rows`, in float64.

    Of Outputs that hold the confidence alone, `rank` is 0 or 1 (right or not) and the last three
    are NaN.
    """

    prediction: Tensor  # int32; the first class of those with the highest score
    rank: Tensor  # int32; how many classes stand before the label: 0 where the prediction is right
    confidence: Tensor  # float64, probability of the prediction
    log_rest: Tensor  # float64, log(1 − confidence), exact where confidence is all but 1
    nll: Tensor  # float64, −log probability of the label, nats; infinite where that is exactly 0
    brier: Tensor  # float64, squared distance from the one-hot label, summed over classes, 0 to 2
    entropy: Tensor  # float64, of the class probabilities, nats

    @property
    def correct(self) -> Tensor:
        """1.0 where the prediction is the label, float64 [N]."""
        return (self.rank == 0).double()


@dataclass(frozen=True, eq=False)
class Outputs:
    """Scores [N, K] and labels [N] of N examples, with what is known about them.

    Use `from_logits`, `from_probabilities` or `from_confidence`; here labels are positions. Raises
    LevelheadError, naming the row, for NaN or infinite scores, labels out of range, and probability
    rows that do not add up to 1 (± 0.001, or what rounding to the digits given allows; within that
    they are renormalised in float64 when used).
    """

    kind: Kind
    scores: Tensor  # [N, K], float32 or float64; of kind "confidence" [N, 1], the top probability
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    ids: tuple[str, ...] | None = None
    features: Tensor | None = None  # float32 [N, D]
    head_weight: Tensor | None = None  # float32 [K, D]
    head_bias: Tensor | None = None  # float32 [K]
    split: str | None = None  # "train", "validation" or "test", where known
    split_hash: str | None = None
    # Of kind "confidence" alone: int64 [N]; natural logarithm of the label's probability,
    # float64 [N]; whether classes are unknown, and only right answers told from wrong ones.
    predicted: Tensor | None = None
    label_log_probability: Tensor | None = None
    anonymous: bool = False
    label_distribution: Tensor | None = (
        None  # float64 [N, K], what annotators said; rows add up to 1
    )
    acceptable: Tensor | None = None  # bool [N, K], the labels that an example may have
    groups: tuple[str, ...] | None = None  # [N], for example the camera of each example
    superclasses: tuple[str, ...] | None = None  # [K], what each class is a kind of
    notes: tuple[str, ...] = ()  # sentences on how they were read

    @classmethod
    def from_logits(cls, scores: Any, labels: Any, class_names: Any = None, **more: Any) -> Outputs:
        """Outputs from logits [N, K] and labels: tensors, arrays (NumPy, JAX, Keras) or lists.

        Labels are names of classes [N] or [N, 1] (with `class_names`, for example scikit-learn's
        `classes_`; whole numbers too, where all of them are names), else positions, or [N, K]
        counts or shares of what annotators said: then the label is the commonest, and
        `label_distribution` keeps the rest. One logit an example, [N] or [N, 1], is the second of
        two classes' against 0. −inf is probability 0. `more` are the other fields by name. Class
        names default to "0" … "K−1".
        """
        return cls._from("logits", scores, labels, class_names, **more)

    @classmethod
    def from_probabilities(
        cls, scores: Any, labels: Any, class_names: Any = None, **more: Any
    ) -> Outputs:
        """The same from probabilities [N, K], rows that add up to 1 (`predict_proba`).

        One number an example, [N] or [N, 1], is the probability of the second of two classes.
        """
        return cls._from("probabilities", scores, labels, class_names, **more)

    @classmethod
    def from_confidence(
        cls, confidence: Any, predicted: Any, labels: Any, class_names: Any = None, **more: Any
    ) -> Outputs:
        """Outputs of which only the prediction [N] and its probability [N] are known.

        So cloud services log them, and language models (with `label_log_probability` [N], the
        natural logarithm of the label's own probability, which NLL needs). Metrics that need every
        class are then None, with a reason.
        Class names default to all that occur, or to "0" … for positions.
        """
        sure = floats(confidence, "confidence").reshape(-1, 1)
        given = None if class_names is None else strings(class_names)
        names, own, best = answers(labels, predicted, given, lambda i: f"row {i}")
        return cls._from("confidence", sure, own, names, predicted=best, **more)

    @classmethod
    def _from(cls, kind: Kind, scores: Any, labels: Any, names: Any, **more: Any) -> Outputs:
        scores = floats(scores, kind)
        notes = tuple(more.pop("notes", ()))
        for name in ("features", "head_weight", "head_bias"):
            if more.get(name) is not None:
                more[name] = floats(more[name], name).float()
        if more.get("label_log_probability") is not None:
            own = floats(more["label_log_probability"], "label_log_probability")
            more["label_log_probability"] = own.double()
        if more.get("acceptable") is not None:
            more["acceptable"] = floats(more["acceptable"], "acceptable") > 0
        for name in ("ids", "groups", "superclasses"):
            if more.get(name) is not None:
                more[name] = strings(more[name])
        given, scores = scores, two_columns(kind, scores)
        classes = scores.shape[1] if scores.ndim == 2 else 0
        names = tuple(str(k) for k in range(classes)) if names is None else strings(names)
        if scores is not given:
            what = "logits" if kind == "logits" else "probabilities"
            notes += (
                f"One column of {what}, taken as those of {names[-1]!r} against {names[0]!r}.",
            )
        if kind != "confidence":
            labels = class_labels(labels, names, lambda i: f"row {i}")
        if labels.ndim == 2:
            more["label_distribution"] = labels
        if more.get("label_distribution") is not None:
            more["label_distribution"] = shares(more["label_distribution"])
            if labels.ndim == 2:
                labels = more["label_distribution"].argmax(1)
        if kind == "logits":
            scores, masked = unmasked(scores, labels, lambda i: f"row {i}")
            if masked:
                notes += (f"Logits of −inf in {masked:,} rows are probability 0.",)
        return cls(kind, scores, labels, names, notes=notes, **more)

    def __post_init__(self) -> None:
        k, shape = len(self.class_names), self.scores.shape
        if self.kind != "confidence" and len(shape) == 2 and shape[1] not in (1, k):
            raise LevelheadError(
                f"class names: {k} for {shape[1]} columns of scores; give one a class"
            )
        rounded = check_rows(self.kind, self.scores, self.labels, k, lambda i: f"row {i}")
        if rounded and rounded not in self.notes:
            object.__setattr__(self, "notes", (*self.notes, rounded))
        n = len(self.scores)
        if len(set(self.class_names)) < k:
            twice = next(c for i, c in enumerate(self.class_names) if c in self.class_names[:i])
            raise LevelheadError(f"class names: {twice!r} occurs twice; rename one")
        if (self.kind == "confidence") != (self.predicted is not None):
            raise LevelheadError(
                "predicted: belongs to Outputs of kind 'confidence', and only there"
            )
        if self.predicted is None and (self.anonymous or self.label_log_probability is not None):
            raise LevelheadError(
                "label_log_probability: belongs to Outputs of kind 'confidence', and only there"
            )
        if self.label_log_probability is not None:
            check_log_probabilities(self.label_log_probability, n, lambda i: f"row {i}")
        if self.predicted is not None:
            check_range("prediction", self.predicted, n, k, lambda i: f"row {i}")
        for name, names in (("ids", self.ids), ("groups", self.groups)):
            if names is not None and len(names) != n:
                raise LevelheadError(f"{name}: {len(names)} for {n} rows; give one a row")
        if self.superclasses is not None and len(self.superclasses) != k:
            raise LevelheadError(f"superclasses: {len(self.superclasses)} for {k} classes")
        if self.ids is not None and len(set(self.ids)) < n:
            rows_by_id: dict[str, int] = {}
            for i, name in enumerate(self.ids):
                if name in rows_by_id:
                    raise LevelheadError(
                        f"row {i}: the id {name!r} stands in row {rows_by_id[name]} too; "
                        "remove the duplicate"
                    )
                rows_by_id[name] = i
        for name, tensor, wanted in (
            ("features", self.features, f"[{n}, D]"),
            ("head_weight", self.head_weight, f"[{k}, D]"),
            ("head_bias", self.head_bias, f"[{k}]"),
            ("label_distribution", self.label_distribution, f"[{n}, {k}]"),
            ("acceptable", self.acceptable, f"[{n}, {k}]"),
        ):
            if tensor is None:
                continue
            found, dims = tuple(tensor.shape), wanted[1:-1].split(", ")
            if len(found) != len(dims) or any(
                d != "D" and int(d) != size for d, size in zip(dims, found, strict=True)
            ):
                raise LevelheadError(f"{name}: shape {found}; must be {wanted}")

    def __len__(self) -> int:
        return self.scores.shape[0]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def predictions(self) -> Tensor:
        """The class with the highest score, int64 [N]; of several, the first."""
        return self.rows.prediction.long()

    def log_probabilities(self) -> Tensor:
        """Natural logarithms of the class probabilities, float64 [N, K]; −inf where exactly 0."""
        return log_probabilities(self.kind, self.scores)

    def probabilities(self) -> Tensor:
        """Class probabilities, float64 [N, K]; each row adds up to 1."""
        return probabilities(self.kind, self.scores)

    @cached_property
    def rows(self) -> Rows:
        """What the metrics need of each example, computed once, in float64, piece by piece."""
        if self.predicted is not None:
            sure = self.scores[:, 0].double()
            unknown = torch.full_like(sure, math.nan)
            wrong = (self.predicted != self.labels).int()
            top = (self.predicted.int(), wrong, sure, torch.log1p(-sure))
            known = self.label_log_probability
            return Rows(*top, unknown if known is None else -known.double(), unknown, unknown)
        n = len(self)
        kinds = (torch.int32, torch.int32, *[torch.float64] * 5)
        columns = [torch.empty(n, dtype=kind) for kind in kinds]
        start = 0
        for scores, labels in self.pieces():
            for column, values in zip(columns, _judged(self.kind, scores, labels), strict=True):
                column[start : start + len(labels)] = values
            start += len(labels)
        return Rows(*columns)

    @cached_property
    def units(self) -> Tensor | None:
        """The unit of each example, int64 [N] from 0: its group; None where every one is its own.

        Examples of a group are no independent draws. An empty name is no group.
        """
        if self.groups is None:
            return None
        place: dict[Any, int] = {}
        names = (name or i for i, name in enumerate(self.groups))
        units = [place.setdefault(name, len(place)) for name in names]
        return None if len(place) == len(self) else torch.tensor(units)

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores and labels, some rows at a time."""
        step = max(1, PIECE // self.scores.shape[1])
        for start in range(0, len(self), step):
            yield self.scores[start : start + step], self.labels[start : start + step]

    def take(self, index: Any) -> Outputs:
        """The examples at `index` (positions), in that order; the split hash no longer holds."""
        chosen = integers(index)
        return dataclasses.replace(
            self,
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            ids=None if self.ids is None else tuple(self.ids[i] for i in chosen.tolist()),
            groups=None if self.groups is None else tuple(self.groups[i] for i in chosen.tolist()),
            split_hash=None,
            **{
                name: getattr(self, name)[chosen]
                for name in TENSORS
                if not name.startswith("head_") and getattr(self, name) is not None
            },
        )

    def bare(self) -> Outputs:
        """Scores, labels, names and groups alone, for work that takes them apart often."""
        return Outputs(
            self.kind, self.scores, self.labels, self.class_names, predicted=self.predicted,
            groups=self.groups, label_log_probability=self.label_log_probability,
            anonymous=self.anonymous,
        )  # fmt: skip

    def with_people(self, counts: Any) -> Outputs:
        """The same, with what annotators said: counts or shares [N, K], in order of the rows."""
        return dataclasses.replace(self, label_distribution=shares(counts))

    def with_acceptable(self, allowed: Tensor) -> Outputs:
        """The same, with the labels that each example may have: bool [N, K]."""
        return dataclasses.replace(self, acceptable=allowed)

    @cached_property
    def kinds(self) -> Tensor:
        """The superclass of each class, int64 [K] from 0. Raises LevelheadError without them."""
        if self.superclasses is None:
            raise LevelheadError("these outputs have no superclasses; give a table of them")
        place: dict[str, int] = {}
        return torch.tensor([place.setdefault(name, len(place)) for name in self.superclasses])

    def look_like_probabilities(self) -> bool:
        """Whether these "logits" are all in [0, 1] and add up to 1 in every row."""
        return self.kind == "logits" and all(
            bool((s >= 0).all() and ((s.double().sum(1) - 1).abs() < 1e-3).all())
            for s, _ in self.pieces()
        )

    def save(self, path: str | Path) -> None:
        """Write as safetensors, strings as JSON in its header; whole or not at all."""
        from safetensors.torch import save

        tensors = {self.kind: self.scores, "labels": self.labels}
        tensors |= {name: getattr(self, name) for name in TENSORS}
        tensors = {name: t.contiguous() for name, t in tensors.items() if t is not None}
        header = {name: getattr(self, name) for name in STRINGS}
        header["classes"] = self.class_names
        content = save(tensors, {"levelhead": json.dumps(header, ensure_ascii=False)})
        write(Path(path), content)


def probabilities(kind: Kind, scores: Tensor) -> Tensor:
    """Class probabilities of scores [N, K] of a kind, float64. Raises for kind "confidence"."""
    z = _all_classes(kind, scores)
    return torch.softmax(z, 1) if kind == "logits" else z / z.sum(1, keepdim=True)


def log_probabilities(kind: Kind, scores: Tensor) -> Tensor:
    """Their natural logarithms, float64; −inf where a probability is exactly 0."""
    z = _all_classes(kind, scores)
    return torch.log_softmax(z, 1) if kind == "logits" else (z / z.sum(1, keepdim=True)).log()


def _all_classes(kind: Kind, scores: Tensor) -> Tensor:
    if kind == "confidence":
        raise LevelheadError(
            "only the prediction and its confidence are known; this needs the scores of all classes"
        )
    return scores.double()


def _judged(kind: Kind, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The fields of `Rows` for some rows.

    With d = z − max z ≤ 0 and the top class apart, r = Σ_others e^d gives the confidence 1/(1 + r),
    log(1 − confidence) = log r − log(1 + r) and log p_y = d_y − log(1 + r) without cancellation.
    """
    prediction = scores.argmax(1)
    here = torch.arange(len(scores))
    own = scores[here, labels]
    right = prediction == labels
    before = torch.zeros(len(scores), dtype=torch.int32)
    wrong = (~right).nonzero().squeeze(1)
    if len(wrong):  # of equal scores the first class counts
        among, score, label = scores[wrong], own[wrong, None], labels[wrong, None]
        first = (among == score) & (torch.arange(scores.shape[1]) < label)
        before[wrong] = ((among > score) | first).sum(1, dtype=torch.int32)
    z = scores.double()
    if kind == "logits":
        z = z - z[here, prediction][:, None]
        e = z.exp()
        d_own, e_own = z[here, labels], e[here, labels]
        e[here, prediction] = 0
        rest = e.sum(1)
        total, squares = 1 + rest, (e * e).sum(1)
        log_total = torch.log1p(rest)
        entropy = log_total - (e.mul_(z)).sum(1) / total
        sure, log_rest, nll = 1 / total, rest.log() - log_total, log_total - d_own
        if len(sharp := (rest == 0).nonzero()[:, 0]):  # too far behind the first for e^d
            others = z[sharp].scatter(1, prediction[sharp, None], -math.inf)
            log_rest[sharp] = others.logsumexp(1)
    else:
        z = z / z.sum(1, keepdim=True)
        sure, e_own = z[here, prediction], z[here, labels]
        entropy = torch.special.entr(z).sum(1)
        z[here, prediction] = 0
        rest, squares = z.sum(1), (z * z).sum(1)
        total, log_rest, nll = torch.ones_like(rest), rest.log(), -e_own.log()
    # (1 − p_y)² + Σ_others p²: exact where p_y is near 1.
    part = e_own / total
    missed = (1 - part).square() + (sure.square() + squares / total.square() - part.square())
    brier = torch.where(right, (rest.square() + squares) / total.square(), missed)
    return prediction, before, sure, log_rest, nll, brier, entropy
