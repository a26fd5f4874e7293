"""`levelhead check`: what it finds in a data set, and how it says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levelhead.cli import run as cli
from levelhead.data.check import check, words
from levelhead.errors import LevelheadError


def test_real_photos(real_data: Callable[[str], Path]) -> None:
    """Trashnet's three contradicting pairs, one across train and test, would be missed."""
    findings = check(str(real_data("trashnet")))
    pairs = [{(x["id"], x["label"]) for x in same} for same in findings["contradictions"]]
    assert [len(pair) for pair in pairs] == [2, 2, 2]
    across = [same for same in findings["contradictions"] if len({x["split"] for x in same}) == 2]
    assert [{x["id"] for x in same} for same in across] == [
        {"train/plastic/plastic332.jpg", "test/glass/glass389.jpg"}
    ]
    assert {n: part["n"] for n, part in findings["splits"].items()} == {"train": 2022, "test": 505}
    assert findings["splits"]["train"]["counts"]["paper"] == 475
    assert findings["unreadable"] == []
    assert findings["modes"] == {"RGB": 2527}
    assert min(s["min"] for s in findings["sizes"].values()) == 160
    told = " ".join(words(findings))
    assert "Under two labels: 3 images" in told
    assert "test/glass/glass389.jpg (glass)" in told
    assert "unbalanced" in told


def test_findings(folder: Callable[..., Path]) -> None:
    """Copies, broken files, odd modes and sizes would be missed or miscounted."""
    root = folder({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2}, size=(12, 10))
    shutil.copy(root / "train/a/0.png", root / "train/a/copy.png")  # a plain copy
    Image.open(root / "train/b/1.png").save(root / "train/a/same.bmp")  # another file, same pixels
    shutil.copy(root / "train/b/2.png", root / "test/b/leak.png")
    (root / "test/a/0.png").write_bytes(b"")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / "test/b/grey.png")
    seen: list[tuple[int, int]] = []
    findings = check(str(root), progress=lambda *at: seen.append(at))
    assert seen[-1] == (16, 16)
    assert json.loads(json.dumps(findings)) == findings
    assert findings["splits"]["test"] == {"n": 6, "counts": {"a": 2, "b": 4}}
    assert findings["modes"] == {"RGB": 14, "L": 1}
    assert findings["sizes"]["width"] == {"min": 10, "median": 10.0, "max": 40}
    assert findings["unreadable"] == [{"split": "test", "id": "test/a/0.png", "why": "empty file"}]
    within = [{x["id"] for x in pair} for pair in findings["duplicates"]["within"]]
    assert {"train/a/0.png", "train/a/copy.png"} in within
    assert {"train/a/same.bmp", "train/b/1.png"} in within
    across = [[x["id"] for x in pair] for pair in findings["duplicates"]["across"]]
    assert across == [["train/b/2.png", "test/b/leak.png"]]
    assert [{x["label"] for x in same} for same in findings["contradictions"]] == [{"a", "b"}]
    told = words(findings)
    assert told[0] == "photos: 16 images of 2 classes (train 10, test 6)."
    assert any(line.startswith("1 image cannot be read: test/a/0.png (empty") for line in told)
    assert any(
        "1 exact duplicate across splits: train/b/2.png = test/b/leak.png" in x for x in told
    )


def test_clean_data_and_arrays(tmp_path: Path) -> None:
    """Sound data would be complained about, or arrays not be checked at all."""
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    told = words(check(str(tmp_path / "a.npz")))
    assert "All images can be read." in told
    assert "No image stands there twice." in told
    assert any("modes: L 20." in line for line in told)
    images[3] = images[0]
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    assert len(check(str(tmp_path / "a.npz"))["contradictions"]) == 1


def test_groups_and_small_classes(folder: Callable[..., Path]) -> None:
    """Groups, or a class too small to split, would not be spoken of."""
    root = folder({"a": 8, "b": 2})
    rows = [f"a/{i}.png,a,p{i % 3},{'test' if i > 5 else 'train'}" for i in range(8)]
    rows += ["b/0.png,b,q,train", "b/1.png,b,r,test"]
    (root / "labels.csv").write_text("path,label,group,split\n" + "\n".join(rows))
    findings = check(str(root))
    assert findings["groups"] == {
        "n": 5,
        "largest": {"name": "p0", "n": 3},
        "across": ["p0", "p1"],
    }
    told = " ".join(words(findings))
    assert "Groups in several splits: p0, p1." in told
    refusal = "class 'b' has 1 group; at least 2 are needed to take a validation set from train"
    assert f"levelhead train would refuse it: {refusal}" in told


def test_check_refuses_what_training_refuses(
    folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would be sent from a check that found nothing to a training that refuses."""
    root = folder({"a": 6, "b": 3})
    (root / "b" / "1.png").write_bytes((root / "b" / "0.png").read_bytes())
    refusal = check(str(root))["refusal"]
    assert cli(["check", str(root)]) == 0
    assert f"levelhead train would refuse it: {refusal}." in capsys.readouterr().out
    assert cli(["train", str(root), "--out", str(root.parent / "run")]) == 2
    assert capsys.readouterr().err.strip().endswith(f"{root}: {refusal}")
    root = folder({"c": 6, "d": 6})
    shutil.rmtree(root / "a")
    shutil.rmtree(root / "b")
    (root / "d" / "1.png").write_bytes(b"no image")
    assert check(str(root))["refusal"] is None
    assert cli(["check", str(root)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Next: levelhead train {root} --skip-broken"
    for i in range(6):
        (root / "d" / f"{i}.png").write_bytes(b"no image")
    assert check(str(root))["refusal"] == "no image of 'd' in train can be read"


def test_check_takes_the_columns_that_training_takes(folder: Callable[..., Path]) -> None:
    """What `train --label-column` reads could not be looked at before."""
    root = folder({"a": 8})
    rows = [f"a/{i}.png,x{i % 2},y{i % 4},g{i // 2}" for i in range(8)]
    (root / "labels.csv").write_text("path,label,other,who\n" + "\n".join(rows))
    found = check(str(root), label_column="other", group_column="who")
    assert found["class_names"] == ["y0", "y1", "y2", "y3"]
    assert found["groups"]["n"] == 4


def test_nothing_to_check(tmp_path: Path) -> None:
    """A wrong path would give a traceback."""
    with pytest.raises(LevelheadError, match="no data in a known layout"):
        check(str(tmp_path))
