"""Outputs: what a classifier said about labelled examples, and reading anyone's predictions.

Every judgement and every study is a function of Outputs. Whether the scores are logits or
probabilities is a type, stated by whoever made them and never guessed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError

Kind = Literal["logits", "probabilities"]

RESERVED = ("id", "path", "label", "prediction", "confidence", "decision", "group")
"""Columns of a table of predictions that are no classes."""

_PIECE = 1 << 20  # scores worked on at once: float64 copies stay small beside the float32 scores


@dataclass(frozen=True, eq=False)
class Rows:
    """What each example says, float64 [N] unless noted; made once by `Outputs.rows`."""

    prediction: Tensor  # int64 [N]; the first class of those with the highest score
    correct: Tensor  # 1.0 where the prediction is the label
    confidence: Tensor  # probability of the prediction
    nll: Tensor  # −log probability of the label, nats; infinite where that is exactly 0
    brier: Tensor  # squared distance from the one-hot label, summed over classes, 0 to 2


@dataclass(frozen=True, eq=False)
class Outputs:
    """Scores [N, K] and labels [N] of N examples, with what is known about them.

    Use `from_logits` or `from_probabilities`. Raises LevelheadError, naming the row, for NaN or
    infinite scores, labels out of range, and probability rows that do not add up to 1 (± 0.001;
    within that they are renormalised in float64 when used).
    """

    kind: Kind
    scores: Tensor  # [N, K]; float32, or float64 where it was given so
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    ids: tuple[str, ...] | None = None
    features: Tensor | None = None  # float32 [N, D]
    head_weight: Tensor | None = None  # float32 [K, D]
    head_bias: Tensor | None = None  # float32 [K]
    split: str | None = None  # "train", "validation" or "test", where known
    split_hash: str | None = None

    @classmethod
    def from_logits(cls, scores: Any, labels: Any, class_names: Any = None, **more: Any) -> Outputs:
        """Outputs from logits [N, K] and integer labels [N]: tensors, arrays or lists.

        `more` are the other fields by name. Class names default to "0" … "K−1".
        """
        return cls._from("logits", scores, labels, class_names, **more)

    @classmethod
    def from_probabilities(
        cls, scores: Any, labels: Any, class_names: Any = None, **more: Any
    ) -> Outputs:
        """Outputs from probabilities [N, K] (rows add up to 1) and integer labels [N]."""
        return cls._from("probabilities", scores, labels, class_names, **more)

    @classmethod
    def _from(cls, kind: Kind, scores: Any, labels: Any, names: Any, **more: Any) -> Outputs:
        scores = _floats(scores, kind)
        for name in ("features", "head_weight", "head_bias"):
            if more.get(name) is not None:
                more[name] = _floats(more[name], name).float()
        if more.get("ids") is not None:
            more["ids"] = _strings(more["ids"])
        classes = scores.shape[1] if scores.ndim == 2 else 0
        names = tuple(str(k) for k in range(classes)) if names is None else _strings(names)
        return cls(kind, scores, _integers(labels), names, **more)

    def __post_init__(self) -> None:
        _check(self.kind, self.scores, self.labels, lambda i: f"row {i}")
        n, k = self.scores.shape
        if len(self.class_names) != k:
            raise LevelheadError(
                f"class names: {len(self.class_names)} for {k} columns of scores; give one a class"
            )
        if self.ids is not None:
            if len(self.ids) != n:
                raise LevelheadError(f"ids: {len(self.ids)} for {n} rows; give one a row")
            if len(set(self.ids)) < n:
                seen: dict[str, int] = {}
                for i, name in enumerate(self.ids):
                    if name in seen:
                        raise LevelheadError(
                            f"row {i}: the id {name!r} stands in row {seen[name]} too; "
                            "remove the duplicate"
                        )
                    seen[name] = i
        shape = None if self.features is None else tuple(self.features.shape)
        if shape is not None and (len(shape) != 2 or shape[0] != n):
            raise LevelheadError(f"features: shape {shape} for {n} rows; must be [N, D]")
        for name, tensor, dims in (
            ("head_weight", self.head_weight, 2),
            ("head_bias", self.head_bias, 1),
        ):
            if tensor is not None and (tensor.ndim != dims or tensor.shape[0] != k):
                wanted = "[K, D]" if dims == 2 else "[K]"
                found = tuple(tensor.shape)
                raise LevelheadError(f"{name}: shape {found} for {k} classes; must be {wanted}")

    def __len__(self) -> int:
        return self.scores.shape[0]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.scores.shape[1]

    def predictions(self) -> Tensor:
        """The class with the highest score, int64 [N]; of several, the first."""
        return self.rows.prediction

    def log_probabilities(self) -> Tensor:
        """Natural logarithms of the class probabilities, float64 [N, K]; −inf where exactly 0."""
        return _log_probabilities(self.kind, self.scores)

    def probabilities(self) -> Tensor:
        """Class probabilities, float64 [N, K]; each row adds up to 1."""
        return _probabilities(self.kind, self.scores)

    @cached_property
    def rows(self) -> Rows:
        """What the metrics need of each example, computed once, in float64, piece by piece."""
        pieces = []
        for scores, labels in self.pieces():
            log_p = _log_probabilities(self.kind, scores)
            p = log_p.exp() if self.kind == "logits" else _probabilities(self.kind, scores)
            prediction = scores.argmax(1)
            own = p.gather(1, labels[:, None]).squeeze(1)
            pieces.append(
                (
                    prediction,
                    (prediction == labels).double(),
                    p.gather(1, prediction[:, None]).squeeze(1),
                    -log_p.gather(1, labels[:, None]).squeeze(1),
                    # (1 − p_y)² + Σ_others p²: exact where p_y is near 1.
                    (1 - own).square() + ((p * p).sum(1) - own * own).clamp(min=0),
                )
            )
        return Rows(*(torch.cat(part) for part in zip(*pieces, strict=True)))

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores and labels, some rows at a time."""
        step = max(1, _PIECE // self.classes)
        for start in range(0, len(self), step):
            yield self.scores[start : start + step], self.labels[start : start + step]

    def take(self, index: Any) -> Outputs:
        """The examples at `index` (positions), in that order; the split hash no longer holds."""
        chosen = _integers(index)
        return dataclasses.replace(
            self,
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            ids=None if self.ids is None else tuple(self.ids[i] for i in chosen.tolist()),
            features=None if self.features is None else self.features[chosen],
            split_hash=None,
        )

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
        for name in ("features", "head_weight", "head_bias"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        header = {name: getattr(self, name) for name in ("ids", "split", "split_hash")}
        header["classes"] = self.class_names
        content = save(
            {name: t.contiguous() for name, t in tensors.items()},
            metadata={"levelhead": json.dumps(header, ensure_ascii=False)},
        )
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LevelheadError(
                f"{path}: cannot be written ({error.strerror}); free the disk or choose another"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> Outputs:
        """Read what `save` wrote. Raises LevelheadError if the file is not such a one."""
        return read_predictions(path)


def read_predictions(path: str | Path, kind: Kind | None = None) -> Outputs:
    """Read predictions made by anyone: .npz, .csv (or .csv.gz), .parquet, .safetensors.

    npz and safetensors hold exactly one of the arrays `logits` and `probabilities`, and `labels`;
    optional `features`, `ids`, `classes`. CSV and parquet have a column a class and `label` (the
    class's name, or its position among the class columns; names win), and need `kind`. The
    columns of `RESERVED` are no classes; `id`, else `path`, names the example. Raises
    LevelheadError naming the file, and the line or row and value.
    """
    path = Path(path)
    name = path.name.lower()
    readers: dict[str, Callable[[Path, Kind | None], Outputs]]
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    readers |= {".csv": _csv, ".csv.gz": _csv}
    reader = next((readers[end] for end in readers if name.endswith(end)), None)
    if reader is None:
        raise LevelheadError(
            f"{path}: cannot be read as predictions; give one of {', '.join(readers)}"
        )
    if not path.is_file():
        raise LevelheadError(f"{path}: no such file; check the path")
    try:
        return reader(path, kind)
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {error}") from None
    except OSError as error:
        raise LevelheadError(f"{path}: cannot be read ({error.strerror or error})") from None


def _npz(path: Path, kind: Kind | None) -> Outputs:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise LevelheadError(f"not an npz of plain arrays ({error}); write it anew") from None
    return _from_arrays(arrays, kind, arrays.get("classes"), {"ids": arrays.get("ids")})


def _safetensors(path: Path, kind: Kind | None) -> Outputs:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("levelhead", "{}"))
            wanted = ("logits", "probabilities", "labels", "features", "head_weight", "head_bias")
            there = set(file.keys())
            arrays = {name: file.get_tensor(name) for name in wanted if name in there}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise LevelheadError(f"not a whole safetensors file ({error}); write it anew") from None
    more = {name: header.get(name) for name in ("ids", "split", "split_hash")}
    return _from_arrays(arrays, kind, header.get("classes"), more)


def _from_arrays(
    arrays: Mapping[str, Any], kind: Kind | None, classes: Any, more: dict[str, Any]
) -> Outputs:
    kinds: list[Kind] = ["logits", "probabilities"]
    found = [name for name in kinds if name in arrays]
    if len(found) != 1:
        holds = "both logits and probabilities" if found else "neither logits nor probabilities"
        raise LevelheadError(f"holds {holds}; keep exactly one array of that name")
    if kind is not None and kind != found[0]:
        raise LevelheadError(f"holds {found[0]}, not {kind}; leave out --{kind}")
    if "labels" not in arrays:
        raise LevelheadError("holds no array 'labels'; add the true class of each row")
    labels = arrays["labels"]
    if classes is not None:
        classes = _strings(classes)
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "USO":
            labels = _positions(_strings(labels), classes, lambda i: f"row {i}")
    for name in ("features", "head_weight", "head_bias"):
        more[name] = arrays.get(name)
    return Outputs._from(found[0], arrays[found[0]], labels, classes, **more)


def _csv(path: Path, kind: Kind | None) -> Outputs:
    import pyarrow as pa
    from pyarrow import csv

    # A first look at the header alone, so that columns of text are not taken for numbers.
    try:
        with csv.open_csv(path, read_options=csv.ReadOptions(block_size=1 << 22)) as reader:
            names = reader.schema.names
        _classes(names, kind)
        types = {n: pa.string() if n in RESERVED else pa.float64() for n in names}
        options = csv.ConvertOptions(column_types=types)
        try:
            table = csv.read_csv(path, convert_options=options)
        except pa.ArrowInvalid:  # one thread knows the row
            table = csv.read_csv(
                path, convert_options=options, read_options=csv.ReadOptions(use_threads=False)
            )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no rows"
        raise LevelheadError(f"not a table of numbers ({reason}); mend that line") from None
    return _table(table, kind, lambda i: f"line {_line(path, i)}")


def _line(path: Path, row: int) -> int:
    """The line of data row `row` (from 0): the reader skips empty lines, people count them."""
    import gzip

    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip())
        for _ in range(row + 1):
            next(filled, 0)
        return next(filled, row + 2)


def _parquet(path: Path, kind: Kind | None) -> Outputs:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise LevelheadError(f"not a parquet file ({error}); write it anew") from None
    return _table(table, kind, lambda i: f"row {i}")


def _classes(columns: Sequence[str], kind: Kind | None) -> tuple[str, ...]:
    """The columns that are classes. Raises LevelheadError for a table that cannot be judged."""
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise LevelheadError(f"the column {twice!r} stands twice; rename one")
    if any(c.strip() in ("", "__index_level_0__") for c in columns):
        raise LevelheadError("a column without a name (a row index?); leave it out or name it id")
    if "label" not in columns:
        shown = ", ".join(columns[:6]) + (", …" if len(columns) > 6 else "")
        raise LevelheadError(f"no column 'label' among {shown}; add the true class of each row")
    if kind is None:
        raise LevelheadError("its numbers may be either kind; add --logits or --probabilities")
    return tuple(c for c in columns if c not in RESERVED)


def _table(table: Any, kind: Kind | None, where: Callable[[int], str]) -> Outputs:
    """Outputs of a pyarrow table with a column a class and `label`."""
    import pyarrow as pa

    columns = table.column_names
    classes = _classes(columns, kind)
    assert kind is not None
    scores = np.empty((table.num_rows, len(classes)), np.float64)
    for k, name in enumerate(classes):
        try:
            scores[:, k] = table.column(name).cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise LevelheadError(
                f"the column {name!r} is no numbers; columns that are no class must be called "
                f"one of {', '.join(RESERVED)}"
            ) from None
    text = [str(v) if v is not None else "" for v in table.column("label").to_pylist()]
    labels = _positions(text, classes, where)
    names = next((c for c in ("id", "path") if c in columns), None)
    ids = None if names is None else tuple(map(str, table.column(names).to_pylist()))
    tensor = torch.from_numpy(scores if kind == "probabilities" else scores.astype(np.float32))
    _check(kind, tensor, labels, where)
    return Outputs(kind, tensor, labels, classes, ids)


def _positions(
    text: Sequence[str], classes: tuple[str, ...], where: Callable[[int], str]
) -> Tensor:
    """Labels written as class names, else as positions 0 … K−1, as int64 [N]."""
    place = {name: k for k, name in enumerate(classes)}
    numbers = {str(k): k for k in range(len(classes))}
    values = set(text)
    for known in (place, numbers):
        if values <= known.keys():
            return torch.tensor([known[t] for t in text], dtype=torch.int64)
    # Names win: with one name among the labels, a number that is no name is the mistake.
    fits = place if values & place.keys() else numbers
    i = next(i for i, t in enumerate(text) if t not in fits)
    shown = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
    raise LevelheadError(
        f"{where(i)}: the label {text[i]!r} is no class; give one of the names {shown} "
        f"or positions 0 to {len(classes) - 1} throughout"
    )


def _check(kind: Kind, scores: Tensor, labels: Tensor, where: Callable[[int], str]) -> None:
    """Raise LevelheadError for the first row of scores or labels that cannot be."""
    if kind not in ("logits", "probabilities"):
        raise LevelheadError(f"kind {kind!r}: must be 'logits' or 'probabilities'")
    if scores.ndim != 2:
        raise LevelheadError(
            f"{kind}: shape {tuple(scores.shape)}; must be [N, K], a row an example"
        )
    n, k = scores.shape
    if tuple(labels.shape) != (n,):
        raise LevelheadError(f"labels: shape {tuple(labels.shape)} for {n} rows; must be [{n}]")
    if n == 0:
        raise LevelheadError(f"{kind}: no rows; give at least one example")
    if k < 2:
        raise LevelheadError(f"{kind}: {k} class; a classifier has at least 2 columns")

    def first(bad: Tensor) -> int | None:
        return int(bad.nonzero()[0]) if bool(bad.any()) else None

    step = max(1, _PIECE // k)
    for start in range(0, n, step):
        piece = scores[start : start + step]
        if (i := first(~piece.isfinite().all(1))) is not None:
            value = piece[i][~piece[i].isfinite()][0].item()
            shown = "NaN" if value != value else "an infinite value"
            raise LevelheadError(
                f"{where(start + i)}: {shown} (or a gap) among the {kind}; leave the row out or "
                "mend the model"
            )
        if kind == "probabilities":
            if (i := first((piece < 0).any(1))) is not None:
                raise LevelheadError(
                    f"{where(start + i)}: the probability {float(piece[i].min()):g} is negative; "
                    "if these are logits, say so"
                )
            total = piece.double().sum(1)
            if (i := first((total - 1).abs() > 1e-3)) is not None:
                raise LevelheadError(
                    f"{where(start + i)}: the probabilities add up to {float(total[i]):.6g}, "
                    "not 1; if these are logits, say so"
                )
    if (i := first((labels < 0) | (labels >= k))) is not None:
        raise LevelheadError(
            f"{where(i)}: the label {int(labels[i])} is out of range; labels run from 0 to {k - 1}"
        )


def _probabilities(kind: Kind, scores: Tensor) -> Tensor:
    z = scores.double()
    return torch.softmax(z, 1) if kind == "logits" else z / z.sum(1, keepdim=True)


def _log_probabilities(kind: Kind, scores: Tensor) -> Tensor:
    z = scores.double()
    return torch.log_softmax(z, 1) if kind == "logits" else (z / z.sum(1, keepdim=True)).log()


def _tensor(values: Any) -> Tensor:
    """A tensor on the CPU that shares nothing read-only with its source."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise LevelheadError(f"an array of type {array.dtype}: must hold numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if native.dtype.kind == "u" and native.itemsize > 1:
        native = native.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(native))


def _floats(values: Any, name: str) -> Tensor:
    try:
        tensor = _tensor(values)
    except LevelheadError as error:
        raise LevelheadError(f"{name}: {error}") from None
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _integers(values: Any) -> Tensor:
    try:
        tensor = _tensor(values)
    except LevelheadError as error:
        raise LevelheadError(f"labels: {error}") from None
    if tensor.is_floating_point():
        bad = tensor.flatten() != tensor.flatten().round()
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise LevelheadError(
                f"row {i}: the label {float(tensor.flatten()[i])} is no whole number"
            )
    return tensor.long()


def _strings(values: Any) -> tuple[str, ...]:
    if isinstance(values, (np.ndarray, Tensor)):
        values = values.tolist()
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
