"""What to do next: a command and why, the same on the terminal and on the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levelhead.judging.words import weakest_class
from levelhead.runs import finished_run
from levelhead.text import isolated

if TYPE_CHECKING:
    from levelhead.judging import Audited, Decided
    from levelhead.outputs import Outputs
    from levelhead.runs import Run

MOST_VALIDATION = 0.5
"""To hold out more than this share is no advice: what trains would be too little."""


@dataclass(frozen=True)
class Step:
    """Something to do: why, and the command, if one does it."""

    words: str
    command: str = ""


def lines(steps: Sequence[Step]) -> list[str]:
    """The commands as a terminal shows them."""
    return [f"Next: {step.command}" for step in steps if step.command]


def after_training(run: Run) -> tuple[Step, ...]:
    """What a finished run is good for."""
    folder = shlex.quote(str(run.folder))
    return (_decide(folder), _predict(folder))


def after_audit(result: Audited, path: str, kind: str | None) -> tuple[Step, ...]:
    """What does something about what an audit of the file or run at `path` shows."""
    where = shlex.quote(path) if Path(path).is_dir() else f"VALIDATION --apply {shlex.quote(path)}"
    where += f" --{kind}" if kind else ""
    if result.method in (None, "none"):
        why, name = "Thresholds and sets, set on examples that do not judge them:", "decide"
    else:
        why, name = "Fit the calibrator on examples that do not judge it:", "calibrate"
    step = Step(why, f"levelhead {name} {where}")
    return (*more_of_the_weakest(result.outputs, "examples"), step)


def after_calibration(words: Sequence[str]) -> tuple[Step, ...]:
    """`decide` with the words of `calibrate`, but for where the result goes."""
    arguments, skip = [], False
    for word in words:
        if not skip and word not in ("--out", "--json") and not word.startswith("--out="):
            arguments.append(word)
        skip = word == "--out"
    return (_decide(shlex.join(arguments)),)


def after_decision(result: Decided, path: str) -> tuple[Step, ...]:
    """The command that obeys the threshold, or that trains with the examples it lacks.

    `path` is what was decided on; of a file nothing can be said.
    """
    if not Path(path).is_dir():
        return ()
    run, where = finished_run(path), shlex.quote(path)
    threshold, recipe = result.findings["threshold"]["set"], run.recipe
    if threshold["keeps"] == "nothing":
        counts, needed = run.data["counts"], threshold["needed"]
        have = counts["train"] + counts["validation"]
        share = math.inf if needed is None else math.ceil(200 * needed / have) / 100
        if run.data.get("own_validation") or not recipe.validation < share <= MOST_VALIDATION:
            return (*_laxer(result, where), _predict(where))
        return (
            Step(
                f"A half of validation sets the threshold, which takes {needed:,} examples at "
                f"least. Hold out {round(share * have):,}:",
                f"levelhead train {shlex.quote(recipe.data)} --validation {share:g}",
            ),
        )
    return (_predict(where),)


def _decide(where: str) -> Step:
    return Step("When to act on an answer, and which sets to give:", f"levelhead decide {where}")


def _predict(where: str) -> Step:
    return Step("Decide new images by the run's policy:", f"levelhead predict {where} IMAGE...")


def _laxer(result: Decided, where: str) -> tuple[Step, ...]:
    """The strictest risk that some threshold keeps."""
    thresholds = [row["set"] for row in result.findings["thresholds"]]
    risks = [one["risk_wanted"] for one in thresholds if one["keeps"] != "nothing"]
    if not risks:
        return ()
    why = f"No threshold is known to keep that risk; one keeps {min(risks) * 100:g} %:"
    return (Step(why, f"levelhead decide {where} --risk {min(risks):g}"),)


def more_of_the_weakest(outputs: Outputs, what: str) -> tuple[Step, ...]:
    """To collect more of a class whose recall is shown to lie below the accuracy."""
    weak, accuracy = weakest_class(outputs, 0.95), float(outputs.rows.correct.mean())
    if weak is None or weak.high >= accuracy:
        return ()
    return (
        Step(
            f"Collect more {what} of {isolated(weak.name)}: {weak.hits / weak.n * 100:.1f} % of "
            f"its own are found, {accuracy * 100:.1f} % of all, and chance alone would not do that."
        ),
    )
