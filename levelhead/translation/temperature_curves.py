"""BLEU and NLL against the temperature of the logits (Müller et al. 2019, figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from levelhead.files import read_object, reading, write_json
from levelhead.machine import pick_device
from levelhead.runs import MAKE_ANEW
from levelhead.translation.search import search
from levelhead.translation.text_scores import text_scores
from levelhead.translation.token_scores import token_scores
from levelhead.translation.translation_run import TranslationRun, encoded

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0)


@dataclass(frozen=True)
class TemperatureCurves:
    """Of the test set at each temperature [T]: BLEU of search at it, NLL of the next pieces."""

    temperatures: tuple[float, ...]
    bleu: tuple[float, ...]
    nll: tuple[float, ...]

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
    """The curves of a finished run; they are kept in its temperatures.json."""
    path = run.folder / "temperatures.json"
    if path.exists():
        with reading(path, MAKE_ANEW):
            stored = read_object(path)
            if stored["temperatures"] == list(temperatures):
                return TemperatureCurves(
                    *(tuple(map(float, stored[name])) for name in ("temperatures", "bleu", "nll"))
                )
    recipe, vocabulary = run.recipe, run.vocabulary
    corpus, tokens = encoded(run.corpus(), vocabulary, recipe)
    network = run.network(pick_device(recipe.device))
    nll = token_scores(network, tokens["test"]).nll(temperatures)
    bleu = []
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
        bleu.append(text_scores(lines, corpus.splits["test"].target)["bleu"].value)
    progress(len(temperatures), len(temperatures))
    curves = TemperatureCurves(tuple(temperatures), tuple(bleu), tuple(nll))
    write_json(path, curves.to_json())
    return curves
