"""Reading anyone's predictions: npz, safetensors, CSV and parquet become Outputs.

Tables are read in pieces and their scores laid in a file that the system pages in and out
(`columns`), arrays are mapped where they lie: scores larger than memory can be judged. An audit
holds some 350 bytes an example and a sample of 20,000 (benchmarks/audit_memory.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.delimited import is_number, rows
from levelhead.errors import LevelheadError, NoLabels
from levelhead.files import reading
from levelhead.labels import positions, spelled_rows, spelling
from levelhead.machine import fits_in_memory
from levelhead.outputs.coerce import shares
from levelhead.outputs.columns import Asked, read_csv, read_parquet
from levelhead.outputs.outputs import STRINGS, TENSORS, Outputs
from levelhead.outputs.validate import Kind


def read_predictions(
    path: str | Path,
    kind: Kind | None = None,
    *,
    group_column: str = "group",
    labelled: bool = True,
) -> Outputs:
    """Read predictions made by anyone: .npz, .csv (or .csv.gz), .parquet, .safetensors.

    npz and safetensors hold exactly one of the arrays `logits`, `probabilities` and `confidence`,
    the last with `predicted`, and `labels` (positions, names, or [N, K] counts of what people
    said); optional `features`, `ids`, `groups`, `classes`. CSV and parquet have a column a class
    and `label` (the class's name, or its position among the class columns; names win), and need
    `kind`; of kind "confidence" the columns `prediction` and `confidence` alone. Columns
    `label:NAME` count the annotators who said NAME. The columns of `RESERVED` are no classes; `id`,
    else `path`, names the example, `group_column` its group; a row index is left out. One column of
    scores is the second class's of two. CSV may have `,` `;` or TAB between its cells, decimal
    commas, UTF-8 or UTF-16. Without `labelled` the labels may be missing, and are then 0. What a
    reader should know of it stands in `notes`. Raises LevelheadError naming the file, the line or
    row, and the value.
    """
    path = Path(path)
    name = path.name.lower()
    readers: dict[str, Callable[[Path, Asked], Outputs]]
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": read_parquet}
    readers |= {end + packed: read_csv for end in (".csv", ".tsv") for packed in ("", ".gz")}
    reader = next((readers[end] for end in readers if name.endswith(end)), None)
    if reader is None:
        raise LevelheadError(
            f"{path}: cannot be read as predictions; give one of {', '.join(readers)}"
        )
    if not path.is_file():
        raise LevelheadError(f"{path}: no such file; check the path")
    try:
        with reading(path, "write it anew"):
            return reader(path, Asked(kind, group_column, labelled))
    except LevelheadError as error:
        sort = NoLabels if isinstance(error, NoLabels) else LevelheadError
        raise sort(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def read_people(path: str | Path, outputs: Outputs) -> Tensor:
    """What people said of the same examples, in the same order, as shares float64 [N, K].

    From .npy or from .csv: counts or shares, a row an example, a column a class. A first line of
    class names, in any order, is heeded. Raises LevelheadError naming the file if it is not that.
    """
    path = Path(path)
    try:
        with reading(path, "give a row an example, a column a class"):
            plain = path.suffix == ".npy"
            table = np.load(path, allow_pickle=False) if plain else _counts(path, outputs)
            distribution = shares(table)
    except LevelheadError as error:
        raise LevelheadError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if distribution.shape != (len(outputs), outputs.classes):
        raise LevelheadError(
            f"{path}: shape {tuple(distribution.shape)} for {len(outputs)} predictions of "
            f"{outputs.classes} classes; give a row a prediction, in the same order"
        )
    return distribution


def read_acceptable(path: str | Path, outputs: Outputs) -> Tensor:
    """The labels that each example may have, bool [N, K].

    From .npy ([N, K], above 0 is acceptable), or from a table with a column `labels` of names with
    | between them, by `id` or in the same order. Raises LevelheadError naming the file and the row.
    """
    path, names = Path(path), outputs.class_names
    if path.suffix == ".npy":
        return read_people(path, outputs) > 0
    with reading(path, "give a table with the columns id and labels"):
        lines = list(rows(path))
    header = [spelling(cell) for cell in lines[0][1]] if lines else []
    if "labels" not in header:
        raise LevelheadError(f"{path}: no column 'labels'; give names with | between them")
    place = {name: i for i, name in enumerate(outputs.ids or ())}
    by_id = "id" in header and bool(place)
    allowed = torch.zeros((len(outputs), len(names)), dtype=torch.bool)
    for row, (line, cells) in enumerate(lines[1:]):
        where = f"{path}: line {line}"
        if len(cells) != len(header):
            raise LevelheadError(f"{where} has {len(cells)} cells; others have {len(header)}")
        by_column = dict(zip(header, map(spelling, cells), strict=True))
        if by_id and by_column["id"] not in place:
            continue  # of another split
        i = place[by_column["id"]] if by_id else row
        if i >= len(outputs):
            raise LevelheadError(
                f"{where}: more rows than the {len(outputs):,} predictions; give a column id"
            )
        words = [spelling(word) for word in by_column["labels"].split("|") if word.strip()]
        if words:
            allowed[i, torch.from_numpy(positions(words, names, _at(where)))] = True
    if not bool(allowed.any(1).all()):
        i = int((~allowed.any(1)).nonzero()[0])
        name = outputs.ids[i] if outputs.ids is not None else f"row {i}"
        raise LevelheadError(f"{path}: no label for {name}; give every example at least one")
    return allowed


def read_superclasses(path: str | Path, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """What each class is a kind of, from a table with the columns class and superclass.

    Raises LevelheadError naming the file and the class.
    """
    path = Path(path)
    with reading(path, "give a table with the columns class and superclass"):
        header, *lines = spelled_rows(path)
    if not {"class", "superclass"} <= set(header):
        raise LevelheadError(f"{path}: its first line must be class,superclass")
    column, above = header.index("class"), header.index("superclass")
    kinds = {cells[column]: cells[above] for cells in lines}
    if len(kinds) < len(lines):
        raise LevelheadError(f"{path}: names a class twice; keep one row a class")
    for name in class_names:
        if not kinds.get(name):
            raise LevelheadError(f"{path}: no superclass of {name!r}; give one of every class")
    return tuple(kinds[name] for name in class_names)


def _at(where: str) -> Callable[[int], str]:
    return lambda i: where


def _counts(path: Path, outputs: Outputs) -> np.ndarray:
    """The numbers of a CSV, its columns in order of the classes."""
    lines = list(rows(path))
    header = [spelling(cell) for cell in lines[0][1]] if lines else []
    place: list[int] | None = None
    if sorted(header) == sorted(outputs.class_names) and not all(map(is_number, header)):
        place = [header.index(name) for name in outputs.class_names]
        lines = lines[1:]
    table = np.empty((len(lines), len(header)))
    for i, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise LevelheadError(f"line {line}: {len(cells)} cells; others have {len(header)}")
        if bad := next((cell for cell in cells if not is_number(cell)), None):
            raise LevelheadError(
                f"line {line}: {bad!r} is no number; give counts, or the class names above them"
            )
        table[i] = [float(cell) for cell in cells]
    return table if place is None else table[:, place]


def _npz(path: Path, asked: Asked) -> Outputs:
    import zipfile

    needed = {*_KINDS, *TENSORS, "labels", "ids", "groups", "classes"}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.zip.infolist()}
            members = {name: member for name, member in members.items() if name in needed}
            fits_in_memory(sum(m.file_size for m in members.values() if m.compress_type), path)
            arrays = {name: _mapped(path, archive, name) for name in members}
    except LevelheadError:
        raise
    except (ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise LevelheadError(f"not an npz of plain arrays ({error}); write it anew") from None
    more = {name: arrays.get(name) for name in ("ids", "groups")}
    return _from_arrays(arrays, asked, arrays.get("classes"), more)


def _mapped(path: Path, archive: Any, name: str) -> Any:
    """An array of an npz: mapped from the file where it is stored plainly, else read."""
    member = archive.zip.getinfo(f"{name}.npy") if f"{name}.npy" in archive.zip.namelist() else None
    if member is None or member.compress_type != 0 or member.file_size < 1 << 26:
        return archive[name]
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = reader(file)
        header = file.tell()
    if fortran or dtype.hasobject or not dtype.isnative:
        return archive[name]
    with open(path, "rb") as raw:  # the name and extra field of the local header come first
        raw.seek(member.header_offset + 26)
        lengths = raw.read(4)
    start = (
        member.header_offset
        + 30
        + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    )
    return np.memmap(path, dtype, "c", start + header, shape)


def _safetensors(path: Path, asked: Asked) -> Outputs:
    from safetensors import SafetensorError, safe_open

    names = {*_KINDS, *TENSORS, "labels"}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("levelhead", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise LevelheadError(f"not a whole safetensors file ({error}); write it anew") from None
    more = {name: header.get(name) for name in STRINGS}
    more["anonymous"] = bool(more["anonymous"])
    return _from_arrays(arrays, asked, header.get("classes"), more, ours=True)


_KINDS: tuple[Kind, ...] = ("logits", "probabilities", "confidence")


def _from_arrays(
    arrays: Mapping[str, Any],
    asked: Asked,
    classes: Any,
    more: dict[str, Any],
    *,
    ours: bool = False,
) -> Outputs:
    """Outputs of arrays by name; `ours` were written by `Outputs.save`: labels are positions."""
    kinds = [name for name in _KINDS if name in arrays]
    if asked.kind in kinds and asked.kind == "confidence":  # saved beside the scores, asked for
        kinds = ["confidence"]
    kinds = [name for name in kinds if name != "confidence"] or kinds
    if len(kinds) != 1:
        if kinds:
            raise LevelheadError("holds both logits and probabilities; keep exactly one of them")
        raise LevelheadError(
            "holds neither logits nor probabilities; add an array of one of these names"
        )
    kind = kinds[0]
    if asked.kind is not None and asked.kind != kind:
        raise LevelheadError(f"holds {kind}, not {asked.kind}; leave out --{asked.kind}")
    scores, labels = arrays[kind], arrays.get("labels")
    if labels is None:
        if asked.labelled:
            raise NoLabels("holds no array 'labels'; add the true class of each row")
        labels = torch.zeros(len(scores), dtype=torch.int64)
    more |= {name: arrays.get(name) for name in TENSORS if name != "predicted"}
    if ours and classes is not None:
        texts = {
            name: tuple(more[name]) for name in ("ids", "groups", "superclasses") if more.get(name)
        }
        predicted = arrays.get("predicted") if kind == "confidence" else None
        return Outputs(kind, scores, labels, tuple(classes), predicted=predicted, **more | texts)
    if kind != "confidence":
        make = Outputs.from_logits if kind == "logits" else Outputs.from_probabilities
        return make(scores, labels, classes, **more)
    if "predicted" not in arrays:
        raise LevelheadError("holds no array 'predicted'; add the predicted class of each row")
    return Outputs.from_confidence(scores, arrays["predicted"], labels, classes, **more)
