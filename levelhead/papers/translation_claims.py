"""The third experiment of Müller et al. 2019: a Transformer, its BLEU, its likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from levelhead.figures import temperatures
from levelhead.papers.plan import Found
from levelhead.papers.rows import ABOVE, BELOW, Range, Row, claim, missing, number
from levelhead.statistics.measured import Measured, spread
from levelhead.translation.temperature_curves import TEMPERATURES, temperature_curves
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun

STUDY = "translation"
SMOOTHED = 0.1
COMPARED = (0.0, SMOOTHED)
SCALED = (
    "Multi30k en–de with the tiny Transformer (2.6 M parameters) for 1,870 updates (17 epochs) "
    "instead of WMT14 with the base Transformer; BLEU by sacrebleu, on text as it is."
)


def recipe_of(data: Path, full: bool) -> TranslationRecipe:
    """As published with `full` (data/wmt14), else scaled down to two CPU cores."""
    if full:
        return TranslationRecipe(
            str(data / "wmt14"), source="en", target="de", preset="base", skip_broken=True
        )
    return TranslationRecipe(str(data / "multi30k"), source="en", target="de", updates=1_870)


def runs_of(folder: Path) -> dict[float, list[TranslationRun]]:
    """The finished runs of the study by ε, in the order of their seeds."""
    groups: dict[float, list[TranslationRun]] = {}
    for path in sorted(folder.glob("*/seed-*/recipe.toml")):
        run = TranslationRun(path.parent)
        if run.finished:
            groups.setdefault(run.recipe.smoothing, []).append(run)
    return groups


def translation(studies: Mapping[str, Path]) -> Found:
    """Smoothing in a Transformer: BLEU, likelihood, calibration of the next piece, temperature."""
    groups = runs_of(studies[STUDY])
    hard, smoothed = groups.get(0.0, []), groups.get(SMOOTHED, [])
    pairs = paired(smoothed, hard)
    rows: list[Row] = []
    for epsilon, own in ((0.0, hard), (SMOOTHED, smoothed)):
        words = "41.0, tokenised (tiny; ε = 0.1)" if epsilon else "–"
        rows.append(_mean(f"BLEU, ε = {epsilon:g}", own, _bleu, words, 2))
    rows += [
        _change("BLEU, ε 0.1 minus 0", pairs, _bleu, ABOVE, "above 0 (25.8 − 25.3)", 2),
        _change("NLL a piece, ε 0.1 minus 0", pairs, _test("nll"), ABOVE, "above 0", 3),
    ]
    rows += _calibration(hard, smoothed, pairs)
    curves = {
        epsilon: [temperature_curves(run) for run in own]
        for epsilon, own in ((0.0, hard), (SMOOTHED, smoothed))
    }
    what = (
        ("NLL of ε 0.1 minus that of ε 0, least over T", "above 0 at every T"),
        ("BLEU of ε 0 at its best T minus that of ε 0.1 at T = 1", "below 0"),
    )
    two = [(temperature_curves(a), temperature_curves(b)) for a, b in pairs]
    at = TEMPERATURES.index(1.0)
    least = [min(x - y for x, y in zip(a.nll, b.nll, strict=True)) for a, b in two]
    best = [max(b.bleu) - a.bleu[at] for a, b in two]
    for (title, words), values, claimed, digits in (
        (what[0], least, ABOVE, 3),
        (what[1], best, BELOW, 2),
    ):
        rows.append(
            claim(title, spread(values), claimed, words, digits)
            if values
            else missing(title, words)
        )
    panels: dict[str, Any] = {}
    if any(curves.values()):
        measures: dict[tuple[str, str, bool], dict[str, Sequence[Sequence[float]]]] = {}
        for key, name in (
            (("BLEU", "BLEU", True), "bleu"),
            (("Likelihood of the next piece", "NLL in nats", False), "nll"),
        ):
            measures[key] = {
                f"ε = {epsilon:g}": [getattr(one, name) for one in own]
                for epsilon, own in curves.items()
                if own
            }
        panels["temperatures"] = temperatures.data(TEMPERATURES, measures)
    return Found(rows, _grid(groups), panels)


def paired(
    a: Sequence[TranslationRun], b: Sequence[TranslationRun]
) -> list[tuple[TranslationRun, TranslationRun]]:
    """Runs of the same seed."""
    by_seed = {run.recipe.seed: run for run in b}
    return [(run, by_seed[run.recipe.seed]) for run in a if run.recipe.seed in by_seed]


def _bleu(run: TranslationRun) -> float:
    return float(run.findings["text"]["bleu"]["value"])


def _test(metric: str, stage: str = "test") -> Callable[[TranslationRun], float]:
    return lambda run: float(run.findings[stage]["metrics"][metric]["value"])


def _temperature(run: TranslationRun) -> float:
    return float(run.findings["temperature"]["value"])


def _mean(
    what: str,
    runs: Sequence[TranslationRun],
    value: Callable[[TranslationRun], float],
    words: str,
    digits: int,
) -> Row:
    if not runs:
        return missing(what, words)
    return number(what, spread([value(run) for run in runs]), None, words, digits)


def _change(
    what: str,
    pairs: Sequence[tuple[TranslationRun, TranslationRun]],
    value: Callable[[TranslationRun], float],
    claimed: Range,
    words: str,
    digits: int,
) -> Row:
    if not pairs:
        return missing(what, words)
    return claim(what, spread([value(a) - value(b) for a, b in pairs]), claimed, words, digits)


def _calibration(
    hard: Sequence[TranslationRun],
    smoothed: Sequence[TranslationRun],
    pairs: Sequence[tuple[TranslationRun, TranslationRun]],
) -> list[Row]:
    """The next piece given the true ones: as the paper's table 3, and its claims."""
    scaled, raw = _test("ece", "test_calibrated"), _test("ece")
    rows = [
        _mean("ECE, ε = 0", hard, raw, "0.056 (WMT14)", 4),
        _mean("temperature, ε = 0", hard, _temperature, "1.13 (WMT14)", 3),
        _mean("ECE, ε = 0, temperature scaled", hard, scaled, "0.018 (WMT14)", 4),
        _mean("ECE, ε = 0.1", smoothed, raw, "0.019 (WMT14)", 4),
    ]
    title, words = "ECE, ε 0 minus the same scaled", "above 0 (0.056 − 0.018)"
    if hard:
        change: Measured = spread([raw(run) - scaled(run) for run in hard])
        rows.append(claim(title, change, ABOVE, words, 4))
    else:
        rows.append(missing(title, words))
    lower = [(b, a) for a, b in pairs]
    rows.append(_change("ECE, ε 0 minus 0.1", lower, raw, ABOVE, "above 0 (0.056 − 0.019)", 4))
    title, words = "log of the temperature, ε = 0", "above 0 (log 1.13)"
    logs = [math.log(_temperature(run)) for run in hard]
    rows.append(claim(title, spread(logs), ABOVE, words, 3) if logs else missing(title, words))
    return rows


def _grid(groups: Mapping[float, Sequence[TranslationRun]]) -> list[str]:
    """A sentence on every ε that was trained."""
    parts = []
    for epsilon, runs in sorted(groups.items()):
        bleu, nll = (spread([f(run) for run in runs]).value for f in (_bleu, _test("nll")))
        ece = spread([_test("ece")(run) for run in runs]).value
        assert bleu is not None
        assert nll is not None
        assert ece is not None
        parts.append(f"ε {epsilon:g}: BLEU {bleu:.2f}, NLL {nll:.3f}, ECE {ece:.3f}")
    return [f"Means over the seeds trained. {'; '.join(parts)}."] if parts else []
