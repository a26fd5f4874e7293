"""Which setting of a study to use, and the sentences that say it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from levelhead.statistics.measured import NO_SEED, Difference
from levelhead.studies.settings import (
    METRICS,
    MIXED,
    STAGES,
    Change,
    Judged,
    Setting,
    baseline_of,
    hard_targets_of,
)
from levelhead.text import duration, interval_text
from levelhead.training.defaults import frozen

MARGIN = 0.01
"""Differences of so many nats, or of this share of accuracy, are as good as none."""


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The setting to use, chosen on validation, and the one it is held against."""

    ranked: tuple[Setting, ...]  # best first
    run: Judged  # of the best setting, the one with the lowest validation NLL
    rival: Setting | None  # what is held against the baseline: the best, or else the next
    baseline: Setting
    smoothed: Setting | None  # the best of those with ε > 0
    hard: Setting | None  # its hard targets

    @property
    def best(self) -> Setting:
        """The setting to use."""
        return self.ranked[0]

    def to_json(self) -> dict[str, Any]:
        """`recommended` of findings.json."""
        return {
            "setting": self.best.name,
            "seed": self.run.cell.seed,
            "run": self.run.cell.folder,
        }


def recommend(settings: Sequence[Setting], failed: Sequence[Mapping[str, Any]]) -> Recommendation:
    """The setting with the lowest validation NLL after temperature, and its best run.

    A setting that failed with some seed stands behind all that did not.
    """
    lost = {entry["name"] for entry in failed}
    ranked = sorted(settings, key=lambda one: (one.name in lost, one.validation_nll()))
    best, baseline = ranked[0], baseline_of(settings)
    smoothed = next((setting for setting in ranked if setting.smoothing > 0), None)
    rival = None
    if len(ranked) > 1:
        rival = best if best is not baseline else ranked[1]
    return Recommendation(
        tuple(ranked),
        min(best.cells, key=lambda one: one.validation_nll["calibrated"]),
        rival,
        baseline,
        smoothed,
        None if smoothed is None else hard_targets_of(smoothed, settings),
    )


def sentences(
    folder: Path,
    choice: Recommendation,
    changes: Sequence[Change],
    failed: Sequence[Mapping[str, Any]],
    margin: float = MARGIN,
) -> list[str]:
    """What to use, what it buys, whether smoothing beats temperature, what to mind, what next."""
    examples = choice.run.findings["test"]["n"]
    lines = [_which(choice, f"{examples:,} test examples")]
    by_key = {(c.setting, c.baseline, c.kind, c.metric): c for c in changes}
    if choice.rival is not None:
        lines.append(_worth(choice.rival, choice.baseline, by_key, margin))
    lines += [_smoothing_against_temperature(choice, by_key)]
    caveats = _caveats(choice, failed)
    lines += [f"Mind: {'; '.join(caveats)}."] if caveats else []
    path = shlex.quote(str(folder / choice.run.cell.folder))
    again = choice.best.cells[0].cell.recipe.command()
    lines.append(
        f"Predict with its best seed on validation: levelhead predict {path} IMAGE; train it once "
        f"more: {again}"
    )
    return lines


def _which(choice: Recommendation, n: str) -> str:
    best = choice.best
    if len(choice.ranked) == 1:
        return f"{best.name} is the only setting trained: nothing to choose; figures are of {n}."
    following = choice.ranked[1]
    return (
        f"Use {best.name} with temperature scaling: of {len(choice.ranked)} settings it has the "
        f"lowest NLL after temperature on validation, {best.validation_nll():.4f} (next: "
        f"{following.name}, {following.validation_nll():.4f}); validation chose, the figures "
        f"below are of {n}."
    )


Key = tuple[str, str, str, str]


def _worth(rival: Setting, baseline: Setting, by_key: Mapping[Key, Change], margin: float) -> str:
    keys = [(rival.name, baseline.name, "calibrated", metric) for metric in ("accuracy", "nll")]
    pair = [by_key[key] for key in keys]
    amounts = " and ".join(f"{amount(one)} ({one.difference.verdict})" for one in pair)
    took, instead = (duration(_seconds(one)) for one in (rival, baseline))
    time = (
        "" if took == instead else f" It took {took}, the other {instead} (not a paired measure)."
    )
    return (
        f"Against {baseline.name}, after temperature, {rival.name} changes {amounts}"
        f"{_either(pair, margin)}{time}"
    )


