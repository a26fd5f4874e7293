"""Data from memory: the same pixels through a file and through arrays are the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from levelhead.cli import run as cli
from levelhead.data import from_arrays
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.runs import open_run
from levelhead.studies.compare import compare
from levelhead.training import resume, train

RECIPE = Recipe("arrays", model="cnn", epochs=1, batch_size=16, precision="float32", device="cpu")


def digits(n: int = 60, channels: int = 1) -> tuple[np.ndarray, list[str]]:
    """Images of two classes that can be told apart, uint8 [N,8,8,C]."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = rng.integers(0, 120, (n, 8, 8, channels)) + 120 * labels[:, None, None, None]
    return images.astype(np.uint8), [("cat", "dog")[k] for k in labels]


@pytest.fixture(autouse=True)
def unjudged(monkeypatch):
    """What is judged is no matter of where the pixels come from."""
    monkeypatch.setattr("levelhead.training.run.run_findings", lambda *given, **more: {})


def test_arrays_are_what_a_folder_of_the_same_pixels_is(tmp_path):
    """A notebook's arrays would be split, hashed or trained on otherwise than its files."""
    images, labels = digits(channels=3)
    ids = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / label / f"{i:02}.png")
        ids.append(f"{label}/{i:02}.png")
    order = np.argsort(ids)
    data = from_arrays(
        images[order], [labels[i] for i in order], ids=[ids[i] for i in order], name="photos"
    )
    one = train(RECIPE.replace(data=str(tmp_path / "photos")), tmp_path / "files")
    two = train(RECIPE, tmp_path / "arrays", data=data)
    for key in ("hashes", "fingerprint", "class_names", "mean", "std", "channels"):
        assert one.data[key] == two.data[key], key
    first, second = (run.folder / "model.safetensors" for run in (one, two))
    assert first.read_bytes() == second.read_bytes()
    assert two.data["source"] == two.recipe.data == "memory:photos"


@pytest.mark.parametrize("kind", ["float", "tensor", "chw", "flat"])
def test_every_way_to_hold_pixels_is_the_same(kind):
    """Floats would be cut to black, or channels be taken for rows."""
    images, labels = digits(channels=1 if kind == "flat" else 3)
    plain = from_arrays(images, labels)
    other = {
        "float": lambda: from_arrays(images / 255.0, labels, value_range=(0, 1)),
        "tensor": lambda: from_arrays(
            torch.from_numpy(images).float() / 127.5 - 1,
            torch.tensor([0, 1] * 30),
            value_range=(-1, 1),
            class_names=["cat", "dog"],
        ),
        "chw": lambda: from_arrays(images.transpose(0, 3, 1, 2), labels, layout="CHW"),
        "flat": lambda: from_arrays(images[..., 0], labels),
    }[kind]()
    assert other.class_names == plain.class_names
    ours, theirs = other.splits["train"], plain.splits["train"]
    assert np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.labels, theirs.labels)


def test_own_splits_groups_and_studies(tmp_path):
    """A test set handed over would be trained on, a patient be parted, a study not be possible."""
    images, labels = digits()
    data = from_arrays(
        images, labels, groups=[i // 4 for i in range(60)], test=(images[:6] // 2, labels[:6])
    )
    run = train(RECIPE, tmp_path / "run", data=data)
    assert run.data["counts"]["test"] == 6
    with (run.folder / "splits.csv").open() as file:
        rows = [line.split(",") for line in file.read().splitlines()[1:]]
    places: dict[str, set[str]] = {}
    for row in rows:
        if row[1] != "test":
            places.setdefault(row[3], set()).add(row[1])
    assert all(len(place) == 1 for place in places.values())
    assert run.outputs("test").class_names == ("cat", "dog")


def test_a_study_of_arrays(tmp_path, monkeypatch):
    """`compare` would look for a folder called arrays."""
    monkeypatch.undo()
    images, labels = digits()
    grid = {"smoothing": (0.0, 0.1)}
    study = compare(RECIPE, grid, seeds=1, out=tmp_path / "s", data=from_arrays(images, labels))
    assert [s["name"] for s in study.findings["settings"]] == ["smoothing=0", "smoothing=0.1"]
    with pytest.raises(LevelheadError, match="other processes"):
        compare(RECIPE, grid, jobs=2, out=tmp_path / "t", data=from_arrays(images, labels))


def test_a_run_of_arrays_goes_on_with_them_alone(tmp_path, capsys):
    """Resuming would end in "no such file", or go on with other pixels."""
    images, labels = digits()
    whole = train(RECIPE.replace(epochs=2), tmp_path / "whole", data=from_arrays(images, labels))
    (whole.folder / "findings.json").unlink()
    assert cli(["resume", str(whole.folder)]) == 2
    assert "hand the same arrays over again" in capsys.readouterr().err
    before = (whole.folder / "model.safetensors").read_bytes()
    run = resume(whole.folder, data=from_arrays(images, labels))
    assert (run.folder / "model.safetensors").read_bytes() == before
    (run.folder / "findings.json").unlink()
    with pytest.raises(LevelheadError, match="no longer those"):
        resume(run.folder, data=from_arrays(images // 2, labels))


def test_predicting_with_a_run_of_arrays(tmp_path, monkeypatch, capsys):
    """A network trained in a notebook could not be used on files."""
    monkeypatch.undo()
    images, labels = digits()
    run = train(RECIPE, tmp_path / "run", data=from_arrays(images, labels))
    Image.fromarray(images[1, ..., 0]).save(tmp_path / "x.png")
    assert cli(["predict", str(run.folder), str(tmp_path / "x.png"), "--json"]) == 0
    assert open_run(run.folder).data["class_names"] == ["cat", "dog"]
    assert cli(["report", str(run.folder)]) == 0, "a page does without the images"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((4, 8, 8))}, "say what is black"),
        ({"images": np.full((4, 8, 8), np.nan), "value_range": (0, 1)}, "NaN"),
        ({"images": np.full((4, 8, 8), 2.0), "value_range": (0, 1)}, "outside of value_range"),
        ({"images": np.zeros((4, 8, 8)), "value_range": (1, 0)}, "black, white"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, "layout='CHW'"),
        ({"images": np.zeros((4, 8), np.uint8)}, "wanted"),
        ({"labels": ["a", "b", "a"]}, "3 labels for 4 images"),
        ({"labels": ["a"] * 4}, "only one class"),
        ({"labels": [[0.5], [0], [1], [1]]}, "is no class"),
        ({"labels": [0, 1, 2, 0], "class_names": ["a", "b"]}, "is no class"),
        ({"ids": ["x", "x", "y", "z"]}, "twice"),
        ({"groups": ["g"]}, "1 group for 4 images"),
        ({"layout": "WHC"}, "must be HWC"),
    ],
)
def test_bad_arrays_are_said(change, words):
    """A mistake in a notebook would train on noise, or end in a stack trace."""
    given = {"images": np.zeros((4, 8, 8), np.uint8), "labels": ["a", "b", "a", "b"]} | change
    with pytest.raises(LevelheadError, match=words) as error:
        from_arrays(given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(error.value)


def test_the_example_of_the_docstring_needs_no_path(tmp_path: Path, monkeypatch):
    """Files called like the arrays would be read in their place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arrays").mkdir()
    images, labels = digits()
    run = train(RECIPE, tmp_path / "run", data=from_arrays(images, labels))
    assert run.data["name"] == "arrays"
