"""The run folder: everything about one training, in files a person can read."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from levelhead.errors import LevelheadError
from levelhead.files import clean, read_object, reading, refuse_pipes, sha256, write
from levelhead.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from levelhead.calibrators import Calibrator
    from levelhead.data.entries import Dataset
    from levelhead.decisions.policy import Policy
    from levelhead.models import Network, Shape
    from levelhead.outputs import Outputs
    from levelhead.statistics.measured import Measured


MAKE_ANEW = "restore it, or train anew into another --out"


def _splits(value: Any, kind: type) -> bool:
    """Whether each split has a value of a kind."""
    names = ("train", "validation", "test")
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name in names)


_DATA: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "source": lambda value: isinstance(value, str),
    "class_names": lambda value: (
        isinstance(value, list) and len(value) > 1 and all(isinstance(n, str) for n in value)
    ),
    "channels": lambda value: value in (1, 3) and type(value) is int,
    "image_size": lambda value: type(value) is int and value > 0,
    "counts": lambda value: _splits(value, int),
    "hashes": lambda value: _splits(value, str),
    "notes": lambda value: isinstance(value, list),
    "skipped": lambda value: isinstance(value, list),
}
"""What every data.json holds, by field."""


@dataclass(frozen=True)
class RunFolder:
    """What every run folder has, of images or of sentences; read when asked.

    Raises LevelheadError for what is missing or damaged.
    """

    folder: Path

    @property
    def findings(self) -> dict[str, Any]:
        """The judgement: validation, test, test after calibration."""
        return read_object(self.folder / "findings.json")

    @property
    def words(self) -> tuple[str, ...]:
        """What was found, as sentences; as `audit`, `calibrate` and `decide` have them."""
        with reading(self.folder / "findings.json", MAKE_ANEW):
            return tuple(map(str, self.findings["words"]))

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    @property
    def finished(self) -> bool:
        """Whether training and judging came to their end (findings are written last)."""
        return (self.folder / "findings.json").exists()

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv."""
        path = self.folder / "history.csv"
        refuse_pipes(path)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        except (OSError, ValueError, TypeError) as error:
            raise LevelheadError(f"{path}: cannot be read ({error}); train anew") from None

    def path_of(self, split: str) -> Path:
        """Where the outputs of `validation`, `test` or other examples are kept."""
        return self.folder / "outputs" / f"{split}.safetensors"

    def outputs(self, split: str) -> Outputs:
        """Outputs of `validation`, `test` or whatever else `path_of` keeps."""
        from levelhead.outputs.read import read_predictions

        return read_predictions(self.path_of(split))

    @property
    def calibration(self) -> Calibrator:
        """Temperature scaling fitted on validation: what studies hold smoothing against."""
        from levelhead.calibrators import calibrator_of

        path = self.folder / "calibration.json"
        with reading(path, MAKE_ANEW):
            return calibrator_of(read_object(path))

    @contextmanager
    def reading_weights(self, path: Path) -> Iterator[None]:
        """Whatever is wrong with a file of weights becomes one line that says what to do."""
        from safetensors import SafetensorError

        refuse_pipes(path)
        try:
            yield
        except FileNotFoundError:
            raise LevelheadError(
                f"{path}: missing; training has not finished: levelhead resume {self.folder}"
            ) from None
        except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LevelheadError(
                f"{path}: not this recipe's model ({reason}); train anew into another --out"
            ) from None

    def require_finished(self) -> Self:
        """Itself. Raises LevelheadError where its training has not come to its end."""
        if not self.finished:
            raise LevelheadError(
                f"{self.folder}: training has not finished; levelhead resume {self.folder}"
            )
        return self