def _either(pair: Sequence[Change], margin: float) -> str:
    """Whether two settings are shown to be as good as equal, or the data cannot tell them apart."""
    if not all(one.difference.verdict == "cannot tell" for one in pair):
        return "."
    points = "1 point" if margin == 0.01 else f"{margin * 100:g} points"
    size = f"{points} and {margin:g} nats (--equal-within)"
    if all(_within(one.difference, margin) for one in pair):
        return f"; both are within the margin of {size}, so either will do."
    return f"; the data cannot tell the two apart, nor that they are equal within {size}."


def _within(one: Difference, margin: float) -> bool:
    return one.low is not None and one.high is not None and -margin < one.low <= one.high < margin


def _smoothing_against_temperature(choice: Recommendation, by_key: Mapping[Key, Change]) -> str:
    if choice.smoothed is None:
        before, after = (choice.best.mean(stage, "nll").value for stage in STAGES)
        return f"Temperature scaling takes its NLL from {before:.4f} to {after:.4f}."
    if choice.baseline.smoothing > 0:
        return (
            "No setting has hard targets, so nothing says whether temperature scaling alone does "
            "as well as smoothing: compare with --smoothing 0 too."
        )
    assert choice.hard is not None
    change = by_key[choice.smoothed.name, choice.hard.name, MIXED, "nll"]
    lead = {
        "better": "Temperature scaling alone does not do as well as smoothing alone",
        "worse": "Temperature scaling alone does better than smoothing alone",
        "cannot tell": "The data cannot tell temperature scaling alone from smoothing alone",
    }[change.difference.verdict]
    return (
        f"{lead}: {change.setting} without temperature changes {amount(change)} against "
        f"{change.baseline} with it."
    )


def _caveats(choice: Recommendation, failed: Sequence[Mapping[str, Any]]) -> list[str]:
    caveats = []
    smoothed = [setting for setting in choice.ranked if setting.smoothing > 0]
    if any(frozen(one.run.recipe) for setting in smoothed for one in setting.cells):
        caveats.append("the body is frozen, so smoothing touched the head alone")
    if any(frozen(one.run.recipe) for setting in choice.ranked for one in setting.cells):
        caveats.append("no seed changes a head on a frozen body, so it was trained once")
    if all(len(setting.cells) == 1 for setting in choice.ranked):
        caveats.append("one seed speaks for these models, not for the settings (--seeds 3)")
    if failed:
        count = sum(len(setting.cells) for setting in choice.ranked) + len(failed)
        first = "{name}, seed {seed}: {why}".format(**failed[0])
        caveats.append(f"{len(failed)} of {count} trainings are missing (first: {first})")
    return caveats


def _seconds(setting: Setting) -> float:
    return fmean(one.findings["seconds"] for one in setting.cells)


def amount(change: Change) -> str:
    """`accuracy by +0.4 points [-0.2, +1.0]`."""
    quantity, one = METRICS[change.metric].quantity, change.difference
    if None in (one.value, one.low, one.high):
        return f"{quantity.title} by an unknown amount ({one.reason})"
    return f"{quantity.title} by " + interval_text(
        one.value,
        one.low,
        one.high,
        digits=quantity.digits,
        scale=quantity.scale,
        sign=True,
        unit=quantity.unit,
    )


def sentence(change: Change) -> str:
    """A difference as a sentence with its verdict."""
    difference: Difference = change.difference
    if difference.reason == NO_SEED:
        return f"{METRICS[change.metric].quantity.title}: {NO_SEED}."
    lead, own, other = {
        "raw": ("Before temperature, ", "", ""),
        "calibrated": ("After temperature, ", "", ""),
        MIXED: ("", " without temperature", " with temperature"),
    }[change.kind]
    alone = len(difference.per_seed) == 1
    one = " (one seed: these models, not these settings)" if alone else ""
    return (
        f"{lead}{change.setting}{own} changes {amount(change)} against "
        f"{change.baseline}{other}: {difference.verdict}{one}."
    )
