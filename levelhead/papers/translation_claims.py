"""The third experiment of Müller et al. 2019: a Transformer, its BLEU, its likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from levelhead.figures import temperatures as figure
from levelhead.metrics import METRICS
from levelhead.papers.claims import of_seeds
from levelhead.papers.plan import Found, by_field, paired
from levelhead.papers.rows import ABOVE, ANY, BELOW, Row, claim
from levelhead.statistics.measured import Estimate, Measured, Quantity, difference, mean
from levelhead.studies.qualities import estimate_of, influence_on
from levelhead.text import count, interval_text
from levelhead.translation.temperature_curves import (
    TEMPERATURES,
    TemperatureCurves,
    temperature_curves,
)
from levelhead.translation.text_scores import resampled, text_scores
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun

STUDY = "translation"
SMOOTHED = 0.1
SCALED_STAGE = "test_calibrated"
BLEU = Quantity("BLEU", "up", digits=2)
NLL, ECE = METRICS["nll"].quantity, METRICS["ece"].quantity
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
    texts = {
        run.folder: text_scores(run.lines("translation"), run.lines("reference"), ("bleu",))["bleu"]
        for run in (*hard, *smoothed)
    }
    bleu, smoothed_bleu = (
        {
            run.recipe.seed: estimate_of(run.findings["text"]["bleu"], texts[run.folder].influence)
            for run in runs
        }
        for runs in (hard, smoothed)
    )
    nll, smoothed_nll = (_estimates(runs, "nll") for runs in (hard, smoothed))
    scaled, smoothed_scaled = (_estimates(runs, "nll", SCALED_STAGE) for runs in (hard, smoothed))
    rows = [
        claim("BLEU, ε = 0", _mean(bleu, BLEU), ANY, "–", 2),
        claim("BLEU, ε = 0.1", _mean(smoothed_bleu, BLEU), ANY,
              "41.0, tokenised (tiny; ε = 0.1)", 2),
        claim("BLEU, ε 0.1 minus 0", difference(smoothed_bleu, bleu, BLEU), ABOVE,
              "above 0 (25.8 − 25.3)", 2),
        claim("NLL a piece, ε 0.1 minus 0", difference(smoothed_nll, nll, NLL), ABOVE,
              "above 0", 3),
        claim("NLL a piece, ε 0.1 minus 0, temperature scaled",
              difference(smoothed_scaled, scaled, NLL), ABOVE, "above 0 (figure 3)", 3),
        *_calibration(hard, smoothed),
    ]  # fmt: skip
    curves = {run.folder: temperature_curves(run) for run in (*hard, *smoothed)}
    if pairs:
        rows += _against_temperature(
            {a.recipe.seed: (curves[a.folder], curves[b.folder]) for a, b in pairs}
        )
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
        panels["temperatures"] = figure.data(TEMPERATURES, measures)
    gains = {a.recipe.seed: resampled(texts[a.folder], texts[b.folder]) for a, b in pairs}
    return Found(rows, [*_grid(groups), *_same_sentences(gains)], panels)


def _bleu(run: TranslationRun) -> float:
    return float(run.findings["text"]["bleu"]["value"])


def _test(run: TranslationRun, metric: str, stage: str = "test") -> float:
    return float(run.findings[stage]["metrics"][metric]["value"])


def _temperature(run: TranslationRun) -> float:
    return float(run.findings["temperature"]["value"])


def _estimates(
    runs: Sequence[TranslationRun], name: str, stage: str = "test"
) -> dict[int, Estimate]:
    """A metric of the next pieces of each seed, with what each sentence adds."""
    return {
        run.recipe.seed: estimate_of(
            run.findings[stage]["metrics"][name], influence_on(name, run.outputs(stage))
        )
        for run in runs
    }


def _mean(estimates: Mapping[int, Estimate], quantity: Quantity) -> Measured:
    return mean(estimates, quantity) if estimates else Measured(None, None, None)


def _against_temperature(
    curves: Mapping[int, tuple[TemperatureCurves, TemperatureCurves]],
) -> list[Row]:
    """Claims about the curves of ε 0.1 and 0, by seed, at the temperature that suits hard targets
    least (their likelihood) and most (their BLEU)."""
    gaps = np.mean([np.subtract(a.nll, b.nll) for a, b in curves.values()], 0)
    least = int(gaps.argmin())
    most = int(np.mean([b.bleu for _, b in curves.values()], 0).argmax())
    at = TEMPERATURES.index(1.0)

    def of(name: str, side: int, place: int) -> dict[int, Estimate]:
        return {seed: pair[side].estimate(name, place) for seed, pair in curves.items()}

    return [
        claim(f"NLL, ε 0.1 minus 0, at the T where it is least ({TEMPERATURES[least]:g})",
              difference(of("nll", 0, least), of("nll", 1, least), NLL), ABOVE,
              "above 0 at every T", 3),
        claim(f"BLEU of ε 0 at its best T ({TEMPERATURES[most]:g}) minus that of ε 0.1 at 1",
              difference(of("bleu", 1, most), of("bleu", 0, at), BLEU), BELOW, "below 0", 2),
    ]  # fmt: skip


def _calibration(hard: Sequence[TranslationRun], smoothed: Sequence[TranslationRun]) -> list[Row]:
    """The next piece given the true ones: as the paper's table 3, and its claims."""
    raw, scaled = (_estimates(hard, "ece", stage) for stage in ("test", SCALED_STAGE))
    own, temperatures = _estimates(smoothed, "ece"), [*map(_temperature, hard)]
    return [
        claim("ECE, ε = 0", _mean(raw, ECE), ANY, "0.056 (WMT14)", 4),
        of_seeds("temperature, ε = 0", temperatures, ANY, "1.13 (WMT14)", 3),
        claim("ECE, ε = 0, temperature scaled", _mean(scaled, ECE), ANY, "0.018 (WMT14)", 4),
        claim("ECE, ε = 0.1", _mean(own, ECE), ANY, "0.019 (WMT14)", 4),
        claim("ECE, ε 0 minus the same scaled", difference(raw, scaled, ECE), ABOVE,
              "above 0 (0.056 − 0.018)", 4),
        claim("ECE, ε 0 minus 0.1", difference(raw, own, ECE), ABOVE,
              "above 0 (0.056 − 0.019)", 4),
        of_seeds("log of the temperature, ε = 0", [*map(math.log, temperatures)], ABOVE,
                 "above 0 (log 1.13)", 3),
    ]  # fmt: skip


def _grid(groups: Mapping[float, Sequence[TranslationRun]]) -> list[str]:
    """A sentence on every ε that was trained."""
    parts = []
    for epsilon, runs in sorted(groups.items()):
        bleu = fmean(map(_bleu, runs))
        nll, ece = (fmean(_test(run, name) for run in runs) for name in ("nll", "ece"))
        seeds = count(len(runs), "seed")
        parts.append(f"ε {epsilon:g} ({seeds}) BLEU {bleu:.2f}, NLL {nll:.3f}, ECE {ece:.3f}")
    return [f"Means: {'; '.join(parts)}."] if parts else []


def _same_sentences(gains: Mapping[int, Measured]) -> list[str]:
    """A sentence on what resampled sentences say of the pair of each seed."""
    parts = [
        f"{interval_text(gain.value, gain.low, gain.high, digits=2, sign=True)} (seed {seed})"
        for seed, gain in gains.items()
    ]
    return [f"BLEU of ε 0.1 minus 0 over resampled sentences: {', '.join(parts)}."] if parts else []
