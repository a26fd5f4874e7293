"""Images and a run -> answers: what its policy says of each image, in float32, as a stream."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.data import load_images
from levelhead.data.entries import Array, Examples
from levelhead.data.layouts.folder import image_paths
from levelhead.data.memory import image_array
from levelhead.decisions.policy import Answers, joined
from levelhead.deploy.decider import Decider, decider_of
from levelhead.errors import LevelheadError
from levelhead.files import write
from levelhead.machine import tune_malloc
from levelhead.outputs import Outputs
from levelhead.outputs.outputs import BESIDE_DECISIONS, RESERVED
from levelhead.runs import Run
from levelhead.text import printable

AT_ONCE = 64
"""Images in memory at a time, and as many again that are being decoded."""
COLUMNS = ("path", "prediction", "confidence", "decision", *BESIDE_DECISIONS)
_BEGUN = "# levelhead predict "
"""How an unfinished CSV begins: then what answers it."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """The answers to N images, and what could not be read (path, why)."""

    paths: tuple[str, ...]
    answers: Answers
    broken: tuple[tuple[str, str], ...]
    abstain_below: float | None = None  # a threshold that was given, not set

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.answers.policy.class_names

    @property
    def probabilities(self) -> Tensor:
        """Calibrated, float64 [N, K]; [N, 0] where the confidence alone is known."""
        known = self.answers.probabilities
        return self.answers.confidence[:, None][:, :0] if known is None else known

    @property
    def predictions(self) -> list[str]:
        """The likeliest class of each image, whatever is decided."""
        return [self.class_names[k] for k in self.answers.best.tolist()]

    @property
    def confidence(self) -> list[float]:
        """Its probability."""
        confidence: list[float] = self.answers.confidence.tolist()
        return confidence

    @cached_property
    def decisions(self) -> list[str]:
        """The class answered, or `one of a set`, `ask a person`, `none of mine`.

        With `abstain_below` the class, or `abstain`.
        """
        if self.abstain_below is None:
            return self.answers.decisions
        names, choices = self.class_names, self.answers.choice.tolist()
        return [names[k] if k >= 0 else "abstain" for k in choices]

    @property
    def words(self) -> tuple[str, ...]:
        """A line an image: path, decision, confidence, and why where it is no class."""
        paths = [printable(path) for path in self.paths]
        width = max(map(len, paths), default=0)
        lines = []
        for i, (path, decision, sure) in enumerate(
            zip(paths, self.decisions, self.confidence, strict=True)
        ):
            line = f"{path:<{width}}  {decision}  {sure:.3f}"
            if self.answers.kinds[i] != "class" and self.abstain_below is None:
                inside = self.answers.set_names[i]
                line += f"  ({self.answers.reasons[i]}; {', '.join(inside) or 'no set'})"
            lines.append(line)
        return tuple(lines)

    def rows(self, spreadsheet: bool = False) -> Iterator[list[str]]:
        """The cells of each image, in the order of `COLUMNS` and the classes."""
        answers = self.answers
        sets = [" | ".join(names) for names in answers.set_names]
        columns = (self.paths, self.predictions, self.confidence, self.decisions, sets)
        for i, cells in enumerate(zip(*columns, answers.reasons, strict=True)):
            text = [_inert(cell) if spreadsheet else str(cell) for cell in cells]
            yield [*text, *(f"{p:.9g}" for p in self.probabilities[i].tolist())]

    def save(self, path: str | Path, *, spreadsheet: bool = False) -> None:
        """Write a CSV: path, prediction, confidence, decision, set, reason, a column a class.

        `audit` reads it. With `spreadsheet`, cells of text that a spreadsheet would take for a
        formula (they begin with = + - or @) get an apostrophe before them. Raises LevelheadError if
        a class has the name of a column, or `path` is no CSV or one of the images.
        """
        check_csv(path, self.paths, self.class_names)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        whole = self.answers.probabilities is not None
        table.writerow([*COLUMNS, *(self.class_names if whole else ())])
        table.writerows(self.rows(spreadsheet))
        write(Path(path), text.getvalue())

    def to_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        answers = self.answers
        return {
            "schema": 1,
            "class_names": list(self.class_names),
            "abstain_below": self.abstain_below or 0.0,
            "promises": [] if self.abstain_below is not None else list(answers.policy.promises),
            "predictions": [
                {
                    "path": path,
                    "prediction": self.predictions[i],
                    "confidence": self.confidence[i],
                    "kind": answers.kinds[i],
                    "decision": self.decisions[i],
                    "set": list(answers.set_names[i]),
                    "known": None if answers.known is None else float(answers.known[i]),
                    "reason": answers.reasons[i],
                    "probabilities": self.probabilities[i].tolist(),
                }
                for i, path in enumerate(self.paths)
            ],
            "broken": [{"path": path, "why": why} for path, why in self.broken],
        }


@dataclass(frozen=True)
class Written:
    """What a stream of answers came to: rows in the CSV, of them read from an earlier try."""

    rows: int
    earlier: int
    decisions: dict[str, int]  # by kind, of the rows made now
    broken: tuple[tuple[str, str], ...]
    images_per_second: float


def _inert(cell: Any) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else text


def check_csv(path: str | Path, images: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise LevelheadError where predictions cannot be written to `path`."""
    if Path(path).suffix.lower() not in (".csv", ".txt"):
        raise LevelheadError(f"--out {path}: predictions are a CSV; give a name that ends in .csv")
    if Path(path).resolve() in {Path(image).resolve() for image in images}:
        raise LevelheadError(f"--out {path}: is one of the images; give another name")
    if clash := {*RESERVED, *BESIDE_DECISIONS} & set(class_names):
        raise LevelheadError(
            f"class {min(clash)!r}: is also the name of a column; use --json, or rename the class"
        )


