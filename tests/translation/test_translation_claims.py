"""What mueller2019 reads off translators that were trained."""

from __future__ import annotations

import numpy as np
import pytest

from levelhead.papers.translation_claims import STUDY, translation
from levelhead.translation.temperature_curves import TEMPERATURES
from levelhead.translation.text_scores import resampled, text_scores
from levelhead.translation.train_translator import train_translator
from levelhead.translation.translation_recipe import TranslationRecipe

from .conftest import SMALL


@pytest.fixture(scope="module")
def trained(parallel, tmp_path_factory):
    """Runs by smoothing and seed, and the folder of their study."""
    folder = tmp_path_factory.mktemp("papers") / STUDY
    runs = {}
    for smoothing in (0.0, 0.1):
        for seed in (0, 1):
            recipe = TranslationRecipe(
                str(parallel), **SMALL, epochs=6, smoothing=smoothing, seed=seed
            )
            out = folder / f"smoothing={smoothing:g}" / f"seed-{seed}"
            runs[smoothing, seed] = train_translator(recipe, out)
    return runs, folder


def test_rows_are_paired_by_seed_and_sentence(trained):
    """The interval of a difference holds what seeds and what other sentences would change."""
    runs, folder = trained
    judged = translation({STUDY: folder})
    rows = {row.what: row for row in judged.rows}
    assert all(row.value is not None and row.seeds == 2 for row in judged.rows)
    bleu = {key: run.findings["text"]["bleu"]["value"] for key, run in runs.items()}
    change = [bleu[0.1, seed] - bleu[0.0, seed] for seed in (0, 1)]
    row = rows["BLEU, ε 0.1 minus 0"]
    assert row.value == pytest.approx(np.mean(change))
    scores = [
        text_scores(runs[e, 0].lines("translation"), runs[e, 0].lines("reference"))["bleu"]
        for e in (0.1, 0.0)
    ]
    alone = resampled(*scores)  # of one seed, over sentences
    assert row.high - row.low > 0.5 * (alone.high - alone.low)
    nll = [
        runs[0.1, seed].findings["test"]["metrics"]["nll"]["value"]
        - runs[0.0, seed].findings["test"]["metrics"]["nll"]["value"]
        for seed in (0, 1)
    ]
    assert rows["NLL a piece, ε 0.1 minus 0"].value == pytest.approx(np.mean(nll))
    assert judged.panels.keys() == {"temperatures"}
    assert len(judged.words) == 2
    assert f"{change[0]:+.2f}".replace("-", "−") in judged.words[1]
    (least,) = (row for what, row in rows.items() if what.startswith("NLL, ε 0.1 minus 0, at"))
    assert least.value <= rows["NLL a piece, ε 0.1 minus 0"].value + 1e-6
    assert any(f"({t:g})" in what for t in TEMPERATURES for what in rows)


def test_nothing_trained_is_said_so(tmp_path):
    """A page must not fail, nor claim anything, before the first run has ended."""
    judged = translation({STUDY: tmp_path})
    assert {row.verdict for row in judged.rows} == {"cannot tell"}
    assert not judged.words
    assert not judged.panels
