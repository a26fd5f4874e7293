"""A translator from recipe to answers: trained by the common loop, judged, used."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from levelhead.calibrators import Temperature
from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES
from levelhead.metrics import METRICS
from levelhead.outputs import Outputs
from levelhead.statistics.examples import example_variance
from levelhead.studies.workers import Job, side_by_side
from levelhead.translation.temperature_curves import temperature_curves
from levelhead.translation.text_scores import resampled, text_scores
from levelhead.translation.token_scores import token_scores
from levelhead.translation.train_translator import resume_translator, train_translator
from levelhead.translation.translate import translate
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import TranslationRun, encoded, is_translation
from worlds import write_parallel

from .conftest import SMALL


def recipe(folder, **more) -> TranslationRecipe:
    return TranslationRecipe(str(folder), **{**SMALL, "epochs": 3, **more})


def test_it_learns(learned):
    """A decoder that saw what it must predict would learn, too, but not translate."""
    assert learned.findings["text"]["bleu"]["value"] > 50
    assert learned.findings["test"]["metrics"]["accuracy"]["value"] > 0.85
    history = learned.history
    assert history[-1]["validation_nll"] < history[0]["validation_nll"] / 3


def test_scores_are_those_of_the_whole_logits(learned):
    """Pieces, groups and orders must not change a number, nor the temperature."""
    _, tokens = encoded(learned.corpus(), learned.vocabulary, learned.recipe)
    scores = token_scores(learned.network(), tokens["validation"])
    logits = torch.cat([part for part, _ in scores.pieces()])
    whole = Outputs.from_logits(logits, scores.labels, learned.vocabulary.pieces)
    light = scores.outputs(learned.vocabulary.pieces)
    for name in ("accuracy", "nll", "ece", "smece", "aurc"):
        metric = METRICS[name]
        pair = [metric.value(metric.prepare(one))[name] for one in (whole, light)]
        assert pair[0] == pytest.approx(pair[1], abs=1e-6), name
    fitted = Temperature.fit_outputs(whole).temperature
    assert scores.temperature("").temperature == pytest.approx(fitted, rel=1e-4)
    assert float(scores.losses([fitted]).mean()) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits / fitted, scores.labels)), abs=1e-5
    )
    kept = learned.findings["validation"]["metrics"]["nll"]["value"]
    assert kept == pytest.approx(float(scores.losses([1.0]).mean()), abs=1e-6)


def test_written_files_have_the_score_of_sacrebleus_command(learned):
    """A page's BLEU must be what anybody gets from the written lines."""
    folder = learned.folder / "outputs"
    for name, entry in learned.findings["text"].items():
        done = subprocess.run(
            [sys.executable, "-m", "sacrebleu", str(folder / "test.reference.txt"), "-i",
             str(folder / "test.translation.txt"), "-m", name, "-b", "-w", "6"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert float(done.stdout) == pytest.approx(entry["value"], abs=1e-5), name
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_paired_differences():
    """The same lines differ by nothing; a worse system's interval lies below 0."""
    references = [f"this is the sentence number {i} of a hundred" for i in range(100)]
    broken = [
        line.replace("sentence", "thing") if i % 2 else line for i, line in enumerate(references)
    ]
    good, bad = (text_scores(lines, references)["bleu"] for lines in (references, broken))
    same = resampled(good, good)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    change = resampled(bad, good)
    assert change.high is not None
    assert change.high < 0
    for name, score in text_scores(broken, references).items():
        assert score.of(score.counts.sum(0)) == pytest.approx(score.value), name


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_what_a_sentence_adds_is_what_resampling_says(name):
    """Else the interval of a difference of trainings would not hold what sentences vary by."""
    draw = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(10)])
    references = [" ".join(draw.choice(words, draw.integers(6, 14))) for _ in range(400)]
    hypotheses = [
        " ".join(word if draw.random() > 0.25 else draw.choice(words) for word in line.split())
        for line in references
    ]
    score = text_scores(hypotheses, references)[name]
    assert float(score.influence.mean()) == pytest.approx(score.value, abs=0.2)
    spread = float(np.std(score.draws(2000, 0)))
    assert example_variance(score.influence) ** 0.5 == pytest.approx(spread, rel=0.1)


