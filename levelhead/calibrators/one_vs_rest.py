"""Isotonic regression and histogram binning: each class's probability mapped on its own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators.calibrator import Calibrator, Layer, check_classes
from levelhead.outputs import Outputs

BINS = 15


@dataclass(frozen=True)
class OneVsRest(Calibrator):
    """A map of p_k for each class k; then floored at 1/(2n), n the examples of the fit, and
    renormalised, so that no probability is 0. Gives probabilities; cannot be undone."""

    x: tuple[tuple[float, ...], ...]  # K times: places in [0, 1], ascending
    y: tuple[tuple[float, ...], ...]  # K times: values there (isotonic) or between (histogram)
    class_names: tuple[str, ...]
    n: int
    fitted_on: str = ""
    limit: str | None = None

    between: ClassVar[int]  # 1 where y lies between the places, and beyond the last

    def __post_init__(self) -> None:
        for x, y, _ in zip(self.x, self.y, self.class_names, strict=True):
            if np.asarray(y, float).shape != (len(x) + self.between,) or np.any(np.diff(x) < 0):
                raise ValueError("places that do not ascend, or too few values")

    @classmethod
    def fit_outputs(cls, outputs: Outputs, *, fitted_on: str = "") -> Self:
        """Fitted to Outputs of any split. Raises LevelheadError for kind "confidence"."""
        check_classes(outputs, cls.method)
        p, labels = outputs.probabilities().numpy(), outputs.labels.numpy()
        maps = [cls._steps(p[:, k], labels == k) for k in range(outputs.classes)]
        x, y = zip(*((tuple(a.tolist()), tuple(b.tolist())) for a, b in maps), strict=True)
        return cls(x, y, outputs.class_names, len(outputs), fitted_on)

    @classmethod
    def least(cls, classes: int) -> int:
        """1,000, and 100 a class: isotonic regression overfits with fewer (Niculescu-Mizil and
        Caruana 2005, for two classes)."""
        return max(1000, 100 * classes)

    @classmethod
    @abstractmethod
    def _steps(cls, p: Any, hit: Any) -> tuple[Any, Any]:
        """x and y for probabilities [N] of one class, and whether it was the label [N]."""

    @abstractmethod
    def _values(self, p: Any, k: int) -> Any:
        """Probabilities [N] of class k, mapped."""

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated probabilities. Raises LevelheadError for other classes."""
        check_classes(outputs, self.method, self.class_names)
        p = outputs.probabilities()
        for k in range(outputs.classes):
            p[:, k] = torch.from_numpy(self._values(p[:, k].numpy(), k))
        p.clamp_(min=1 / (2 * self.n))
        return dataclasses.replace(outputs, kind="probabilities", scores=p / p.sum(1, keepdim=True))


def _places(x: Any, y: Any) -> dict[str, Any]:
    """The places and values of each class, by name."""
    pairs = [(f"x{k}", row) for k, row in enumerate(x)]
    return dict(pairs + [(f"y{k}", row) for k, row in enumerate(y)])


def _floored(columns: list[Tensor], n: int) -> Tensor:
    p = torch.stack(columns, 1).clamp(min=1 / (2 * n))
    return (p / p.sum(1, keepdim=True)).log()


class Isotonic(OneVsRest):
    """The best non-decreasing map, one class against the rest (Zadrozny and Elkan 2002).

    Linear between its steps, constant beyond them, as in scikit-learn, which fits it.
    """

    method, title = "isotonic", "Isotonic regression, one class against the rest"
    size, between = staticmethod(lambda k: None), 0

    @classmethod
    def _steps(cls, p: Any, hit: Any) -> tuple[Any, Any]:
        from sklearn.isotonic import IsotonicRegression

        regression = IsotonicRegression(y_min=0, y_max=1).fit(p, hit.astype(np.float64))
        return regression.X_thresholds_, regression.y_thresholds_

    def _values(self, p: Any, k: int) -> Any:
        return np.interp(p, self.x[k], self.y[k])

    def layer(self) -> Layer:
        """The same as a module."""
        n, classes = self.n, len(self.class_names)

        def function(z: Tensor, **fitted: Tensor) -> Tensor:
            p, columns = torch.softmax(z, 1), []
            for k in range(classes):
                x, y = fitted[f"x{k}"], fitted[f"y{k}"]
                at = ((x <= p[:, k : k + 1]).sum(1) - 1).clamp(0, max(len(x) - 2, 0))
                after = (at + 1).clamp(max=len(x) - 1)
                run = torch.where(x[after] > x[at], x[after] - x[at], 1.0)
                share = ((p[:, k] - x[at]) / run).clamp(0, 1)
                columns.append(y[at] + share * (y[after] - y[at]))
            return _floored(columns, n)

        return Layer(function, **_places(self.x, self.y))


class Histogram(OneVsRest):
    """The share of hits in 15 bins of equal mass, one class against the rest.

    Edges lie half-way between neighbours; where many values are equal, bins are fewer (Zadrozny and
    Elkan 2001).
    """

    method, title = "histogram", "Histogram binning, one class against the rest"
    size, between = staticmethod(lambda k: BINS * k), 1

    @classmethod
    def _steps(cls, p: Any, hit: Any) -> tuple[Any, Any]:
        ordered, values = np.sort(p), np.unique(p)
        last = np.unique(ordered[np.arange(1, BINS) * len(p) // BINS - 1])  # of each bin but one
        at = np.searchsorted(values, last[last < values[-1]])
        edges = np.minimum((values[at] + values[at + 1]) / 2, np.nextafter(values[at + 1], 0))
        place = np.searchsorted(edges, p)
        return edges, np.bincount(place, hit) / np.bincount(place)

    def _values(self, p: Any, k: int) -> Any:
        return np.array(self.y[k])[np.searchsorted(self.x[k], p)]

    def layer(self) -> Layer:
        """The same as a module."""
        n, classes = self.n, len(self.class_names)

        def function(z: Tensor, **fitted: Tensor) -> Tensor:
            p = torch.softmax(z, 1)
            places = [(fitted[f"x{k}"] < p[:, k : k + 1]).sum(1) for k in range(classes)]
            return _floored([fitted[f"y{k}"][place] for k, place in enumerate(places)], n)

        return Layer(function, **_places(self.x, self.y))
