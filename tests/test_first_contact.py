"""What a newcomer types first: hints that help, arrays that are taken, help that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import levelhead
from levelhead import losses
from levelhead.calibrators import CALIBRATORS, Temperature
from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES
from levelhead.outputs import Outputs
from levelhead.targets import Targets
from worlds import sampled


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "digits", "--val", "0.2"], "did you mean '--validation'?"),
        (["train", "digits", "--smooth", "0.2"], "did you mean '--smoothing'?"),
        (["train", "digits", "--model", "resnet50"], "--model torchvision:resnet50 --pretrained"),
        (["train", "digits", "--model", "convnext_tiny"], ":convnext_tiny --pretrained"),
        (["check", "https://example.org/photos.zip"], "downloads nothing"),
        (["check", "~nosuchuser/photos"], "no such user"),
        (["predict", "RUN", "x.png"], "not a run folder"),
    ],
)
def test_hints_name_what_was_meant(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--val` would be sent to `--lr`, `resnet50` to `resnet56`, an address be "no such file"."""
    assert hint in fails(capsys, *words)


def test_random_weights_are_said(capsys: Any, tmp_path: Path, quick_judging: None) -> None:
    """timm:NAME would train from nothing for an hour, and nobody would know."""
    words = [
        "train",
        "digits",
        "--model",
        "timm:test_resnet",
        "--epochs",
        "1",
        "--image-size",
        "32",
    ]
    assert cli([*words, "--out", str(tmp_path / "run")]) == 0
    assert "from random weights (--pretrained downloads" in capsys.readouterr().err


def test_the_report_of_a_decision_says_where_its_page_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`levelhead report DECISION_FOLDER` would be KeyError: 'settings'."""
    sampled(80, 3).save(tmp_path / "p.safetensors")
    words = ["audit", str(tmp_path / "p.safetensors"), "--methods", "temperature"]
    assert cli([*words, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert "whose page is report.html there" in fails(capsys, "report", str(tmp_path / "out"))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_plain_labels(name: str) -> None:
    """losses.focal(logits, labels) would be an AttributeError."""
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = LOSSES[name]
    assert torch.equal(loss(logits, labels), loss(logits, Targets(labels)))
    if loss.soft:
        soft = torch.softmax(torch.randn(6, 4, dtype=torch.float64), 1)
        assert torch.equal(loss(logits, soft), loss(logits, Targets(soft.argmax(1), soft)))
    assert losses.focal is LOSSES["focal"]


def test_a_recipe_of_arrays_says_how_in_one_line() -> None:
    """Recipe(X, y) would print the whole array."""
    with pytest.raises(LevelheadError, match=r"data=levelhead\.data\.from_arrays") as error:
        levelhead.Recipe(np.zeros((500, 8, 8)), np.zeros(500))  # type: ignore[arg-type]
    assert len(str(error.value)) < 200
    with pytest.raises(LevelheadError, match="must be") as error:
        levelhead.Recipe("digits", lr=list(range(1000)))  # type: ignore[arg-type]
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("name", CALIBRATORS)
def test_calibrators_take_arrays(name: str) -> None:
    """Scores without labels could not be calibrated outside of a run."""
    entry = CALIBRATORS[name]
    outputs = sampled(300, entry.only or 3)
    fitted = entry.fit_outputs(outputs)
    got = fitted.probabilities(outputs.scores.numpy(), "logits")
    assert torch.allclose(got, fitted.apply(outputs).probabilities())
    with pytest.raises(LevelheadError, match=r"calibrator\.probabilities"):
        fitted.apply(outputs.scores)  # type: ignore[arg-type]
    assert isinstance(Temperature.fit_outputs(outputs).apply(outputs), Outputs)


def test_predict_takes_a_path(folder: Callable[..., Path], quick_judging: None) -> None:
    """predict(run, "a.jpg") would read the letters of the name as paths."""
    root = folder({f"{split}/{name}": 6 for split in ("train", "test") for name in "ab"})
    recipe = levelhead.Recipe(str(root), model="linear", epochs=1, device="cpu")
    run = levelhead.train(recipe, root.parent / "run")
    image = next(root.rglob("*.png"))
    one = levelhead.predict(run, str(image))
    assert one.paths == (str(image),)
    several = levelhead.predict(run.folder, [image, root / "test"])
    assert len(several.paths) in (12, 13)
    assert torch.allclose(several.probabilities[0], one.probabilities[0])


def test_the_cache_is_listed_and_emptied(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """It would grow to a gigabyte, and no command say where it is."""
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine.txt").write_text("not levelhead's")
    levelhead.data.load(  # type: ignore[attr-defined]
        levelhead.data.scan(str(folder({"a": 3, "b": 3}))),
        image_size=8,
        channels=3,  # type: ignore[attr-defined]
    )
    capsys.readouterr()
    assert cli(["cache", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert kinds["decoded"]["files"] == 2
    assert cli(["cache", "--empty"]) == 0
    assert "MB freed" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["mine.txt"]


def test_quiet_and_short_epochs_do_not_fill_the_screen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, quick_judging: None
) -> None:
    """900 epochs of one step each would be 900 lines."""
    words = ["train", "digits", "--model", "linear", "--epochs", "40", "--batch-size", "2000"]
    assert cli([*words, "--out", str(tmp_path / "a")]) == 0
    loud = capsys.readouterr().err.count("epoch ")
    assert 1 <= loud < 30
    assert cli([*words, "--quiet", "--out", str(tmp_path / "b")]) == 0
    assert "epoch " not in capsys.readouterr().err.replace("epochs", "")


def test_help_has_sections(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty flags in one list would be read by nobody."""
    for command in ("train", "compare"):
        with pytest.raises(SystemExit):
            cli([command, "--help"])
        told = capsys.readouterr().out
        places = [told.index(word) for word in ("most used:", "data and splits:", "optimisation:")]
        assert places == sorted(places)
        assert told.index("--smoothing ") < places[1]
        assert told.count("\n  --smoothing X") + told.count("\n  --smoothing X [X ...]") >= 1
