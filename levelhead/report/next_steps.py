"""What to do next: a command and why, the same on the terminal and on the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levelhead.decisions.scores import sharp
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


def after_training(run: Run, test: Outputs) -> tuple[Step, ...]:
    """What a finished run, whose test outputs are given, is good for."""
    folder = shlex.quote(str(run.folder))
    return (
        *_more_of_the_weakest(test, "images"),
        Step("When to act on an answer, and which sets to give:", f"levelhead decide {folder}"),
        _predict(folder),
    )


def after_audit(result: Audited, path: str, kind: str | None) -> tuple[Step, ...]:
    """What does something about what an audit of the file or run at `path` shows."""
    name = "decide" if result.method in (None, "none") else "calibrate"
    why = {
        "decide": "Thresholds and sets, set on examples that do not judge them:",
        "calibrate": "Fit the calibrator on examples that do not judge it:",
    }[name]
    words = (
        [shlex.quote(path)] if Path(path).is_dir() else ["VALIDATION --apply", shlex.quote(path)]
    )
    words += [f"--{kind}"] if kind else []
    command = Step(why, f"levelhead {name} {' '.join(words)}")
    return (*_more_of_the_weakest(result.outputs, "examples"), command)


def after_calibration(words: Sequence[str]) -> tuple[Step, ...]:
    """`decide` with the words of `calibrate`, but for where the result goes."""
    kept, skip = [], False
    for word in words:
        if not skip and word not in ("--out", "--json") and not word.startswith("--out="):
            kept.append(word)
        skip = word == "--out"
    why = "When to act on an answer, and which sets to give:"
    return (Step(why, f"levelhead decide {shlex.join(kept)}"),)


def after_decision(result: Decided, path: str) -> tuple[Step, ...]:
    """The command that obeys the threshold, or that trains with the examples it lacks.

    `path` is what was decided on; of a file nothing can be said.
    """
    if not Path(path).is_dir():
        return ()
    run, where = finished_run(path), shlex.quote(path)
    threshold, recipe = result.findings["threshold"]["set"], run.recipe
    if threshold["keeps"] == "nothing":
        have = run.data["counts"]["train"] + run.data["counts"]["validation"]
        share = math.ceil(200 * (threshold["needed"] or have) / have) / 100
        if not recipe.validation < share <= MOST_VALIDATION:
            return (*_laxer(result, where), _predict(where))
        return (
            Step(
                f"A half of validation sets the threshold, which takes {threshold['needed']:,} "
                f"examples at least. Hold out {round(share * have):,}:",
                f"levelhead train {shlex.quote(recipe.data)} --validation {share:g}",
            ),
        )
    plain = run.calibrator is None and result.findings["confidence"] == "raw"
    if threshold["keeps"] == "some" and plain and threshold["score"] == "msp":
        return (_predict(where, f" --abstain-below {sharp(threshold['value'])}"),)
    return (_predict(where),)


def _predict(where: str, more: str = "") -> Step:
    why = f"Predict new images{', and abstain where unsure' if more else ''}:"
    return Step(why, f"levelhead predict {where} IMAGE...{more}")


def _laxer(result: Decided, where: str) -> tuple[Step, ...]:
    """The strictest risk that some threshold keeps."""
    kept = [row["set"] for row in result.findings["thresholds"] if row["set"]["keeps"] != "nothing"]
    if not kept:
        return ()
    risk = min(threshold["risk_wanted"] for threshold in kept)
    why = f"No threshold is known to keep that risk; one keeps {risk * 100:g} %:"
    return (Step(why, f"levelhead decide {where} --risk {risk:g}"),)


def _more_of_the_weakest(outputs: Outputs, what: str) -> tuple[Step, ...]:
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