def predict(
    run: Run | str | Path,
    images: Any,
    *,
    calibration: str | Path | None = None,
    abstain_below: float | None = None,
    device: str = "auto",
    value_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predicted:
    """The answers of a run's policy to images, and to every image in folders.

    `run`: a finished run, its folder, or an exported .onnx file. `images`: a path, or several, or
    an array [N,H,W] or [N,H,W,C] (uint8, or floats of `value_range`, as `data.from_arrays`).
    `calibration` ("none", or a calibration.json) and `abstain_below` (answer from that confidence
    on) replace the policy by a plain one, without promises. On Linux the process keeps freed
    memory from here on (`machine.tune_malloc`): a third of the time.

    Raises LevelheadError for a path that does not exist, a folder without images, and where no
    image at all can be read; single broken ones are listed in `broken`.
    """
    parts: Iterable[Part]
    tune_malloc()
    decider = decider_of(run, calibration=calibration, abstain_below=abstain_below, device=device)
    if hasattr(images, "shape") and str(images.dtype) != "object":
        array = image_array("images", images, "HWC", value_range)
        parts, total = _laid(decider, array), len(array)
    else:
        paths = listed(images)
        parts, total = decoded(decider, paths), len(paths)
    ids: list[str] = []
    broken: list[tuple[str, str]] = []
    every: list[Answers] = []
    for some, answers, faults in answered(decider, parts):
        broken += faults
        ids += some
        every += [] if answers is None else [answers]
        progress(len(ids) + len(broken), total)
    if not every:
        raise nothing_read(broken)
    return Predicted(tuple(ids), joined(every), tuple(broken), abstain_below)


def nothing_read(broken: Sequence[tuple[str, str]]) -> LevelheadError:
    """What is raised where no image could be read: (path, why) of each."""
    path, why = broken[0]
    return LevelheadError(f"{path}: {why}; no image could be read: give another")


def outputs_elsewhere(run: Run, images: str | Path | Sequence[str | Path]) -> Outputs:
    """Logits and features of images from elsewhere; their labels mean nothing. Broken ones are
    left out. Raises LevelheadError as `predict` does."""
    decider, paths = decider_of(run), listed(images)
    assert decider.scores is not None
    rows: list[Outputs] = []
    broken: list[tuple[str, str]] = []
    for examples, faults in decoded(decider, paths):
        broken += faults
        rows += [decider.scores(examples.images)] if len(examples) else []
    if not rows:
        raise nothing_read(broken)
    scores = torch.cat([part.scores for part in rows])
    features = torch.cat([part.features for part in rows if part.features is not None])
    nothing = torch.zeros(len(scores), dtype=torch.int64)
    return Outputs("logits", scores, nothing, rows[0].class_names, features=features)


def predict_to_csv(
    run: Run | str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    calibration: str | Path | None = None,
    abstain_below: float | None = None,
    device: str = "auto",
    spreadsheet: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """`predict`, written to a CSV as it goes: no more than a batch is in memory.

    Until it is whole the CSV is called OUT.part; a stopped one goes on where the same model and
    policy began it. Raises LevelheadError as `predict` and `Predicted.save` do.
    """
    tune_malloc()
    decider = decider_of(run, calibration=calibration, abstain_below=abstain_below, device=device)
    paths, out, names = listed(images), Path(out), decider.policy.class_names
    check_csv(out, [str(path) for path in paths], names)
    begun = f"{_BEGUN}{decider.stamp} {abstain_below or 0.0:g} {spreadsheet:d}\n"
    header = [*COLUMNS, *names]
    part = out.with_name(out.name + ".part")
    counts: dict[str, int] = {}
    broken: list[tuple[str, str]] = []
    try:
        done = _rows_of(part, begun, len(header))
        todo = [path for path in paths if _written(str(path), spreadsheet) not in done]
        start, made = time.perf_counter(), 0
        with part.open("a" if done else "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            if not done:
                file.write(begun)
                table.writerow(header)
            for some, answers, faults in answered(decider, decoded(decider, todo)):
                broken += faults
                made += len(some)
                if answers is not None:
                    predicted = Predicted(some, answers, (), abstain_below)
                    table.writerows(predicted.rows(spreadsheet))
                    file.flush()
                    for kind in answers.kinds:
                        counts[kind] = counts.get(kind, 0) + 1
                progress(made + len(broken), len(todo))
        if not made and not done:
            part.unlink()
            raise nothing_read(broken)
        seconds = time.perf_counter() - start
        whole = out.with_name(out.name + ".tmp")
        with (
            part.open(newline="", encoding="utf-8") as file,
            whole.open("w", newline="", encoding="utf-8") as last,
        ):
            file.readline()
            shutil.copyfileobj(file, last)
        whole.replace(out)
        part.unlink()
    except OSError as error:
        raise LevelheadError(
            f"--out {out}: cannot be written ({error.strerror}); choose another"
        ) from None
    return Written(made + len(done), len(done), counts, tuple(broken), made / max(seconds, 1e-9))


def listed(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths of all images."""
    several = [images] if isinstance(images, str | Path) else images
    return image_paths([str(path) for path in several])


def _written(path: str, spreadsheet: bool) -> str:
    return _inert(path) if spreadsheet else path


def _rows_of(part: Path, begun: str, width: int) -> set[str]:
    """The paths that an unfinished CSV holds already; its last row, cut off, is cut away."""
    if not part.exists():
        return set()
    with part.open("rb") as file:
        if file.readline() != begun.encode():
            return set()
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    table = csv.reader(io.StringIO(raw[:end].decode("utf-8", "replace"), newline=""))
    rows = list(table)[1:]
    if any(len(row) != width for row in rows):
        return set()
    paths = {row[0] for row in rows}
    with part.open("r+b") as file:
        file.truncate(len(begun.encode()) + end)
    return paths


Part = tuple[Examples, tuple[tuple[str, str], ...]]
"""Decoded images, and those that cannot be read (id, why)."""


def answered(
    decider: Decider, parts: Iterable[Part]
) -> Iterator[tuple[tuple[str, ...], Answers | None, tuple[tuple[str, str], ...]]]:
    """Some images at a time: their ids, the answers to them, and those that cannot be read."""
    for examples, faults in parts:
        answers = decider.decide(examples.images)[0] if len(examples) else None
        yield examples.ids, answers, faults


def decoded(decider: Decider, paths: Sequence[Path]) -> Iterator[Part]:
    """Some images at a time, decoded while the network works on those before them."""
    if not paths:
        return

    def some(start: int) -> Part:
        part = paths[start : start + AT_ONCE]
        return load_images(
            part,
            image_size=decider.size,
            channels=decider.channels,
            resize=decider.resize,
            bits=decider.bits,
        )

    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(some, 0)
        for start in range(AT_ONCE, len(paths) + AT_ONCE, AT_ONCE):
            part = waiting.result()
            if start < len(paths):
                waiting = ahead.submit(some, start)
            yield part


def _laid(decider: Decider, array: Array) -> Iterator[Part]:
    """The images of an array uint8 [N,H,W,C], some at a time, as files of these pixels would be."""
    for start in range(0, len(array), AT_ONCE):
        images = np.stack([decider.fit(image) for image in array[start : start + AT_ONCE]])
        n, ids = len(images), tuple(str(start + i) for i in range(len(images)))
        yield Examples(images, np.full(n, -1), ids, np.zeros(n, np.uint64)), ()
