"""The commands, as a person types them: results, JSON, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from levelhead.cli import COMMANDS, run
from levelhead.metrics import METRICS
from levelhead.recipe import Recipe

QUICK = ["--model", "linear", "--epochs", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on small colour images of two classes."""
    root = tmp_path_factory.mktemp("trained")
    for k, name in enumerate(("dark", "light <b>")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(30):
            rng = np.random.default_rng([k, i])
            pixels = rng.integers(120 * k, 120 * k + 130, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    out = root / "run"
    assert run(["train", str(root / "photos"), *QUICK, "--out", str(out)]) == 0
    return out


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail: exit code 2, one line on standard error, nothing else."""
    capsys.readouterr()
    assert run(list(words)) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("levelhead: ")]
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    return lines[0]


def test_train_ends_in_words(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, training does not end in what was trained on, how good it is, and what next."""
    assert run(["resume", str(trained)]) == 0
    out = capsys.readouterr().out
    for wanted in ("Trained linear on photos", "Accuracy", "calibrator", "levelhead predict"):
        assert wanted in out
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "recipe.toml", "data.json", "splits.csv", "model.safetensors", "history.csv", "outputs",
        "calibration.json", "findings.json", "environment.json", "report.html",
    }  # fmt: skip
    assert "checkpoint" not in names


def test_train_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, --json is not one JSON document of the schema on standard output."""
    assert run(["train", "digits", *QUICK, "--out", str(tmp_path / "r"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for split in ("validation", "test", "test_calibrated"):
        metrics = found[split]["metrics"]
        assert set(metrics) == set(METRICS)
        assert all(set(m) >= {"value", "low", "high"} for m in metrics.values())
        assert found[split]["interval"]["level"] == 0.95
    assert found["seconds"] > 0
    assert found["images_per_second"] > 0
    assert found["test"]["temperature"] is None
    assert found["test_calibrated"]["temperature"]["value"] > 0
    assert found == json.loads((tmp_path / "r" / "findings.json").read_text()) | {
        "run": str(tmp_path / "r")
    }


def test_default_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, two runs without --out do not become runs/NAME-1 and runs/NAME-2."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert run(["train", "digits", "--model", "linear", "--epochs", "1"]) == 0
        assert (tmp_path / "runs" / f"digits-{number}" / "report.html").exists()


def test_predict_and_audit_round_trip(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a folder's predictions cannot be audited, or a broken file is lost."""
    new = tmp_path / "new" / "deep"
    new.mkdir(parents=True)
    for source in ("dark/1.png", "light <b>/2.png"):
        name = source.replace("/", "-")
        (new / name).write_bytes((trained.parent / "photos" / source).read_bytes())
    (tmp_path / "new" / "broken.jpg").write_text("no image")
    table = tmp_path / "new.csv"
    words = ["predict", str(trained), str(tmp_path / "new"), "--out", str(table)]
    assert run(words) == 2, "an image is missing among the predictions"
    said = capsys.readouterr()
    assert "broken.jpg" in said.err
    assert "2 predictions written to" in said.out
    assert "1 image left out" in said.out
    assert run([*words, "--skip-broken"]) == 0
    capsys.readouterr()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    columns = ["path", "prediction", "confidence", "decision", "set", "reason"]
    assert [*rows[0]] == [*columns, "dark", "light <b>"]
    assert len(rows) == 2
    for row in rows:
        shares = [float(row["dark"]), float(row["light <b>"])]
        assert abs(sum(shares) - 1) < 1e-6
        assert abs(float(row["confidence"]) - max(shares)) < 1e-6
        assert row["decision"] in (row["prediction"], "ask a person", "none of mine")
        assert row["reason"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerows(
            row | {"label": "dark" if "dark" in row["path"] else "light <b>"} for row in rows
        )
    assert run(["audit", str(table), "--probabilities", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class_names"] == ["dark", "light <b>"]
    assert found["n"] == 2
    assert "add --logits, --probabilities or --confidence" in fails(capsys, "audit", str(table))


def test_predict_agrees_with_evaluation(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, predict gives other probabilities for a test image than the evaluation did."""
    from levelhead.runs import Run

    made = Run(trained)
    test = made.calibration.apply(made.outputs("test"))
    assert test.ids is not None
    path = trained.parent / "photos" / test.ids[0]
    assert run(["predict", str(trained), str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"][0]
    np.testing.assert_allclose(found["probabilities"], test.probabilities()[0], atol=1e-6)


def test_abstains(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a confidence below the threshold does not become `abstain`."""
    path = trained.parent / "photos" / "dark" / "0.png"
    assert run(["predict", str(trained), str(path), "--abstain-below", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"][0]
    assert found["decision"] == ("abstain" if found["confidence"] < 1 else found["prediction"])
    assert "0 and 1" in fails(capsys, "predict", str(trained), str(path), "--abstain-below", "2")


def test_check_and_models(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, check and models do not print words, or not JSON when asked."""
    for words in (["check", str(trained.parent / "photos")], ["models"]):
        assert run(words) == 0
        assert capsys.readouterr().out
        assert run([*words, "--json"]) == 0
        json.loads(capsys.readouterr().out)


def test_report_anew(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a deleted report cannot be written again."""
    page = trained / "report.html"
    page.unlink()
    assert run(["report", str(trained)]) == 0
    assert "&lt;b&gt;" in page.read_text()
    assert "light <b>" not in page.read_text()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a command's --help is missing, or hides a flag of the recipe."""
    with pytest.raises(SystemExit) as left:
        run([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "--json" in out
    if command in ("train", "compare"):
        for name in Recipe.__dataclass_fields__:
            assert name == "data" or "--" + name.replace("_", "-") in out
        assert "default: 0.1" in out


def test_help_is_light() -> None:
    """If it fails, `levelhead --help` loads torch, and takes seconds."""
    code = (
        "import sys; from levelhead.cli import run; run(['--help']); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["trin"], "did you mean 'train'"),
        (["train", "digits", "--seed", "abc"], "'abc' is not a whole number"),
        (["train", "digits", "--smoothing", "1"], r"--smoothing 1.0: must be in [0, 1)"),
        (["train", "digits", "--smoothing", "-0.1"], r"--smoothing -0.1: must be in [0, 1)"),
        (["train", "digits", "--smothing", "0.1"], "did you mean '--smoothing'"),
        (["train", "digits", "--model", "resnt18"], "did you mean 'resnet18'"),
        (["train", "digits", "--model", "timm:resnet19"], "did you mean 'resnet1"),
        (["train", "digits", "--loss", "mse"], "--loss mse: unknown"),
        (["train", "digits", "--device", "tpu"], "--device tpu"),
        (["train", "digits", "--smoothing", "0.95", "--convention", "others"], "(K-1)/K"),
        (["train", "digits", "--finetune"], "no published weights"),
        (["train", "nowhere"], "nowhere: no such file or folder"),
        (["train"], "DATA"),
        (["resume", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "x.png"], "not a run folder"),
        (["report", "nowhere"], "nowhere"),
        (["audit", "nowhere.npz"], "nowhere.npz"),
        (["compare", "digits", "--smoothing", "0", "0"], "occurs twice"),
        (["compare", "digits", "--smoothing", "0", "1.5"], r"must be in [0, 1)"),
        (["compare", "digits", "--seeds", "0"], "seeds"),
    ],
)
def test_slips(
    words: list[str],
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If it fails, a slip of the pen ends in a traceback, or in a line without the fix."""
    monkeypatch.chdir(tmp_path)
    assert wanted in fails(capsys, *words)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not made, "a refused command left files behind"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


BROKEN: dict[str, Callable[[Path], Any]] = {
    "truncated": _truncate,
    "zero-byte": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no image"),
}


@pytest.mark.parametrize("how", sorted(BROKEN))
def test_broken_pictures(
    how: str,
    folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If it fails, a broken image is not named, or --skip-broken does not list it in the run."""
    photos = folder({"cat": 12, "dog": 12}, suffix="jpg", size=(30, 30))
    BROKEN[how](photos / "dog" / "3.jpg")
    out = tmp_path / "run"
    said = fails(capsys, "train", str(photos), *QUICK, "--out", str(out))
    assert "dog/3.jpg" in said
    assert "--skip-broken" in said
    assert not out.exists()
    assert run(["train", str(photos), *QUICK, "--out", str(out), "--skip-broken"]) == 0
    ((name, why),) = json.loads((out / "data.json").read_text())["skipped"]
    assert name == "dog/3.jpg"
    assert why


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"train/cat": 4, "train/dog": 4, "train/empty": 0, "test/cat": 2, "test/dog": 2}, "empty"),
        ({"cat": 9}, "class"),
        ({"train/cat": 4, "test/cat": 2, "test/dog": 2, "train/cow": 3, "test/cow": 1}, "dog"),
        ({"cat": 1, "dog": 1, "cow": 1}, "cat"),
    ],
)
def test_folders_that_cannot_train(
    counts: dict[str, int],
    wanted: str,
    folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If it fails, an unusable folder is trained on, or the message does not name the class."""
    said = fails(capsys, "train", str(folder(counts)), *QUICK, "--out", str(tmp_path / "run"))
    assert wanted in said


def test_nearest_model_and_full_out(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, training writes into a folder that holds a run already."""
    before = (trained / "model.safetensors").read_bytes()
    assert "levelhead resume" in fails(capsys, "train", "digits", "--out", str(trained))
    assert (trained / "model.safetensors").read_bytes() == before


def test_half_written_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a run that was killed while writing is read as if it were whole."""
    import shutil

    half = tmp_path / "half"
    shutil.copytree(trained, half)
    (half / "findings.json").unlink()
    picture = str(trained.parent / "photos" / "dark" / "0.png")
    assert "levelhead resume" in fails(capsys, "predict", str(half), picture)
    assert run(["resume", str(half)]) == 0
    assert (half / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(b"half")
    assert "model.safetensors" in fails(capsys, "predict", str(half), picture)
    (half / "recipe.toml").write_text("data = ")
    assert "recipe.toml" in fails(capsys, "predict", str(half), picture)


def test_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a disk that fills ends in a traceback, or the run cannot go on afterwards."""
    out, words = tmp_path / "run", ["train", "digits", "--model", "cnn", "--epochs", "2"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # no file may become larger
    try:
        said = fails(capsys, *words, "--out", str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "last.safetensors: cannot be written" in said
    assert run(["resume", str(out)]) == 0
    assert (out / "findings.json").exists()


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        ({"logits": [[1.0, float("nan")]], "labels": [0]}, "row 0"),
        ({"logits": [[1.0, 2.0], [1.0, float("inf")]], "labels": [0, 1]}, "row 1"),
        ({"logits": [[1.0, 2.0]], "labels": [2]}, "row 0"),
        ({"probabilities": [[0.5, 0.5], [0.5, 0.6]], "labels": [0, 1]}, "row 1"),
        ({"logits": [[1.0, 2.0]], "probabilities": [[0.5, 0.5]], "labels": [0]}, "both"),
        ({"labels": [0]}, "logits"),
        ({"logits": [[1.0, 2.0]]}, "labels"),
    ],
)
def test_bad_predictions(
    arrays: dict[str, Any], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, impossible predictions are judged, or the message does not name the row."""
    path = tmp_path / "p.npz"
    np.savez(path, **{name: np.array(value) for name, value in arrays.items()})
    assert wanted in fails(capsys, "audit", str(path))


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, compare prints no table, no recommendation, or trains finished cells again."""
    words = ["compare", "digits", *QUICK, "--smoothing", "0", "0.1", "--seeds", "2"]
    out = tmp_path / "study"
    assert run([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for wanted in ("smoothing=0.1", "Use smoothing=", "report.html"):
        assert wanted in printed
    times = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert len(times) == 4
    assert run([*words, "--out", str(out), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["settings"]) == 2
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_trashnet(
    real_data: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, check misses the contradicting pairs in real photos."""
    assert run(["check", str(real_data("trashnet")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["contradictions"]) == 3
    assert "--strict-splits" in fails(
        capsys, "train", str(real_data("trashnet")), *QUICK, "--strict-splits",
        "--out", str(tmp_path / "r"),
    )  # fmt: skip
