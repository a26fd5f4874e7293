"""The loss around trained weights: directions, what they leave alone, and the study of runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levelhead import Recipe, train
from levelhead.cli import run as command
from levelhead.data.batches import Batch
from levelhead.errors import LevelheadError
from levelhead.figures import FIGURES, slices
from levelhead.figures.canvas import to_png
from levelhead.models import Shape, build
from levelhead.representation.directions import along, direction
from levelhead.studies import landscape

HALF = torch.full((3,), 128.0)


def network(seed: int = 0, name: str = "cnn"):
    return build(name, Shape(3, 8, 4), mean=HALF, std=HALF, seed=seed).eval()


def split(n: int = 40) -> Batch:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=stream, dtype=torch.uint8)
    return Batch(images, torch.arange(n) % 4, torch.arange(n))


def test_directions_are_as_long_as_the_filters_and_drawn_alike():
    """If this fails, a network with larger weights seems to lie in a flatter valley."""
    one, other = network(0), network(1)
    steps, others = direction(one, 5), direction(other, 5)
    weights = dict(one.named_parameters())
    assert steps.keys() == {name for name, w in weights.items() if w.dim() > 1}
    for name, step in steps.items():
        torch.testing.assert_close(
            step.flatten(1).norm(dim=1), weights[name].detach().flatten(1).norm(dim=1)
        )
        alike = torch.nn.functional.cosine_similarity(
            step.flatten(1), others[name].flatten(1), dim=1
        )
        torch.testing.assert_close(alike, torch.ones(len(step)))
    assert not torch.equal(direction(one, 6)["head.weight"], steps["head.weight"])


def test_rescaled_weights_have_the_same_landscape():
    """If this fails, the picture depends on lengths that batch norm takes away again."""
    plain, scaled = network(), network()
    with torch.no_grad():
        scaled.body[0].weight.mul_(3)
        norm = scaled.body[1]
        norm.running_mean.mul_(3)
        norm.running_var.mul_(9).add_(8 * norm.eps)  # sqrt(9 v + 9 eps) = 3 sqrt(v + eps)
    places = [[-1.0], [-0.3], [0.0], [0.5], [1.0]]
    found = [along(one, [direction(one, 2)], places, split()) for one in (plain, scaled)]
    torch.testing.assert_close(found[0].nll, found[1].nll, rtol=1e-4, atol=1e-5)
    assert float(found[0].nll.std()) > 0.001


def test_along_is_the_loss_at_those_weights_and_gives_the_network_back():
    """If this fails, a line or plane is that of other weights, or the run's network is spoilt."""
    one = network(name="mlp")
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    first, second = direction(one, 0), direction(one, 1)
    found = along(one, [first, second], [[0.0, 0.0], [0.4, -0.7]], split())
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    moved = network(name="mlp")
    with torch.no_grad():
        for name, weight in moved.named_parameters():
            if name in first:
                weight += 0.4 * first[name] - 0.7 * second[name]
    for place, literal in enumerate((one, moved)):
        with torch.no_grad():
            logits = literal(split().images)
        nll = torch.nn.functional.cross_entropy(logits, split().labels)
        assert float(found.nll[place]) == pytest.approx(float(nll), rel=1e-5)
        right = (logits.argmax(1) == split().labels).double().mean()
        assert float(found.accuracy[place]) == pytest.approx(float(right))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("landscape")
    recipe = Recipe("digits", model="cnn", epochs=2, device="cpu")
    return [
        train(recipe.replace(smoothing=epsilon), root / f"e{epsilon:g}") for epsilon in (0.0, 0.1)
    ]


def test_the_study_compares_along_the_same_directions(runs):
    """If this fails, two runs are held against each other along different directions."""
    study = landscape(runs, directions=3, points=5, grid=3, images=100)
    findings = study.findings
    assert [row["run"] for row in findings["runs"]] == ["e0 (ε = 0)", "e0.1 (ε = 0.1)"]
    assert findings["n"] == 100
    (difference,) = findings["differences"]
    rises = [row["rise"]["value"] for row in findings["runs"]]
    assert difference["rise"]["value"] == pytest.approx(rises[1] - rises[0])
    assert difference["rise"]["low"] < difference["rise"]["value"] < difference["rise"]["high"]
    assert any("along the same directions" in sentence for sentence in study.words)
    drawn = study.drawn["e0 (ε = 0)"]
    assert drawn["nll"].shape == (3, 5)
    assert drawn["plane"].shape == (3, 3)
    assert drawn["plane"][1, 1] == pytest.approx(drawn["nll"][0, 2], rel=1e-5)
    # The plane's first direction is its horizontal one.
    np.testing.assert_allclose(drawn["plane"][1, [0, 2]], drawn["nll"][0, [0, 4]], rtol=1e-4)
    alone = landscape(runs[1:], directions=3, points=5, images=100)
    assert alone.findings["runs"][0]["rise"] == findings["runs"][1]["rise"]
    for name in ("landscape", "landscapeplane"):
        panels = FIGURES[name].data(study.drawn)
        assert len(panels) == 2
        assert all(to_png(panel, FIGURES[name].draw).startswith(b"\x89PNG") for panel in panels)
    assert slices.planes(alone.drawn) == ()


def test_the_command_and_bad_input(runs, tmp_path, capsys):
    """If this fails, a slip ends in a traceback or a folder half made."""
    folders = [str(run.folder) for run in runs]
    out = tmp_path / "out"
    words = ["landscape", *folders, "--directions", "2", "--points", "3", "--images", "50"]
    assert command([*words, "--out", str(out)]) == 0
    assert (out / "landscape-1.png").exists()
    assert not (out / "landscapeplane-1.png").exists()
    assert "cannot tell whether" in capsys.readouterr().out
    for bad, says in (
        (["--directions", "1"], "--directions 1: must be 2 or more"),
        (["--radius", "0"], "--radius 0.0: must be above 0"),
        (["--plane", "2"], "--plane 2: must be 3 to 201"),
    ):
        assert command([*words, *bad, "--out", str(tmp_path / "bad")]) == 2
        assert says in capsys.readouterr().err
    other = train(
        Recipe("digits", model="linear", epochs=1, split_seed=3, device="cpu"), tmp_path / "other"
    )
    with pytest.raises(LevelheadError, match="has other test images"):
        landscape([*runs, other], directions=2, points=3, images=50)
