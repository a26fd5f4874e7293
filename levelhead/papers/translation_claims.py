"""The third experiment of Müller et al. 2019: a Transformer, its BLEU, its likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from levelhead.figures import temperatures
from levelhead.papers.claims import of_seeds
from levelhead.papers.plan import Found, by_field, paired
from levelhead.papers.rows import ABOVE, ANY, BELOW, Row
from levelhead.text import interval_text
from levelhead.translation.temperature_curves import TEMPERATURES, temperature_curves
from levelhead.translation.text_scores import difference, text_scores
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun

STUDY = "translation"
SMOOTHED = 0.1
SCALED_STAGE = "test_calibrated"
COMPARED = (0.0, SMOOTHED)
SCALED = (
    "Multi30k en–de with the tiny Transformer (2.6 M parameters, pre-norm, dropout 0.1) for 1,320 "
    "updates (12 epochs) instead of WMT14 with the base Transformer; BLEU by sacrebleu, on text as "
    "it is."
)


def recipe_of(data: Path, full: bool) -> TranslationRecipe:
    """As published with `full` (data/wmt14), else scaled down to two CPU cores."""
    if full:
        return TranslationRecipe(
            str(data / "wmt14"), source="en", target="de", preset="base", skip_broken=True
        )
    return TranslationRecipe(
        str(data / "multi30k"), source="en", target="de", dropout=0.1, updates=1_320, average=5
    )


def translation(studies: Mapping[str, Path]) -> Found:
    """Smoothing in a Transformer: BLEU, likelihood, calibration of the next piece, temperature."""
    groups = by_field(studies[STUDY], "smoothing", TranslationRun)
    hard, smoothed = groups.get(0.0, []), groups.get(SMOOTHED, [])
    pairs = paired(smoothed, hard)
    rows = [
        of_seeds("BLEU, ε = 0", [*map(_bleu, hard)], ANY, "–", 2),
        of_seeds("BLEU, ε = 0.1", [*map(_bleu, smoothed)], ANY,
                 "41.0, tokenised (tiny; ε = 0.1)", 2),
        of_seeds("BLEU, ε 0.1 minus 0", [_bleu(a) - _bleu(b) for a, b in pairs], ABOVE,
                 "above 0 (25.8 − 25.3)", 2),
        of_seeds("NLL a piece, ε 0.1 minus 0",
                 [_test(a, "nll") - _test(b, "nll") for a, b in pairs], ABOVE, "above 0", 3),
        of_seeds("NLL a piece, ε 0.1 minus 0, temperature scaled",
                 [_test(a, "nll", SCALED_STAGE) - _test(b, "nll", SCALED_STAGE) for a, b in pairs],
                 ABOVE, "above 0 (figure 3)", 3),
        *_calibration(hard, smoothed, pairs),
    ]  # fmt: skip
    curves = {run.folder: temperature_curves(run) for run in (*hard, *smoothed)}
    two = [(curves[a.folder], curves[b.folder]) for a, b in pairs]
    at = TEMPERATURES.index(1.0)
    least = [min(x - y for x, y in zip(a.nll, b.nll, strict=True)) for a, b in two]
    best = [max(b.bleu) - a.bleu[at] for a, b in two]
    rows += [
        of_seeds("NLL of ε 0.1 minus that of ε 0, least over T", least, ABOVE,
                 "above 0 at every T", 3),
        of_seeds("BLEU of ε 0 at its best T minus that of ε 0.1 at T = 1", best, BELOW,
                 "below 0", 2),
    ]  # fmt: skip
    panels: dict[str, Any] = {}
    if curves:
        measures: dict[tuple[str, str, bool], dict[str, Sequence[Sequence[float]]]] = {}
        for key, name in (
            (("BLEU", "BLEU", True), "bleu"),
            (("Likelihood of the next piece", "NLL in nats", False), "nll"),
        ):
            measures[key] = {
                f"ε = {epsilon:g}": [getattr(curves[run.folder], name) for run in own]
                for epsilon, own in ((0.0, hard), (SMOOTHED, smoothed))
                if own
            }
        panels["temperatures"] = temperatures.data(TEMPERATURES, measures)
    return Found(rows, [*_grid(groups), *_same_sentences(pairs)], panels)


def _bleu(run: TranslationRun) -> float:
    return float(run.findings["text"]["bleu"]["value"])


def _test(run: TranslationRun, metric: str, stage: str = "test") -> float:
    return float(run.findings[stage]["metrics"][metric]["value"])


def _temperature(run: TranslationRun) -> float:
    return float(run.findings["temperature"]["value"])


def _calibration(
    hard: Sequence[TranslationRun],
    smoothed: Sequence[TranslationRun],
    pairs: Sequence[tuple[TranslationRun, TranslationRun]],
) -> list[Row]:
    """The next piece given the true ones: as the paper's table 3, and its claims."""
    raw = {run.folder: _test(run, "ece") for run in (*hard, *smoothed)}
    scaled = [_test(run, "ece", SCALED_STAGE) for run in hard]
    fitted = [*map(_temperature, hard)]
    return [
        of_seeds("ECE, ε = 0", [raw[r.folder] for r in hard], ANY, "0.056 (WMT14)", 4),
        of_seeds("temperature, ε = 0", fitted, ANY, "1.13 (WMT14)", 3),
        of_seeds("ECE, ε = 0, temperature scaled", scaled, ANY, "0.018 (WMT14)", 4),
        of_seeds("ECE, ε = 0.1", [raw[r.folder] for r in smoothed], ANY, "0.019 (WMT14)", 4),
        of_seeds("ECE, ε 0 minus the same scaled",
                 [raw[r.folder] - after for r, after in zip(hard, scaled, strict=True)], ABOVE,
                 "above 0 (0.056 − 0.018)", 4),
        of_seeds("ECE, ε 0 minus 0.1", [raw[b.folder] - raw[a.folder] for a, b in pairs], ABOVE,
                 "above 0 (0.056 − 0.019)", 4),
        of_seeds("log of the temperature, ε = 0", [*map(math.log, fitted)], ABOVE,
                 "above 0 (log 1.13)", 3),
    ]  # fmt: skip


def _grid(groups: Mapping[float, Sequence[TranslationRun]]) -> list[str]:
    """A sentence on every ε that was trained."""
    parts = []
    for epsilon, runs in sorted(groups.items()):
        bleu = fmean(map(_bleu, runs))
        nll, ece = (fmean(_test(run, name) for run in runs) for name in ("nll", "ece"))
        parts.append(f"ε {epsilon:g}: BLEU {bleu:.2f}, NLL {nll:.3f}, ECE {ece:.3f}")
    return [f"Means over the seeds trained. {'; '.join(parts)}."] if parts else []


def _same_sentences(pairs: Sequence[tuple[TranslationRun, TranslationRun]]) -> list[str]:
    """A sentence on what resampled sentences say of each pair of trainings."""
    parts = []
    for smoothed, hard in pairs:
        one, other = (
            text_scores(run.lines("translation"), run.lines("reference"))["bleu"]
            for run in (smoothed, hard)
        )
        gain = difference(one, other)
        ends = interval_text(gain.value, gain.low, gain.high, digits=2, sign=True)
        parts.append(f"{ends} (seed {smoothed.recipe.seed})")
    if not parts:
        return []
    return [f"BLEU of ε 0.1 minus 0 over resampled sentences: {', '.join(parts)}."]
