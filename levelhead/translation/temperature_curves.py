"""BLEU and NLL against the temperature of the logits (Müller et al. 2019, figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from levelhead.files import read_object, reading, write, write_json
from levelhead.machine import pick_device
from levelhead.runs import MAKE_ANEW
from levelhead.statistics.examples import by_unit
from levelhead.statistics.measured import Estimate
from levelhead.translation.search import search
from levelhead.translation.text_scores import text_scores
from levelhead.translation.token_scores import token_scores
from levelhead.translation.translation_run import TranslationRun, encoded

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0)


@dataclass(frozen=True, eq=False)
class TemperatureCurves:
    """Of the test set at each temperature [T]: BLEU of search at it, NLL of the next pieces.

    influence: float64 [T,N] of both by name, what each of the N sentences adds.
    """

    temperatures: tuple[float, ...]
    bleu: tuple[float, ...]
    nll: tuple[float, ...]
    influence: dict[str, Tensor]

    def estimate(self, name: str, place: int) -> Estimate:
        """`bleu` or `nll` at the temperature of a place, for differences; without ends."""
        value = float(getattr(self, name)[place])
        return Estimate(value, float("nan"), float("nan"), (self.influence[name][place],))

    def to_json(self) -> dict[str, Any]:
        """temperatures.json."""
        return {
            "schema": 1,
            "temperatures": list(self.temperatures),
            "bleu": list(self.bleu),
            "nll": list(self.nll),
        }


def temperature_curves(
    run: TranslationRun,
    temperatures: Sequence[float] = TEMPERATURES,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TemperatureCurves:
    """The curves of a finished run; kept in its temperatures.json, what each sentence adds in
    outputs/temperatures.safetensors."""
    path, beside = run.folder / "temperatures.json", run.path_of("temperatures")
    if path.exists() and beside.exists():
        with reading(path, MAKE_ANEW):
            stored = read_object(path)
            if stored["temperatures"] == list(temperatures):
                bleu, nll = (tuple(map(float, stored[name])) for name in ("bleu", "nll"))
                return TemperatureCurves(tuple(temperatures), bleu, nll, load_file(beside))
    recipe, vocabulary = run.recipe, run.vocabulary
    corpus, tokens = encoded(run.corpus(), vocabulary, recipe)
    network = run.network(pick_device(recipe.device))
    scores = token_scores(network, tokens["test"])
    losses = scores.losses(temperatures)
    texts = []
    for number, temperature in enumerate(temperatures):
        progress(number, len(temperatures))
        hypotheses = search(
            network,
            tokens["test"].source,
            beam=recipe.beam,
            length_penalty=recipe.length_penalty,
            temperature=temperature,
        )
        lines = vocabulary.decode([own[0].pieces for own in hypotheses])
        texts.append(text_scores(lines, corpus.splits["test"].target, ("bleu",))["bleu"])
    progress(len(temperatures), len(temperatures))
    influence = {
        "bleu": torch.stack([score.influence for score in texts]),
        "nll": by_unit(losses, scores.sentences),
    }
    curves = TemperatureCurves(
        tuple(temperatures),
        tuple(score.value for score in texts),
        tuple(losses.mean(1).tolist()),
        influence,
    )
    write(beside, save(influence))
    write_json(path, curves.to_json())
    return curves