def stop_after(epoch):
    def watch(event):
        if getattr(event, "epoch", None) == epoch:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_ends_in_the_same_bits(epoch, parallel, tmp_path):
    """Order, dropout, optimiser and the sums of the average must all go on."""
    whole = train_translator(recipe(parallel), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_translator(recipe(parallel), tmp_path / "parts", watch=stop_after(epoch))
    parts = resume_translator(tmp_path / "parts")
    first, second = (load_file(run.folder / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    keys = ("test", "text", "temperature")
    assert [whole.findings[k] for k in keys] == [parts.findings[k] for k in keys]
    assert not list((parts.folder / "checkpoint").glob("*"))


def test_the_average_is_the_mean_of_the_last_epochs(parallel, tmp_path):
    """Else a run would be judged by other weights than it says."""
    kept = []

    def watch(event):
        if hasattr(event, "validation_nll"):
            kept.append(event)

    short = [train_translator(recipe(parallel, epochs=3, average=a), tmp_path / f"{a}", watch=watch)
             for a in (1, 2, 0)]  # fmt: skip
    one, two, none = (load_file(run.folder / "model.safetensors") for run in short)
    assert torch.equal(one["head.weight"], none["head.weight"])
    assert not torch.equal(one["head.weight"], two["head.weight"])


def test_both_conventions_are_one_training(parallel, tmp_path):
    """ε over all K pieces is ε (K−1)/K over the wrong ones."""
    pieces = SMALL["vocabulary"]
    uniform = train_translator(recipe(parallel, epochs=1, smoothing=0.1), tmp_path / "uniform")
    others = train_translator(
        recipe(parallel, epochs=1, smoothing=0.1 * (pieces - 1) / pieces, convention="others"),
        tmp_path / "others",
    )
    rows = [run.history[-1] for run in (uniform, others)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)
    assert rows[0]["validation_nll"] == pytest.approx(rows[1]["validation_nll"], rel=1e-3)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"cross_entropy"}))
def test_every_loss_trains_a_translator(loss, parallel, tmp_path):
    """Tokens are examples: what images can learn by, sentences can."""
    run = train_translator(recipe(parallel, epochs=1, loss=loss), tmp_path / "run")
    assert math.isfinite(run.findings["test"]["metrics"]["nll"]["value"])


def test_other_ways_to_train(parallel, tmp_path):
    changes = {"norm": "pre", "positions": "learned", "class_weights": "balanced", "clip_norm": 1.0}
    run = train_translator(
        recipe(parallel, epochs=1, optimizer="sgd", schedule="cosine", **changes), tmp_path / "run"
    )
    assert math.isfinite(run.findings["test"]["metrics"]["nll"]["value"])


def test_curves_against_temperature(learned):
    """At T = 1 they are the run's own numbers."""
    curves = temperature_curves(learned, (0.7, 1.0, 2.0))
    assert curves.nll[1] == pytest.approx(
        learned.findings["test"]["metrics"]["nll"]["value"], abs=1e-6
    )
    assert curves.bleu[1] == pytest.approx(learned.findings["text"]["bleu"]["value"])
    assert curves.nll[2] > curves.nll[1]
    again = temperature_curves(learned, (0.7, 1.0, 2.0))
    assert again.to_json() == curves.to_json()
    for name in ("bleu", "nll"):
        assert torch.equal(again.influence[name], curves.influence[name])


