"""scikit-learn's way in: fit on paths or arrays, predict with calibration, sets and decisions."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from levelhead.data.memory import from_arrays
from levelhead.deploy.kept import basis, keep_policy
from levelhead.deploy.predict import Predicted, predict
from levelhead.errors import LevelheadError
from levelhead.judging.setting import Wishes, set_policy
from levelhead.recipe import Recipe
from levelhead.training import train

Array = np.ndarray[Any, Any]


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A levelhead run as a scikit-learn classifier of images.

    X is a list of paths, or an array [N,H,W] or [N,H,W,C] (uint8, or floats of `value_range`); y
    are labels of any kind that sorts. `fit` makes a run (`run_`; in `out`, or in a folder that goes
    with this object: give `out` to keep it), which holds out `validation` and `test` of what it is
    given: probabilities are calibrated, and decisions keep what `run_.policy.promises` says.
    `recipe` has further fields of `levelhead.Recipe`. Raises LevelheadError, which is a ValueError.

    predict: the likeliest class. predict_proba: calibrated. predict_set: conformal sets. decide:
    the class, or "one of a set", "ask a person", "none of mine".
    """

    run_: Any
    classes_: Array

    def __init__(
        self,
        model: str = "auto",
        *,
        smoothing: float = 0.0,
        epochs: int | None = None,
        image_size: int | None = None,
        finetune: bool | None = None,
        validation: float = 0.2,
        test: float = 0.1,
        risk: float | None = None,
        coverage: float | None = None,
        alpha: float = 0.1,
        unknown: float | None = 0.05,
        level: float = 0.95,
        value_range: tuple[float, float] | None = None,
        recipe: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.smoothing = smoothing
        self.epochs = epochs
        self.image_size = image_size
        self.finetune = finetune
        self.validation = validation
        self.test = test
        self.risk = risk
        self.coverage = coverage
        self.alpha = alpha
        self.unknown = unknown
        self.level = level
        self.value_range = value_range
        self.recipe = recipe
        self.out = out
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train, calibrate and set the policy. Raises LevelheadError as `levelhead.train` does."""
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or len(labels) != len(X):
            raise LevelheadError(f"{len(X)} images, labels of shape {labels.shape}; give one each")
        self.classes_, place = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise LevelheadError("y: one class; a classifier needs at least two")
        # Names that sort as the classes do, whatever these are.
        width = len(str(len(self.classes_)))
        names = [f"{i:0{width}} {name}" for i, name in enumerate(self.classes_.tolist())]
        fields: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("model", "smoothing", "epochs", "image_size", "finetune", "validation",
                         "test", "device")
        } | {"seed": self.random_state, "split_seed": self.random_state}  # fmt: skip
        fields |= dict(self.recipe or {})
        if unknown := set(fields) - {field.name for field in dataclasses.fields(Recipe)}:
            raise LevelheadError(f"recipe: has no field {min(unknown)!r}; see levelhead.Recipe")
        if self.out is None:
            folder = Path(tempfile.mkdtemp(prefix="levelhead-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = Path(self.out)
        if (paths := _paths(X)) is None:
            data = from_arrays(X, [names[k] for k in place], value_range=self.value_range,
                               class_names=names)  # fmt: skip
            self.run_ = train(Recipe("arrays", **fields), folder / "run", data=data)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            table, listed = folder / "labels.csv", zip(paths, place, strict=True)
            with table.open("w", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                rows.writerow(["path", "label"])
                rows.writerows([os.path.abspath(path), names[k]] for path, k in listed)
            fields = {"outside_paths": True} | fields
            self.run_ = train(Recipe(str(table), **fields), folder / "run")
        wishes = Wishes(
            risk=self.risk, coverage=self.coverage, alpha=self.alpha, unknown=self.unknown
        )
        if (wishes, self.level) != (Wishes(), 0.95):
            validation = self.run_.outputs("validation")
            policy = set_policy(validation, wishes, level=self.level, **basis(self.run_))
            keep_policy(self.run_, policy)
        return self

    def answers(self, X: Any) -> Predicted:
        """All there is to say of each image, as `levelhead.predict` gives it; classes by name.

        Raises LevelheadError where an image cannot be read.
        """
        check_is_fitted(self, "run_")
        paths = _paths(X)
        images = X if paths is None else paths
        predicted = predict(self.run_, images, device=self.device, value_range=self.value_range)
        if predicted.broken:
            path, why = predicted.broken[0]
            raise LevelheadError(f"{path}: {why}; leave it out")
        return predicted

    def predict(self, X: Any) -> Array:
        """The likeliest class of each image, [N]."""
        return np.asarray(self.classes_[self.answers(X).answers.best.numpy()])

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities [N, K], columns as `classes_`."""
        return np.asarray(self.answers(X).probabilities.numpy())

    def predict_set(self, X: Any) -> Array:
        """Which classes are in each conformal set, bool [N, K]."""
        sets = self.answers(X).answers.sets
        if sets is None:
            raise LevelheadError("the policy has no sets; give more images for validation")
        return np.asarray(sets.numpy())

    def decide(self, X: Any) -> Array:
        """The class answered, or what stands for none, [N] of objects."""
        answers = self.answers(X).answers
        decisions = np.array(answers.decisions, dtype=object)
        choice = answers.choice.numpy()
        decisions[choice >= 0] = self.classes_[choice[choice >= 0]]
        return decisions

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _paths(images: Any) -> Sequence[str] | None:
    """The paths that `images` is a list of; None for arrays."""
    if isinstance(images, str | Path):
        raise LevelheadError(f"{images}: one path; give a list of them")
    first = images[0] if len(images) else None
    return [str(path) for path in images] if isinstance(first, str | Path) else None
