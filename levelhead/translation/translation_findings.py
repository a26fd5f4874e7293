"""What a translator is worth: its tokens by the judge of images, its text by sacrebleu."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.calibrators import Temperature
from levelhead.files import write, write_json, write_rows
from levelhead.judging import judge
from levelhead.judging.judge import SCHEMA
from levelhead.metrics import METRICS
from levelhead.statistics.measured import Measured
from levelhead.text import interval_text
from levelhead.translation.corpus import Corpus
from levelhead.translation.search import search
from levelhead.translation.text_scores import text_scores
from levelhead.translation.token_scores import hypothesis_logs, token_scores
from levelhead.translation.tokens import Tokens
from levelhead.translation.transformer import Translator
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.vocabulary import Vocabulary

TOKEN_METRICS = (
    "accuracy", "nll", "ece", "ece_mass", "smece", "overconfidence", "underconfidence", "aurc",
)  # fmt: skip
"""What is asked of tokens: what needs no probability of all pieces."""
ANSWERS = "outputs/test.answers.csv"


@dataclass(frozen=True)
class Answer:
    """A translation of the test set: mean log-probability of its pieces at the temperature of
    validation, and its chrF against the reference."""

    source: str
    reference: str
    translation: str
    log_probability: float
    chrf: float


def judged(
    folder: Path,
    network: Translator,
    corpus: Corpus,
    vocabulary: Vocabulary,
    tokens: Mapping[str, Tokens],
    recipe: TranslationRecipe,
    *,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """findings.json; writes the calibration, token predictions and translations of test.

    Tokens are judged given the true ones before them; those of a sentence are a group, so that
    intervals are over sentences. The temperature is fitted on validation.
    """
    by_split = {name: token_scores(network, tokens[name]) for name in ("validation", "test")}
    temperature = by_split["validation"].temperature("validation")
    write_json(folder / "calibration.json", temperature.to_json())
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "task": recipe.task,
        "languages": corpus.languages,
        "sentences": {name: len(part) for name, part in corpus.splits.items()},
        "temperature": temperature.summary(),
    }
    for name, at in (("validation", 1.0), ("test", 1.0), ("test", temperature.temperature)):
        key = name if at == 1.0 else f"{name}_calibrated"
        outputs = by_split[name].outputs(vocabulary.pieces, at)
        outputs.save(folder / "outputs" / f"{key}.safetensors")
        findings[key] = judge(outputs, metrics=TOKEN_METRICS)
        del findings[key]["class_names"]
    test = corpus.splits["test"]
    hypotheses = search(
        network,
        tokens["test"].source,
        beam=recipe.beam,
        length_penalty=recipe.length_penalty,
        progress=lambda done, total: progress("translating", done, total),
    )
    best = [own[:1] for own in hypotheses]
    lines = vocabulary.decode([own[0].pieces for own in best])
    logs = hypothesis_logs(network, tokens["test"].source, best, temperature.temperature)
    scores = text_scores(lines, test.target)
    rows = [
        Answer(a, b, c, float(own[0].mean()), scores["chrf"].of(counts))
        for a, b, c, own, counts in zip(
            test.source, test.target, lines, logs, scores["chrf"].counts, strict=True
        )
    ]
    write_rows(folder / ANSWERS, rows)
    sides = {"source": test.source, "reference": test.target, "translation": lines}
    for name, side in sides.items():
        write(folder / "outputs" / f"test.{name}.txt", "\n".join(side) + "\n")
    findings["text"] = {
        name: {"signature": score.signature, **_entry(score.measured())}
        for name, score in scores.items()
    }
    nll = findings["test"]["metrics"]["nll"]["value"]
    findings["per_word"] = per_word(nll * findings["test"]["n"], test.target)
    findings["words"] = sentences(findings, temperature)
    return findings


def _entry(measured: Measured) -> dict[str, Any]:
    return {"value": measured.value, "low": measured.low, "high": measured.high}


def per_word(nll: float, lines: tuple[str, ...]) -> dict[str, Any]:
    """NLL and perplexity a word of the references (what stands between spaces), of their whole
    NLL in nats."""
    words = sum(len(line.split()) for line in lines)
    mean = nll / max(words, 1)
    return {"words": words, "nll": mean, "perplexity": math.exp(min(mean, 700.0))}


def sentences(findings: Mapping[str, Any], temperature: Temperature) -> list[str]:
    """What was found, for people."""
    bleu, test = findings["text"]["bleu"], findings["test"]
    nll = test["metrics"]["nll"]

    def ends(entry: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
        parts = (None if entry[k] is None else scale * entry[k] for k in ("value", "low", "high"))
        return interval_text(*parts, digits=digits)

    before = ends(test["metrics"]["ece"], 3)
    scaled = findings["test_calibrated"]
    after = ends(scaled["metrics"]["ece"], 3)
    return [
        f"BLEU {ends(bleu, 1)} on {findings['sentences']['test']:,} sentences; "
        f"chrF {ends(findings['text']['chrf'], 1)}, TER {ends(findings['text']['ter'], 1)}.",
        f"Of {test['n']:,} next pieces {ends(test['metrics']['accuracy'], 1, 100)} % are right; "
        f"NLL {ends(nll, 3)} nats a piece (perplexity {math.exp(nll['value']):.2f}), "
        f"{findings['per_word']['nll']:.3f} a word.",
        f"{METRICS['ece'].title}: {before}; with the temperature of validation {after} "
        f"(NLL {scaled['metrics']['nll']['value']:.3f}).",
        temperature.sentence(),
        f"BLEU by sacrebleu: {bleu['signature']}.",
    ]