def test_answers_and_their_probabilities(learned):
    """Alternatives are different sentences, likeliest first; empty lines stay empty."""
    answers = translate(learned, ["ba ko mi .", "", "tu na ."], alternatives=3)
    assert [len(own) for own in answers.answers] == [3, 0, 3]
    for own in answers.answers:
        assert len({one.text for one in own}) == len(own)
        assert sum(one.probability for one in own) <= 1 + 1e-6
        for one in own:
            assert one.probability <= min(word.probability for word in one.words) + 1e-6
            assert " ".join(word.text for word in one.words) == one.text
    assert answers.texts()[1] == ""
    assert answers.answers[2][0].marked(1.1) == " ".join(
        f"⟨{word.text}⟩" for word in answers.answers[2][0].words
    )


def test_the_commands(learned, parallel, tmp_path, capsys, monkeypatch):
    """What the help says is what happens, in one process after another."""
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    out = tmp_path / "run"
    assert cli(["train-translator", str(parallel), *flags, "--epochs", "2", "--out", str(out)]) == 0
    assert "BLEU" in capsys.readouterr().out
    assert is_translation(out)
    assert (out / "report.html").exists()
    assert cli(["resume", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "translation"
    text = tmp_path / "in.txt"
    text.write_text("ba ko .\n\ntu na .\n")
    assert cli(["translate", str(learned.folder), str(text), "--out", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o").read_text().count("\n") == 3
    assert cli(["translate", str(learned.folder), str(text), "--json", "--alternatives", "2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 3
    assert cli(["report", str(learned.folder), "--figures", str(tmp_path / "figures")]) == 0
    assert {p.name[:4] for p in (tmp_path / "figures").glob("*.png")} == {"reli", "curv"}


def test_the_page_is_escaped(parallel, tmp_path):
    """A sentence is anybody's text: it must not become a part of the page."""
    folder = tmp_path / "data"
    write_parallel(folder, (60, 10, 4))
    for language in ("aa", "bb"):
        path = folder / f"test.{language}"
        path.write_text(path.read_text() + "<script>alert(1)</script> & co\n")
    run = train_translator(recipe(folder, vocabulary=310, epochs=1), tmp_path / "run")
    assert cli(["report", str(run.folder)]) == 0
    page = (run.folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beam", "0"], "--beam 0: must be 1 or more"),
        (["--temperature", "0"], "--temperature 0: must be above 0"),
        (["--alternatives", "0"], "--alternatives 0: must be 1 or more"),
        (["--mark-below", "2"], "--mark-below 2: must be from 0 to 1"),
    ],
)
def test_what_translate_refuses(words, message, learned, tmp_path, capsys):
    text = tmp_path / "in.txt"
    text.write_text("ba ko .\n")
    assert cli(["translate", str(learned.folder), str(text), *words]) == 2
    assert message in capsys.readouterr().err


def test_long_lines_other_bytes_and_runs_of_images(learned, parallel, tmp_path, capsys):
    """One line each, with the fix."""
    text = tmp_path / "in.txt"
    text.write_text("tu .\n" + "ba " * 10_000 + "\n")
    assert cli(["translate", str(learned.folder), str(text)]) == 2
    assert "line 2: " in (said := capsys.readouterr().err)
    assert "split it into sentences" in said
    text.write_bytes(b"\xff\n")
    assert cli(["translate", str(learned.folder), str(text)]) == 2
    assert "line 1 is not UTF-8" in capsys.readouterr().err
    images = tmp_path / "images"
    images.mkdir()
    (images / "recipe.toml").write_text('data = "digits"\n')
    assert cli(["translate", str(images), str(text)]) == 2
    assert (
        "a run of images; give one that levelhead train-translator made" in capsys.readouterr().err
    )
    assert cli(["predict", str(learned.folder), "x.png"]) == 2
    assert "a run that learned translation, not images" in capsys.readouterr().err
    long = tmp_path / "long"
    write_parallel(long)
    with (long / "train.aa").open("a") as file:
        file.write("ba " * 10_000 + "\n")
    with (long / "train.bb").open("a") as file:
        file.write("Um.\n")
    with pytest.raises(LevelheadError, match=r"train.aa:601: [\d,]+ pieces, --longest 256"):
        train_translator(recipe(long), tmp_path / "run")
    run = train_translator(recipe(long, epochs=1, skip_broken=True), tmp_path / "run")
    assert any("too long" in note for note in run.data["notes"])


@pytest.mark.parametrize("library", ["sacrebleu", "sentencepiece"])
def test_a_missing_library_is_said_before_the_work(library, parallel, tmp_path, monkeypatch):
    """An hour of training must not end in an import error."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LevelheadError, match=rf"{library} is missing; pip install 'levelhead\[tr"):
        train_translator(recipe(parallel), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_translators_side_by_side(parallel, tmp_path):
    """Each in a process of its own, as the networks of images are."""
    jobs = [
        Job(f"{e}", recipe(parallel, smoothing=e, epochs=1), tmp_path / f"{e}") for e in (0.0, 0.1)
    ]
    assert side_by_side(jobs, 2, math.inf, lambda event: None) == {}
    assert all(TranslationRun(job.folder).finished for job in jobs)


def test_changed_sentences_are_refused_on_resume(tmp_path):
    write_parallel(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        train_translator(recipe(tmp_path / "data"), tmp_path / "run", watch=stop_after(1))
    (tmp_path / "data" / "val.aa").write_text("ba .\n" * 60)
    with pytest.raises(LevelheadError, match=r"validation sentences of .* are no longer those"):
        resume_translator(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30, "heads": 4}, "--width 30: must be a multiple of --heads 4"),
        ({"smoothing": 1.0}, "--smoothing 1.0"),
        ({"beam": 0}, "--beam 0: must be above 0"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"target": "aa"}, "--source aa: must be another than --target"),
        ({"preset": "huge"}, "--preset 'huge': must be one of tiny, base"),
    ],
)
def test_recipes_that_cannot_be(changes, message, tmp_path):
    with pytest.raises(LevelheadError, match=message):
        recipe(tmp_path, **changes)


def test_recipes_are_read_back(tmp_path):
    one = recipe("data", smoothing=0.1, step_at=(0.2, 0.4), knobs=("gamma=2",)).resolved()
    assert TranslationRecipe.from_toml(one.to_toml()) == one
    assert one.command().startswith("levelhead train-translator data --source aa")


def test_the_published_sizes():
    """2.6 million parameters for 10,000 pieces; and BLEU beyond that is another network's."""
    from levelhead.translation.transformer import Translator
    from levelhead.translation.translation_run import size_of

    for norm, ends in (("post", 0), ("pre", 2 * 2 * 128)):  # pre-norm ends in two norms more
        tiny = Translator(size_of(TranslationRecipe("d", norm=norm).resolved(), 10_000))
        assert sum(weight.numel() for weight in tiny.parameters()) == 2_605_056 + ends
    base = TranslationRecipe("d", preset="base").resolved()
    assert 62e6 < sum(w.numel() for w in Translator(size_of(base, 37_000)).parameters()) < 66e6


def test_the_keys_are_those_of_the_docs(learned):
    """Who reads findings.json by the docs would miss a key, or look for one that is gone."""
    text = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    section = text.split("### train-translator")[1].split("### ")[0]
    (line,) = (row for row in section.splitlines() if re.fullmatch(r"(`\w+` ?){4,}", row))
    assert sorted(re.findall(r"`(\w+)`", line)) == sorted(learned.findings)


def test_a_run_is_what_its_folder_says(learned):
    assert isinstance(learned, TranslationRun)
    assert learned.finished
    assert learned.data["counts"] == {"train": 600, "validation": 60, "test": 60}
    outputs = learned.outputs("test")
    assert outputs.label_log_probability is not None
    assert bool(outputs.label_log_probability.isfinite().all())
    assert outputs.groups is not None
    assert len(set(outputs.groups)) == 60  # intervals are over sentences
