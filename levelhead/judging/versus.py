"""Two models on the same examples: which is better, at what, and whether the data can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.files import write_json
from levelhead.judging.judge import SCHEMA, judge
from levelhead.metrics import METRICS, influence_of, reason
from levelhead.outputs import Outputs
from levelhead.statistics.examples import by_unit, example_variance, examples_needed, two_digits
from levelhead.statistics.measured import Difference, Estimate, difference
from levelhead.text import interval_text

COMPARED = (
    *("accuracy", "nll", "nll_refinement", "nll_calibration", "brier"),
    *("ece", "smece", "aurc", "auroc_errors"),
)


@dataclass(frozen=True, eq=False)
class Versus:
    """The second model minus the first, metric by metric, paired by example."""

    findings: dict[str, Any]
    differences: dict[str, Difference]

    @property
    def words(self) -> tuple[str, ...]:
        """Which is better at what, as sentences."""
        return tuple(self.findings["words"])

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    def save(self, folder: str | Path) -> None:
        """Write findings.json into a folder."""
        write_json(Path(folder) / "findings.json", self.findings)


def versus(
    first: Outputs,
    second: Outputs,
    *,
    metrics: Sequence[str] = COMPARED,
    names: tuple[str, str] = ("the first", "the second"),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Versus:
    """Judge two models on the examples that both answered, the second minus the first.

    Paired by id where both have ids, else row by row (labels must agree). Each metric's own
    interval and that of the paired difference, as `compare` has it for one seed. NLL splits into
    refinement (what no temperature mends) and what one temperature would mend: a model that is
    worse only in the second part needs a calibrator, not another training. Findings: `{"schema",
    "n", "names", "metrics": {name: {"first", "second", "difference", "verdict", "needed"}},
    "words"}`. Raises LevelheadError for other classes, labels or numbers of examples.
    """
    first, second = paired(first, second)
    choices: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    usable = [m for m in metrics if not any(reason(METRICS[m], o) for o in (first, second))]
    sides = [judge(side, metrics=usable, **choices)["metrics"] for side in (first, second)]
    entries, differences = {}, {}
    for name in usable:
        metric = METRICS[name]
        estimates = []
        for side, judged in zip((first, second), sides, strict=True):
            influence = by_unit(influence_of(metric, metric.prepare(side)), first.units)
            value, low, high = (
                np.nan if judged[name][end] is None else judged[name][end]
                for end in ("value", "low", "high")
            )
            estimates.append({0: Estimate(value, low, high, (influence,))})
        one = difference(estimates[1], estimates[0], metric.quantity, level)
        differences[name] = one
        needed = None
        if one.verdict == "cannot tell" and one.value:
            change = estimates[1][0].influence[0] - estimates[0][0].influence[0]
            spread = (example_variance(change) * len(change)) ** 0.5
            needed = examples_needed(one.value, spread, level)
            if needed is not None:
                needed = two_digits(max(needed * len(first) / len(change), len(first)))
        entries[name] = {
            "first": sides[0][name],
            "second": sides[1][name],
            "difference": one.to_json(),
            "verdict": one.verdict,
            "needed": needed,
        }
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "n": len(first),
        "names": list(names),
        "interval": {"level": level, "resamples": resamples},
        "metrics": entries,
    }
    notes = dict.fromkeys((*first.notes, *second.notes))
    findings["words"] = [*notes, *_words(findings, differences)]
    return Versus(findings, differences)


def paired(first: Outputs, second: Outputs) -> tuple[Outputs, Outputs]:
    """The examples that both have, in one order. Raises LevelheadError where they do not match."""
    if first.class_names != second.class_names:
        raise LevelheadError("the second predictions have other classes; give one task's")
    if first.ids is not None and second.ids is not None:
        place = {name: i for i, name in enumerate(second.ids)}
        rows = [i for i, name in enumerate(first.ids) if name in place]
        if not rows:
            raise LevelheadError("the two predictions share no id; give those of the same examples")
        ids = [first.ids[i] for i in rows]
        if len(rows) < len(first):
            first = first.take(rows)
        second = second.take([place[name] for name in ids])
    if len(first) != len(second):
        raise LevelheadError(
            f"{len(first):,} and {len(second):,} examples without ids; give both of the same ones"
        )
    differ = (first.labels != second.labels).nonzero()
    if len(differ):
        raise LevelheadError(
            f"row {int(differ[0])}: the labels differ, so the two are of other examples; bring "
            "them into one order, or give ids"
        )
    return first, second


def _words(findings: dict[str, Any], differences: dict[str, Difference]) -> list[str]:
    """One sentence on what is shown, one on what is not, one on calibration at equal refinement."""
    first, second = findings["names"]
    lines = []
    for verdict in ("better", "worse"):
        if some := [name for name, one in differences.items() if one.verdict == verdict]:
            what = "; ".join(_amount(name, differences[name]) for name in some)
            lines.append(f"{second} is {verdict} than {first} in {what}.")
    if unknown := [name for name, one in differences.items() if one.verdict == "cannot tell"]:
        what = "; ".join(_amount(name, differences[name]) for name in unknown)
        lines.append(f"The {findings['n']:,} examples cannot tell them apart in {what}.")
        needed = findings["metrics"][unknown[0]]["needed"]
        if needed:
            title = METRICS[unknown[0]].quantity.title
            lines.append(f"About {needed:,} examples would show a difference in {title} as seen.")
    refinement, mendable = (differences.get(f"nll_{p}") for p in ("refinement", "calibration"))
    if refinement is not None and mendable is not None and mendable.verdict != "cannot tell":
        other = first if mendable.verdict == "better" else second
        if refinement.verdict == "cannot tell":
            lines.append(
                f"At a refinement that cannot be told apart, one temperature would mend more of "
                f"{other}: calibrate it before choosing between them."
            )
    return lines


def _amount(name: str, one: Difference) -> str:
    quantity = METRICS[name].quantity
    return f"{quantity.title} " + interval_text(
        one.value,
        one.low,
        one.high,
        digits=quantity.digits,
        scale=quantity.scale,
        sign=True,
        unit=quantity.unit,
    )
