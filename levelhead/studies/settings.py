"""The settings of a study in numbers: means over seeds, and differences in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from levelhead import metrics
from levelhead.metrics.metric import influence_of
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.statistics.examples import by_unit, normal_quantile
from levelhead.statistics.measured import Difference, Estimate, Measured, difference, mean
from levelhead.statistics.seeds import seeds_mean

LEVEL, RESAMPLES = 0.95, 1000
METHOD = (
    "s²/S over seeds plus the variance over examples of the seeds' mean, Student's t with the "
    "degrees of freedom of Welch and Satterthwaite (shares: Wilson, ECE: bias-corrected, in place "
    "of the examples' part); one seed: the examples alone; differences are paired by seed and "
    "example; each interval stands for itself, however many there are"
)
# A run's findings by stage, and the stages (setting's, baseline's) of each kind of difference.
STAGES = {"raw": "test", "calibrated": "test_calibrated"}
MIXED = "raw against calibrated baseline"
KINDS = {"raw": ("raw", "raw"), "calibrated": ("calibrated", "calibrated"), MIXED: tuple(STAGES)}
# Few, so that a table of settings can be read: a run's own findings hold the others.
METRICS = {name: metrics.METRICS[name] for name in ("accuracy", "top5", "nll", "brier", "ece")}
UNBOUNDED = "validation leaves the temperature of a run without a limit on one side"


@dataclass(frozen=True)
class Cell:
    """One training of a study: `name` is its setting's, `folder` is relative to the study's."""

    name: str
    changes: dict[str, Any]
    seed: int
    folder: str
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Judged:
    """A finished cell: its run's findings, its numbers by stage and metric, where they exist."""

    cell: Cell
    run: Run
    findings: dict[str, Any]
    estimates: dict[tuple[str, str], Estimate]
    validation_nll: dict[str, float]  # by stage

    def entry(self, stage: str, metric: str) -> dict[str, Any]:
        """Value, low and high of this run alone, for JSON."""
        return dict(self.findings[STAGES[stage]]["metrics"][metric])


