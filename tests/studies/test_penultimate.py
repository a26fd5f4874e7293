"""What smoothing does inside, on runs of levelhead's own: the paper's figures by command."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.studies import information, penultimate, run_data, train_outputs
from levelhead.training.run import train

RECIPE = Recipe("digits", model="cnn", epochs=4, crop=1, save_every=40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same network with hard and with smoothed targets."""
    root = tmp_path_factory.mktemp("runs")
    hard = train(RECIPE, root / "hard")
    smoothed = train(RECIPE.replace(smoothing=0.3), root / "smoothed")
    return hard, smoothed


def test_train_outputs_are_those_of_the_pictures_trained_on(runs):
    """The figure's first column would show other images, or augmented ones."""
    made = train_outputs(runs[0])
    data = run_data(runs[0])
    assert made.ids == data.train.ids
    assert made.labels.tolist() == data.train.labels.tolist()
    assert (made.split, made.split_hash) == ("train", runs[0].data["hashes"]["train"])
    assert torch.equal(train_outputs(runs[0]).scores, made.scores)  # read back, not made again
    assert made.rows.correct.mean() > 0.9


def test_a_sample_of_train_is_the_same_whether_all_was_kept_or_not(runs, tmp_path):
    """Numbers of the penultimate layer would depend on what another command had made before."""
    whole = train_outputs(runs[0])
    kept = train_outputs(runs[0], 300)
    alone = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    for path in alone.folder.glob("outputs/train*"):
        path.unlink()
    made = train_outputs(alone, 300)
    assert not alone.path_of("train").exists(), "only the sample is predicted"
    assert made.ids == kept.ids
    assert len(set(made.ids)) == 300
    torch.testing.assert_close(made.scores, kept.scores)
    shares = [torch.bincount(o.labels) / len(o) for o in (made, whole)]
    torch.testing.assert_close(*shares, atol=1 / 300, rtol=0)
    assert torch.equal(train_outputs(runs[0], len(whole)).scores, whole.scores)
    pair = [penultimate([one, runs[1]], ["1", "8", "4"], examples=300) for one in (runs[0], alone)]
    told = [p.findings["columns"][0]["metrics"]["nc1"]["value"] for p in pair]
    assert told[0] == pytest.approx(told[1], rel=1e-4)


def test_columns_and_words_agree(runs):
    """The paper's Figure 1 would be drawn, and something else be said in numbers."""
    done = penultimate(runs, ["1", "8", "4"], ["train", "validation"])
    assert [(c["split"]) for c in done.findings["columns"]] == ["train", "validation"] * 2
    assert list(done.drawn) == [f"{c['run']}, {c['split']}" for c in done.findings["columns"]]
    ratios = {
        (c["run"], c["split"]): c["metrics"]["ratio"]["value"] for c in done.findings["columns"]
    }
    for row, sentence in zip(done.findings["tightening"], done.findings["words"], strict=True):
        found = row["ratio"]
        before, after = (ratios[row[key], row["split"]] for key in ("baseline", "run"))
        assert found["value"] == pytest.approx(after / before)
        assert found["low"] < found["value"] < found["high"]
        doubt = found["low"] <= 1 <= found["high"]
        assert ("cannot tell" in sentence) == doubt
        assert doubt or ("tighter" if found["value"] < 1 else "looser") in sentence
        assert f"{found['value']:.3f}" in sentence
        assert f"{row['nc1'][1]:.3g} against {row['nc1'][0]:.3g}" in sentence
    json.dumps(done.findings, allow_nan=False)
    chosen = penultimate(runs[:1], splits=["test"]).findings["classes"]
    assert len(set(chosen)) == 3
    with pytest.raises(LevelheadError, match="must be three names"):
        penultimate(runs, ["1", "8"])
    with pytest.raises(LevelheadError, match="class 'one'"):
        penultimate(runs, ["one", "8", "4"], ["test"])


def test_information_stays_within_its_bounds_and_falls_with_smoothing(runs, monkeypatch):
    """The course of the information would be another quantity, or of other steps."""
    found = [information(run, ["3", "8"], per_class=60) for run in runs]
    for run, one in zip(runs, found, strict=True):
        assert [row["step"] for row in one.findings["curve"]] == run.snapshots
        n = one.findings["n"]
        assert "With 5 draws" in one.findings["words"][0]
        assert one.findings["bounds"] == [0, math.log(n)]
        assert all(-0.2 < row["value"] <= math.log(n) + 1e-9 for row in one.findings["curve"])
    hard, smoothed = (one.findings["curve"][-1]["value"] for one in found)
    assert smoothed < hard
    with monkeypatch.context() as without:
        without.setattr(type(runs[0]), "network", None)  # kept with the run, not made again
        assert information(runs[0], ["3", "8"], per_class=60).findings == found[0].findings
    kept = next(runs[0].folder.glob("outputs/differences-*.safetensors"))
    kept.write_bytes(b"cut off")
    assert information(runs[0], ["3", "8"], per_class=60).findings == found[0].findings


def test_information_needs_something_random(tmp_path):
    """Without augmentation every example would count as told apart from all others."""
    run = train(RECIPE.replace(crop=0, flip=False, epochs=1), tmp_path / "run")
    with pytest.raises(LevelheadError, match="trained without augmentation"):
        information(run)


def test_the_commands(runs, tmp_path, capsys):
    """The paper's figures could not be had from a shell."""
    folders = [str(run.folder) for run in runs]
    out = tmp_path / "penultimate"
    assert cli(["penultimate", *folders, "--classes", "1", "8", "4", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "within- over between-class spread" in said
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [
            "findings.json",
            *(f"penultimate-{i}.{end}" for i in range(1, 5) for end in ("png", "svg")),
        ]
    )
    out = tmp_path / "information"
    assert cli(["information", *folders, "--classes", "3", "8", "--out", str(out)]) == 0
    assert "nats" in capsys.readouterr().out
    assert (out / "information.png").read_bytes().startswith(b"\x89PNG")
    assert cli(["information", *folders, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert cli(["penultimate", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert not list(Path(tmp_path).glob("runs*"))
