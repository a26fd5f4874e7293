"""Images turned grey, first weights by name, superclasses from the data to the run."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from levelhead import Recipe, data, predict, train
from levelhead.data import from_arrays
from levelhead.errors import LevelheadError
from levelhead.models import Shape, build
from levelhead.models.initialise import INITS, initialise
from levelhead.report import run_words
from levelhead.training.prepare import prepare


def coloured(n: int = 120, side: int = 8):
    """Two classes that differ in colour alone: red and green of one brightness."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = draw.integers(100, 140, (n, side, side, 3)).astype(np.uint8)
    images[labels == 0, ..., 0] += 90
    images[labels == 1, ..., 1] += 46  # 0.299 · 90 = 0.587 · 46
    return images, labels


def test_grey_images_have_no_colour(tmp_path):
    """If this fails, the cost of greyscale is measured on images that kept their colour."""
    images, labels = coloured()
    recipe = Recipe("arrays", model="linear", epochs=5, device="cpu", validation=0.2)
    accuracy = {}
    for grey in (False, True):
        run = train(
            recipe.replace(grey=grey),
            tmp_path / f"run-{grey}",
            data=from_arrays(images, labels, class_names=("red", "green")),
        )
        accuracy[grey] = run.findings["test"]["metrics"]["accuracy"]["value"]
        assert run.data["channels"] == (1 if grey else 3)
        answers = predict(run, images[:4])
        assert len(answers.predictions) == 4
    assert accuracy[False] > 0.95
    assert accuracy[True] < 0.85
    with pytest.raises(LevelheadError, match="grey already"):
        prepare(Recipe("digits", grey=True))


@pytest.mark.parametrize("name", sorted(INITS))
def test_first_weights_are_those_named(name):
    """If this fails, --init draws from another distribution, or leaves layers as they were."""
    ones = torch.ones(3)
    network = build("cnn", Shape(3, 16, 5), mean=ones, std=ones, seed=0)
    own = network.body[0].weight.clone()
    initialise(network, name, 1)
    again = build("cnn", Shape(3, 16, 5), mean=ones, std=ones, seed=0)
    initialise(again, name, 1)
    wide, head = network.body[8].weight.detach(), network.head
    assert torch.equal(wide, again.body[8].weight)
    assert not torch.equal(own, network.body[0].weight)
    assert head.bias.abs().max() == 0
    fan_in, fan_out = 64 * 9, 128 * 9
    deviations = {
        "kaiming": (2 / fan_out) ** 0.5,
        "xavier": (2 / (fan_in + fan_out)) ** 0.5,
        "normal": 0.01,
        "zeros": 0.0,
    }
    if name == "orthogonal":
        rows = wide.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(128), atol=1e-4, rtol=0)
    else:
        assert float(wide.std()) == pytest.approx(deviations[name], rel=0.02)


def test_first_weights_of_a_run(tmp_path):
    """If this fails, --init is not heard, or is silently beside published weights."""
    recipe = Recipe("digits", model="cnn", epochs=1, device="cpu")
    zeros = train(recipe.replace(init="zeros"), tmp_path / "zeros")
    assert zeros.findings["test"]["metrics"]["accuracy"]["value"] < 0.3
    with pytest.raises(LevelheadError, match="--init kaiming: lite0 starts from published weights"):
        train(Recipe("digits", model="lite0", init="kaiming"), tmp_path / "lite")


def shards(folder, above):
    """Parquet images of four classes, and what they are kinds of."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for split, n in (("train", 80), ("test", 40)):
        labels = np.arange(n) % 4
        rows = []
        for label in labels:
            picture = io.BytesIO()
            pixels = draw.normal(60 + 40 * label, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(picture, "PNG")
            rows.append({"bytes": picture.getvalue(), "path": None})
        kinds = [above(i, label) for i, label in enumerate(labels)]
        table = pa.table({"image": rows, "label": labels, "coarse_label": kinds})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_superclasses_come_from_the_data(tmp_path):
    """If this fails, accuracy by superclass takes a class for another kind, or is left out."""
    folder = shards(tmp_path / "data", lambda i, label: int(label >= 2) + 5)
    listing = data.scan(str(folder))
    assert listing.superclasses == ("5", "5", "6", "6")
    assert data.scan(str(folder), label_column="coarse_label").superclasses == ()
    run = train(Recipe(str(folder), model="linear", epochs=3, device="cpu"), tmp_path / "run")
    assert run.data["superclasses"] == ["5", "5", "6", "6"]
    test = run.outputs("test")
    kind = torch.tensor([0, 0, 1, 1])
    wanted = float((kind[test.predictions()] == kind[test.labels]).double().mean())
    metrics = run.findings["test"]["metrics"]
    assert metrics["superclass_accuracy"]["value"] == pytest.approx(wanted)
    assert wanted >= metrics["accuracy"]["value"]
    said = "\n".join(run_words(run))
    assert said.index("Accuracy ") < said.index("Superclass accuracy") < said.index("NLL ")
    mixed = shards(tmp_path / "mixed", lambda i, label: i % 2)
    assert data.scan(str(mixed)).superclasses != ()  # i % 2 is label % 2 here
    apart = shards(tmp_path / "apart", lambda i, label: i % 3)
    assert data.scan(str(apart)).superclasses == ()
    two = prepare(Recipe(str(folder), model="linear", classes=("1", "3")))[1]
    assert two.superclasses == ("5", "6")


def test_cifar100_has_twenty_kinds(real_data):
    """If this fails, the published superclasses are matched to other classes."""
    listing = data.scan(str(real_data("cifar100")))
    kinds = dict(zip(listing.class_names, listing.superclasses, strict=True))
    assert len(set(kinds.values())) == 20
    assert all(list(kinds.values()).count(kind) == 5 for kind in kinds.values())
    assert kinds["beaver"] == kinds["dolphin"] == kinds["otter"] == "aquatic_mammals"


def test_a_head_starts_small():
    """By the outputs' fan a head of ten classes starts with logits of ±5, and learns late."""
    network = build(
        "cnn", Shape(3, 32, 10), mean=torch.full((3,), 127.0), std=torch.full((3,), 60.0)
    )
    initialise(network, "kaiming", 0)
    expected = (2 / network.head.in_features) ** 0.5
    assert float(network.head.weight.detach().std()) == pytest.approx(expected, rel=0.1)
