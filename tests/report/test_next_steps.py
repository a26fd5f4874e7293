"""What to do next: commands that can be typed as they stand, on the terminal and on the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from levelhead.cli import run as cli
from levelhead.judging.words import weakest_class
from levelhead.outputs import Outputs
from levelhead.report import next_steps
from levelhead.runs import Run
from worlds import sampled

SMALL = ["--model", "linear", "--epochs", "2"]


def steps_of(text: str) -> list[str]:
    return [line.removeprefix("Next: ") for line in text.splitlines() if line.startswith("Next: ")]


def test_the_path_from_a_folder_to_decisions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick_judging: None,
) -> None:
    """A newcomer would type what was said and be refused, or be left without a word."""
    monkeypatch.chdir(tmp_path)
    waiting, walked = ["levelhead check digits"], []
    while waiting and len(walked) < 6:
        line = waiting.pop(0)
        if "IMAGE..." in line or line in walked:
            continue
        words = shlex.split(line)[1:]
        more = SMALL if words[0] == "train" else []
        assert cli([*words, *more]) == 0, line
        said = capsys.readouterr().out
        assert steps_of(said), f"{line} ends without a next step:\n{said}"
        walked.append(line)
        waiting += steps_of(said)
    assert [line.split()[1] for line in walked][:3] == ["check", "train", "decide"]
    page = (tmp_path / "runs" / "digits-1" / "report.html").read_text(encoding="utf-8")
    assert "<code>levelhead decide runs/digits-1</code>" in page


def test_more_validation_is_asked_for_where_it_is_what_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    quick_judging: None,
) -> None:  # fmt: skip
    """ "Add 198" would send people to label, though --validation gives them at once."""
    monkeypatch.chdir(tmp_path)
    assert cli(["train", "digits", *SMALL, "--out", "run"]) == 0
    capsys.readouterr()
    assert cli(["decide", "run", "--risk", "0.01"]) == 0
    said = capsys.readouterr().out
    (step,) = steps_of(said)
    counts = Run(tmp_path / "run").data["counts"]
    share = float(step.split("--validation ")[1])
    held = share * (counts["train"] + counts["validation"])
    assert "299 are needed" in said
    assert held / 2 >= 299 > (share - 0.01) * held / share / 2  # enough, and no more than that
    assert step.startswith("levelhead train digits --validation")


@pytest.mark.parametrize(("hits", "advised"), [(12, True), (24, False)])
def test_a_weak_class_is_named_where_it_is_shown(hits: int, advised: bool) -> None:
    """Chance alone makes one class the weakest: to collect more of it would be no advice."""
    labels = np.repeat([0, 1, 2], [200, 200, 27])
    predictions = labels.copy()
    predictions[400 : 427 - hits] = 0
    predictions[:19] = 1  # cats that are taken for dogs
    z = 4 * np.eye(3)[predictions]
    outputs = Outputs.from_logits(z, labels, ["cat", "dog", "owl"])
    weak = weakest_class(outputs, 0.95)
    assert weak is not None
    assert (weak.name, weak.hits, weak.n, weak.taken_for) == ("owl", hits, 27, "cat")
    steps = next_steps.more_of_the_weakest(outputs, "images")
    assert [("owl" in step.words) for step in steps] == [True] * advised


def test_nothing_is_weak_where_all_is_right() -> None:
    """A class would be named though it has no error."""
    outputs = Outputs.from_logits(5 * torch.eye(3).repeat(9, 1), torch.arange(3).repeat(9))
    assert weakest_class(outputs, 0.95) is None


def test_calibrate_hands_its_words_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`decide` would be given another kind or column, or write where calibrate did."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a b.npz", 1), ("test.npz", 2)):
        made = sampled(300, 3, seed=seed)
        np.savez(tmp_path / name, logits=made.scores.numpy(), labels=made.labels.numpy())
    words = ["a b.npz", "--apply", "test.npz", "--logits", "--methods", "temperature"]
    assert cli(["calibrate", *words, "--out", "here"]) == 0
    (step,) = steps_of(capsys.readouterr().out)
    assert shlex.split(step) == ["levelhead", "decide", *words]
    assert cli(shlex.split(step)[1:]) == 0


def test_parquet_images_are_named_by_their_path(
    tmp_path: Path, folder: Callable[..., Path]
) -> None:
    """A row number says nothing to a person who looks for the image."""
    import pyarrow as pa
    from pyarrow import parquet

    from levelhead.data import scan

    root = folder({"a": 9, "b": 9})
    files = sorted(root.rglob("*.png"))
    rows = [{"bytes": f.read_bytes(), "path": str(f.relative_to(root))} for f in files]
    table = pa.table({"image": rows, "label": [f.parent.name for f in files]})
    parquet.write_table(table, tmp_path / "train.parquet")
    assert scan(str(tmp_path / "train.parquet")).splits["train"].paths == tuple(
        row["path"] for row in rows
    )
    words = ["train", str(tmp_path / "train.parquet"), *SMALL, "--image-size", "12"]
    assert cli([*words, "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<bdi>a/" in page
    assert 'title="train.parquet#' in page


def test_results_share_their_shape(tmp_path: Path, quick_judging: None) -> None:
    """Somebody who knows one command's result would have to learn the next one's anew."""
    import levelhead
    from levelhead.recipe import Recipe

    run = levelhead.train(Recipe("digits", model="linear", epochs=2), tmp_path / "run")
    validation, test = run.outputs("validation"), run.outputs("test")
    calibrated = levelhead.calibrate(validation, test, resamples=50)
    results = [run, levelhead.audit(test, resamples=50), calibrated]
    results.append(levelhead.decide(validation, test, risk=0.2))
    for result in results:
        assert result.words == tuple(result.to_json()["words"])
        assert result.to_json() == result.findings
    for result in results[:3]:
        assert {"accuracy", "nll", "ece"} <= set(result.metrics)
    stage = (run.findings["calibrator"] or {}).get("test") or run.findings["test"]
    assert run.metrics["nll"].value == stage["metrics"]["nll"]["value"]
    assert results[3].threshold.risk_wanted == 0.2


def test_equal_sets_are_drawn_once() -> None:
    """RAPS whose sets are those of APS would repeat its figure, as if it were another result."""
    from levelhead.judging import decide
    from levelhead.report.judgement_page import decision_panels

    validation, test = sampled(400, 3, seed=1), sampled(300, 3, seed=2)
    found = decide(validation, test, risk=0.2)
    rows = {way: sets["test"]["by_class"] for way, sets in found.findings["conformal"].items()}
    titles = [panel.title for panel in decision_panels(found)["coverage"]]
    assert rows["aps"] == rows["raps"] != rows["lac"]  # three classes: no set is large
    assert titles == ["LAC, by class", "APS and RAPS, by class"]