@dataclass(frozen=True)
class Run(RunFolder):
    """The run folder of a network of images."""

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return Recipe.load(self.folder / "recipe.toml")

    @property
    def data(self) -> dict[str, Any]:
        """What was trained on: names, counts, hashes, mean and deviation, warnings.

        Raises LevelheadError for a file that lacks what readers of runs lean on.
        """
        path = self.folder / "data.json"
        content = read_object(path)
        for name, fits in _DATA.items():
            if name not in content or not fits(content[name]):
                what = "no" if name not in content else "another"
                raise LevelheadError(f"{path}: holds {what} {name!r}; {MAKE_ANEW}")
        return content

    @property
    def calibrated_test(self) -> tuple[str, dict[str, Any]] | None:
        """The calibrator of predictions and the judgement of test with it; None without one.

        A run of an earlier version, whose findings name none, has its temperature.
        """
        findings = self.findings
        if "calibrator" not in findings:
            return "temperature", findings["test_calibrated"]
        choice = findings["calibrator"]
        return None if choice["test"] is None else (choice["method"], choice["test"])

    @property
    def metrics(self) -> dict[str, Measured]:
        """Every metric of the test images as predictions give them: with the calibrator."""
        from levelhead.judging.judge import measured

        with reading(self.folder / "findings.json", MAKE_ANEW):
            pair = self.calibrated_test
            return measured(self.findings["test"] if pair is None else pair[1])

    def ids(self, split: str) -> set[str]:
        """Which examples were in a split, from splits.csv."""
        with reading(self.folder / "splits.csv", MAKE_ANEW):
            return {row["id"] for row in self._splits() if row["split"] == split}

    @property
    def digests(self) -> np.ndarray:
        """Of the pixels of all its images, uint64 [N], from splits.csv."""
        import numpy as np

        with reading(self.folder / "splits.csv", MAKE_ANEW):
            return np.array([int(row["digest"], 16) for row in self._splits()], np.uint64)

    def _splits(self) -> list[dict[str, str]]:
        with (self.folder / "splits.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def calibrator(self) -> Calibrator | None:
        """What predictions are calibrated with; None where no calibrator is shown to help.

        A run of an earlier version, whose findings name none, has its temperature.
        """
        from levelhead.calibrators import calibrator_of

        if (self.folder / "policy.json").exists():
            return self.policy.calibrator
        chosen = self.findings.get("calibrator")
        if chosen is None:
            return self.calibration
        with reading(self.folder / "findings.json", MAKE_ANEW):
            stored = chosen["calibration"]
            return None if stored is None else calibrator_of(stored)

    @property
    def policy(self) -> Policy:
        """What predictions obey. A run of an earlier version has none: every image is answered.

        Raises LevelheadError for one that was set for other weights, or is damaged.
        """
        from levelhead.decisions.policy import SET_ANEW, read_policy, threshold_at

        if not (self.folder / "policy.json").exists():
            return threshold_at(0.0, self.data["class_names"], self.calibrator)
        policy, path = read_policy(self.folder), self.folder / "policy.json"
        weights = self.folder / "model.safetensors"
        with reading(weights, MAKE_ANEW):
            stamp = sha256(weights)
        if policy.model != stamp:
            raise LevelheadError(
                f"{weights}: not the weights that policy.json was set for; restore it, or "
                f"{SET_ANEW.removesuffix('RUN')}{self.folder}"
            )
        if policy.class_names != tuple(self.data["class_names"]):
            raise LevelheadError(f"{path}: of other classes than this run; {SET_ANEW}")
        return policy

    def snapshot(self, step: int) -> Path:
        """Where the weights after `step` steps are kept."""
        return self.folder / "snapshots" / f"step-{step:07}.safetensors"

    @property
    def snapshots(self) -> list[int]:
        """The steps whose weights were kept (`save_every`), in order."""
        files = (self.folder / "snapshots").glob("step-*.safetensors")
        return sorted(int(path.stem.removeprefix("step-")) for path in files)

    def network(self, device: str | torch.device = "cpu", step: int | None = None) -> Network:
        """The trained network, ready to predict; with `step` as it stood in that snapshot."""
        import torch
        from safetensors.torch import load_file

        from levelhead.models import build
        from levelhead.models.weights import restore

        recipe, data = self.recipe, self.data
        with reading(self.folder / "data.json", MAKE_ANEW):
            sizes = data["channels"], data["image_size"], len(data["class_names"])
            network = build(
                recipe.model,
                shape_of(recipe, *sizes),
                mean=torch.tensor(data["mean"]),
                std=torch.tensor(data["std"]),
                pretrained=recipe.pretrained,
                download=False,
                tuned=bool(recipe.finetune),
            )
        path = self.folder / "model.safetensors" if step is None else self.snapshot(step)
        if step is not None and step not in self.snapshots:
            kept = ", ".join(map(str, self.snapshots)) or "none; train with --save-every"
            raise LevelheadError(f"{path}: no such snapshot; there are {kept}")
        with self.reading_weights(path):
            restore(network, load_file(path))
        return network.place(device).eval()


def shape_of(recipe: Recipe, channels: int, size: int, classes: int) -> Shape:
    """What the recipe's model is built for: images of `size` px."""
    from levelhead.models import Shape

    return Shape(channels, size, classes, recipe.width, recipe.dropout)


def open_run(folder: str | Path) -> Run:
    """A run folder that exists. Raises LevelheadError where there is none."""
    path = Path(folder)
    if not (path / "recipe.toml").exists():
        raise LevelheadError(
            f"{path}: not a run folder (no recipe.toml); give one that levelhead train made"
        )
    return Run(path)


def finished_run(folder: str | Path) -> Run:
    """A run whose training has come to its end. Raises LevelheadError otherwise."""
    return open_run(folder).require_finished()


def runs_of(paths: Sequence[str | Path]) -> list[Run]:
    """The finished runs among run folders and studies (SETTING/seed-N), in order, each once.

    Warns of those that have not finished. Raises LevelheadError where a folder holds no run, and
    where none has finished.
    """
    runs: dict[Path, Run] = {}
    for path in map(Path, paths):
        inside = [path / "recipe.toml"] if (path / "recipe.toml").exists() else []
        inside = inside or sorted(path.glob("*/seed-*/recipe.toml"))
        if not inside:
            raise LevelheadError(
                f"{path}: neither a run (recipe.toml) nor a study (SETTING/seed-N); give what "
                "levelhead train, distill or compare made"
            )
        runs |= {file.parent.resolve(): Run(file.parent) for file in inside}
    waiting = [str(run.folder) for run in runs.values() if not run.finished]
    if not runs or len(waiting) == len(runs):
        state = f"{', '.join(waiting)}: not finished" if waiting else "no run"
        raise LevelheadError(f"{state}; give at least one run that levelhead train ended")
    if waiting:
        warnings.warn(f"left out, not finished: {', '.join(waiting)}", stacklevel=2)
    return [run for run in runs.values() if run.finished]


def new_folder(out: str | Path | None, name: str) -> Path:
    """Make an empty folder: `out`, or the next free `runs/NAME-N`; refuses one with files."""
    try:
        if out is not None:
            path = Path(out)
            path.mkdir(parents=True, exist_ok=True)
            clean(path)
            if any(file.name != ".lock" for file in path.iterdir()):
                what = "a run" if (path / "recipe.toml").exists() else "other files"
                fix = f" or levelhead resume {path}" if what == "a run" else ""
                raise LevelheadError(
                    f"--out {path}: holds {what} already; choose another folder{fix}"
                )
            return path
        number = 1
        while True:
            path = Path("runs") / f"{name}-{number}"
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise LevelheadError(
            f"--out {path}: cannot be made ({error.strerror}); choose another folder"
        ) from None


def write_splits(path: Path, splits: Dataset) -> None:
    """Who was in which split: id, split, label, group, digest of the pixels."""
    from levelhead.targets import UNLABELLED

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "split", "label", "group", "digest"])
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        groups = part.groups or ("",) * len(part)
        for id_, label, group, digest in zip(
            part.ids, part.labels.tolist(), groups, part.digests.tolist(), strict=True
        ):
            class_name = "" if label == UNLABELLED else splits.class_names[label]
            table.writerow([id_, name, class_name, group, f"{digest:016x}"])
    write(path, text.getvalue())
