"""Metric: the contract of the table METRICS, and the intervals of metrics."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.statistics.calibration_error import Cells, Error, calibration_interval
from levelhead.statistics.examples import (
    ANALYTIC,
    Interval,
    Resampled,
    bootstrap_interval,
    deviations,
    normal_interval,
    share_interval,
    weights,
    with_unseen_errors,
)
from levelhead.statistics.measured import Quantity

P = ParamSpec("P")
T = TypeVar("T")

Needs = Literal[
    "confidence",
    "classes",
    "likelihood",
    "probabilities",
    "label_distribution",
    "acceptable",
    "superclasses",
]
"""What a metric must know of each example: whether it is right and how sure; which class it is;
the probability of its label, of all classes; and so on."""


@dataclass(frozen=True)
class Metric:
    """A number that judges Outputs.

    `prepare(outputs)` does the work on the scores once; `value(prepared, weights=None)` gives the
    number by name: a float, also with examples weighted by `weights` [N], or a tensor [R] under
    weights [R, N], so that a bootstrap re-weights. What `prepare` gives has the length N; of a mean
    over examples it is a tensor [N]. `undefined(outputs)` says why there is no number, or None; ask
    `reason`, which looks at `needs` first.
    """

    name: str
    title: str
    direction: Literal["up", "down", "none"]  # what is better
    source: str
    prepare: Callable[[Outputs], Any]
    value: Callable[..., dict[str, Any]]
    interval: Literal["wilson", "bootstrap", "calibration", "none"]
    short: str = ""  # what a sentence calls it; else the title
    heading: str = ""  # what a table calls it; else the title
    meaning: str = ""  # a few words for somebody who does not know it
    unit: Literal["%", "nats", ""] = ""  # % is printed times 100
    digits: int = 4  # of a difference in a sentence
    binned: bool = False  # whether `prepare` takes `bins`
    needs: Needs = "confidence"
    # Of the prepared: empirical influence values [N]; a mean needs none.
    influence: Callable[[Any], Tensor] | None = None
    # Of the prepared and the units: what `calibration_interval` takes; the side the error counts.
    cells: Callable[[Any, Tensor | None], tuple[Cells, Error]] | None = None
    side: int = 0
    # Of the prepared, a level and the units: an interval where the bootstrap cannot give one.
    ends: Callable[[Any, float, Tensor | None], tuple[float, float] | None] = (
        lambda prepared, level, units: None
    )
    # Of Outputs: what one more error adds on average to the sum over examples (`error_cost`).
    error_cost: Callable[[Outputs], float] | None = None
    undefined: Callable[[Outputs], str | None] = lambda outputs: None

    @property
    def quantity(self) -> Quantity:
        """How its means over seeds and its differences are worked out and printed."""
        return Quantity(
            self.short or self.title,
            "up" if self.direction == "up" else "down",
            100.0 if self.unit == "%" else 1.0,
            self.digits,
            share=self.interval == "wilson",
            biased=self.interval == "calibration",
        )


def influence_of(metric: Metric, prepared: Any) -> Tensor:
    """What each example adds to the metric, float64 [N], up to a constant.

    Of a mean its values, else the empirical influence. Raises LevelheadError for a metric that
    has none: its differences have no interval.
    """
    if isinstance(prepared, Tensor):
        return prepared
    if metric.influence is None:
        raise LevelheadError(f"metric {metric.name}: has no influence values; leave it out")
    return metric.influence(prepared)


def mean(name: str) -> Callable[..., dict[str, Any]]:
    """The `value` of a metric that is the (weighted) mean of what `prepare` gave, [N]."""

    def value(prepared: Tensor, weights: Tensor | None = None) -> dict[str, Any]:
        if weights is None:
            return {name: float(prepared.mean())}
        return {name: number(weights.to(prepared.dtype) @ prepared / weights.sum(-1))}

    return value


def number(values: Tensor) -> Any:
    """A float of a single value, else the tensor [R]."""
    return values if values.ndim else float(values)


def once(
    make: Callable[Concatenate[Outputs, P], T],
) -> Callable[Concatenate[Outputs, P], T]:
    """`make(outputs, …)`, kept by the outputs as long as they live: metrics share their work.

    Of many examples only the last two are kept, which is what neighbours in METRICS share.
    """

    signature = inspect.signature(make)

    @functools.wraps(make)
    def kept(outputs: Outputs, /, *args: P.args, **more: P.kwargs) -> T:
        store: dict[Any, T] = outputs.__dict__.setdefault("_kept", {})
        arguments = signature.bind(None, *args, **more)
        arguments.apply_defaults()
        key = (make, *arguments.arguments.values())
        value = store.pop(key) if key in store else make(outputs, *args, **more)
        while len(outputs) > ANALYTIC and len(store) > 1:
            store.pop(next(iter(store)))
        store[key] = value
        return value

    return kept


def reason(metric: Metric, outputs: Outputs) -> str | None:
    """Why the metric has no number for these Outputs, or None."""
    if metric.needs in ("classes", "acceptable", "superclasses") and outputs.anonymous:
        return "needs the classes; only which answers are right is known"
    likelihood = metric.needs == "likelihood" and outputs.label_log_probability is not None
    light = metric.needs in ("confidence", "classes", "acceptable", "superclasses")
    if outputs.kind == "confidence" and not light and not likelihood:
        return "needs the scores of all classes; only the prediction's confidence is known"
    if metric.needs == "label_distribution" and outputs.label_distribution is None:
        return "needs what several annotators said of each example (a label distribution)"
    if metric.needs == "acceptable" and outputs.acceptable is None:
        return "needs the labels that are acceptable for each example (--acceptable)"
    if metric.needs == "superclasses" and outputs.superclasses is None:
        return "needs what each class is a kind of (--superclasses)"
    return metric.undefined(outputs)


def error_cost(outputs: Outputs, wrong: Tensor) -> float:
    """Mean of `wrong` [N], losses that are already times the odds of an error, over those odds."""
    odds = float(outputs.rows.log_rest.exp().sum())
    return float(wrong.sum()) / odds if odds > 0 else 0.0


def _replicates(
    pairs: Sequence[tuple[Metric, Any]], resamples: int, seed: int, units: Tensor | None
) -> list[Resampled]:
    n, blocks = len(pairs[0][1]), []
    influence = [influence_of(metric, prepared) for metric, prepared in pairs]
    means = [i for i, (_, prepared) in enumerate(pairs) if isinstance(prepared, Tensor)]
    columns = torch.stack([pairs[i][1] for i in means], 1) if means else None
    for block in weights(n, resamples, seed, units):
        values = torch.empty(len(pairs), len(block), dtype=torch.float64)
        if columns is not None:
            # One matrix product for all means.
            values[means] = (block @ columns / block.sum(1, keepdim=True)).T
        for i in set(range(len(pairs))) - set(means):
            metric, prepared = pairs[i]
            values[i] = metric.value(prepared, block)[metric.name]
        spreads = torch.stack([deviations(block, each, units) for each in influence])
        blocks.append(torch.stack([values, spreads]))
    return [Resampled(*both) for both in torch.cat(blocks, 2).unbind(1)]


def interval_of(
    metric: Metric,
    prepared: Any,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    outputs: Outputs | None = None,
) -> Interval:
    """The interval that belongs to the metric (its field `interval`)."""
    return intervals_of([(metric, prepared)], level, resamples, seed, outputs)[0]


def intervals_of(
    pairs: Sequence[tuple[Metric, Any]],
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    outputs: Outputs | None = None,
) -> list[Interval]:
    """The intervals of several metrics, each with what it prepared of the same `outputs`.

    With `outputs` their groups are what is resampled, and losses reach up to what unseen errors
    would add (`statistics.examples.with_unseen_errors`).

    Wilson's for shares; test inversion for calibration errors (`calibration_interval`); for the
    rest one bootstrap that they share, analytic above 100,000 examples. NaN where `interval` is
    "none".
    """
    intervals: dict[int, Interval] = {}
    drawn = []
    units = None if outputs is None else outputs.units
    for i, (metric, prepared) in enumerate(pairs):
        if metric.interval == "none":
            intervals[i] = Interval(math.nan, math.nan, "none")
        elif metric.interval == "wilson":
            intervals[i] = Interval(*share_interval(prepared, level, units), "wilson")
        elif metric.interval == "calibration":
            assert metric.cells is not None, f"{metric.name} has no cells"
            ends = calibration_interval(
                *metric.cells(prepared, units), level, resamples, seed, metric.side
            )
            intervals[i] = Interval(*ends, "bias-corrected by simulation, cut at 0")
        elif (own := metric.ends(prepared, level, units)) is not None:
            intervals[i] = Interval(*own, "analytic")
        elif len(prepared) > ANALYTIC:
            intervals[i] = normal_interval(*_influence(metric, prepared), level, units)
        else:
            drawn.append(i)
    if drawn:
        values = _replicates([pairs[i] for i in drawn], resamples, seed, units)
        for i, row in zip(drawn, values, strict=True):
            interval = bootstrap_interval(row, *_influence(*pairs[i]), level, units)
            intervals[i] = replace(interval, low=max(interval.low, 0.0))  # none can be below
    return [
        intervals[i]
        if outputs is None
        else _reaching(intervals[i], metric, prepared, outputs, level)
        for i, (metric, prepared) in enumerate(pairs)
    ]


def _reaching(
    interval: Interval, metric: Metric, prepared: Any, outputs: Outputs, level: float
) -> Interval:
    """The interval of a loss, up to what unseen errors would add."""
    if metric.error_cost is None:
        return interval
    value = float(metric.value(prepared)[metric.name])
    cost = metric.error_cost(outputs)
    return with_unseen_errors(interval, value, outputs.rows.correct, cost, level, outputs.units)


def _influence(metric: Metric, prepared: Any) -> tuple[float, Tensor]:
    value = float(metric.value(prepared)[metric.name])
    influence = influence_of(metric, prepared)
    return value, influence - value if isinstance(prepared, Tensor) else influence