@dataclass(frozen=True, eq=False)
class Setting:
    """What was compared: the cells of one setting that finished, one a seed."""

    cells: tuple[Judged, ...]

    @property
    def name(self) -> str:
        """As in tables."""
        return self.cells[0].cell.name

    @property
    def smoothing(self) -> float:
        """Its ε."""
        return self.cells[0].cell.recipe.smoothing

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that make it differ from the other settings."""
        return self.cells[0].cell.changes

    def estimates(self, stage: str, metric: str) -> dict[int, Estimate]:
        """The numbers of one metric by seed, of the runs that have one."""
        key = stage, metric
        return {one.cell.seed: one.estimates[key] for one in self.cells if key in one.estimates}

    def validation_nll(self, stage: str = "calibrated") -> float:
        """Mean over seeds; what the choice among settings goes by."""
        return float(np.mean([one.validation_nll[stage] for one in self.cells]))

    def mean(self, stage: str, metric: str) -> Measured:
        """One metric over the seeds; none where a run has none."""
        entries = [one.entry(stage, metric) for one in self.cells]
        values = [entry["value"] for entry in entries]
        if None in values:
            reason = next(entry["reason"] for entry in entries if entry["value"] is None)
            return Measured(None, None, None, tuple(values), reason)
        if len(entries) == 1:
            value, low, high = (entries[0][end] for end in ("value", "low", "high"))
            return Measured(value, low, high, tuple(values), entries[0].get("reason"))
        return mean(self.estimates(stage, metric), METRICS[metric].quantity, LEVEL)

    def temperature(self) -> Measured:
        """Geometric mean over seeds; fits share their examples, so their variances are averaged."""
        entries = [one.findings["test_calibrated"]["temperature"] for one in self.cells]
        values = [entry["value"] for entry in entries]
        low, high, value = math.nan, math.nan, math.exp(float(np.mean(np.log(values))))
        if all(entry["low"] and entry["high"] for entry in entries):
            low, high = entries[0]["low"], entries[0]["high"]
            if len(entries) > 1:
                z = normal_quantile(LEVEL)
                spread = [math.log(entry["high"] / entry["low"]) / 2 / z for entry in entries]
                interval = seeds_mean(np.log(values), float(np.mean(np.square(spread))), LEVEL)
                low, high = math.exp(interval.low), math.exp(interval.high)
        return Measured.finite(value, low, high, values, UNBOUNDED)

    def to_json(self) -> dict[str, Any]:
        """A setting of findings.json."""
        seconds = [one.findings["seconds"] for one in self.cells]
        return {
            "name": self.name,
            "changes": self.changes,
            "seeds": [one.cell.seed for one in self.cells],
            "runs": [one.cell.folder for one in self.cells],
            **{
                stage: {name: self.mean(stage, name).to_json() for name in METRICS}
                for stage in STAGES
            },
            "temperature": self.temperature().to_json(),
            "validation_nll": {stage: self.validation_nll(stage) for stage in STAGES},
            "seconds": {"mean": float(np.mean(seconds)), "total": float(np.sum(seconds))},
        }


@dataclass(frozen=True)
class Change:
    """A setting against a baseline in one metric."""

    setting: str
    baseline: str
    kind: str  # of KINDS
    metric: str
    difference: Difference


def judged(cell: Cell, run: Run) -> Judged:
    """What a finished run says of its setting."""
    findings, estimates = run.findings, {}
    raw, held, calibrator = run.outputs("test"), run.outputs("validation"), run.calibration
    validation_nll = {}
    for stage, place in STAGES.items():
        test, validation = (raw, held) if stage == "raw" else map(calibrator.apply, (raw, held))
        for name, metric in METRICS.items():
            entry = findings[place]["metrics"][name]
            if entry["value"] is not None:
                influence = by_unit(influence_of(metric, metric.prepare(test)), test.units)
                low, high = (math.nan if entry[k] is None else entry[k] for k in ("low", "high"))
                estimates[stage, name] = Estimate(entry["value"], low, high, (influence,))
        validation_nll[stage] = float(validation.rows.nll.mean())
    return Judged(cell, run, findings, estimates, validation_nll)


def baseline_of(settings: Sequence[Setting]) -> Setting:
    """Hard targets if there are any, else the first setting."""
    return next((setting for setting in settings if setting.smoothing == 0), settings[0])


def hard_targets_of(setting: Setting, settings: Sequence[Setting]) -> Setting:
    """The setting with hard targets that differs in nothing else, or else the baseline."""
    changed = setting.changes | {"smoothing": 0}
    same = (other for other in settings if other.changes == changed)
    return next(same, baseline_of(settings))


def changes(settings: Sequence[Setting]) -> Iterator[Change]:
    """Every setting against the baseline, and a smoothed one against its own hard targets."""
    baseline = baseline_of(settings)
    for setting in settings:
        against = [] if setting is baseline else [baseline]
        hard = hard_targets_of(setting, settings)
        if hard is not setting and hard is not baseline:
            against.append(hard)
        for other in against:
            for kind in KINDS:
                yield from _changes(setting, other, kind)


def _changes(setting: Setting, baseline: Setting, kind: str) -> Iterator[Change]:
    """Setting minus baseline by metric, paired over the seeds that both have."""
    own, other = KINDS[kind]
    if kind == MIXED and not setting.smoothing > 0 == baseline.smoothing:
        return
    seeds = {one.cell.seed for one in setting.cells} & {one.cell.seed for one in baseline.cells}
    for name, metric in METRICS.items():
        mine, theirs = setting.estimates(own, name), baseline.estimates(other, name)
        if not seeds <= mine.keys() & theirs.keys():
            continue  # the settings say why
        paired = difference(mine, theirs, metric.quantity, LEVEL)
        yield Change(setting.name, baseline.name, kind, name, paired)
