"""A stranger's network: one file with its entry, one line in MODELS, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from levelhead.cli import run as cli
from levelhead.data.batches import Batch
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES, Options
from levelhead.models import MODELS, Hooks, Network, Shape, build
from levelhead.recipe import Recipe
from levelhead.runs import open_run
from levelhead.training.defaults import Facts, resolve
from levelhead.training.objective import AUXILIARY, Objective

STRANGER = """
    from torch import nn
    from levelhead.models.entry import ADAMW, Entry, Moves, built
    from levelhead.models.network import Conv2d, Hooks, Linear, Shape

    class Body(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.conv = Conv2d(shape.channels, 8, 3, padding=1)
            self.drop = nn.Dropout(0.1 if shape.dropout is None else shape.dropout)
            self.side = nn.Linear(8, shape.classes)
            self.seen = 0

        def start(self, images):
            self.seen = len(images)

        def forward(self, x):
            return self.drop(self.conv(x).relu().mean((2, 3)))

        def auxiliary(self, x):
            middle = self.conv(x).relu().mean((2, 3))
            return self.drop(middle), [self.side(middle.float())]

    def stranger(shape: Shape):
        \"\"\"A body of one convolution.\"\"\"
        return Body(shape), nn.Linear(8, shape.classes)

    ENTRY = Entry(
        built(stranger),
        {**ADAMW, "lr": 0.02, "weight_decay": 0.0, "batch_size": 64, "epochs": 2},
        least=6,
        instead="use --model linear",
        moves=lambda size, channels: Moves(crop=1),
        knobs=("dropout",),
        low_precision=False,
        hooks=Hooks(start=Body.start, stops={"conv.bias": 1}, auxiliary=Body.auxiliary),
    )
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file, one line."""
    path = tmp_path / "stranger.py"
    path.write_text(textwrap.dedent(STRANGER))
    spec = importlib.util.spec_from_file_location("stranger", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stranger", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(MODELS, "stranger", module.ENTRY)


def test_a_stranger_trains_by_its_own_defaults(stranger, tmp_path, capsys, quick_judging):
    """A new network would need edits in files that know nothing of it."""
    out = tmp_path / "run"
    words = ["train", "digits", "--model", "stranger", "--epochs", "2", "--out", str(out)]
    assert cli(words) == 0
    recipe = open_run(out).recipe
    assert (recipe.lr, recipe.optimizer, recipe.crop, recipe.window) == (0.02, "adamw", 1, 0)
    assert recipe.precision == "float32"
    assert open_run(out).network().body.conv.weight.shape == (8, 1, 3, 3)
    capsys.readouterr()
    assert cli(["models"]) == 0
    assert "A body of one convolution" in capsys.readouterr().out
    wrong = ["train", "digits", "--model", "stranger", "--width", "3", "--out", str(tmp_path / "b")]
    assert cli(wrong) == 2
    assert "--model stranger has none" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_stranger_says_what_it_takes(stranger):
    """Small images would end in a stack trace, or the knob of one model be offered by another."""
    mean = std = torch.ones(1)
    with pytest.raises(LevelheadError, match="6 px or more, not 5; use --model linear"):
        build("stranger", Shape(1, 5, 3), mean=mean, std=std)
    with pytest.raises(LevelheadError, match=r"it is for mlp, cnn, .*stranger"):
        resolve(Recipe("x", model="linear", dropout=0.1), Facts(8, 1, 100))
    window = Recipe("x", model="stranger", window=5)
    with pytest.raises(LevelheadError, match="takes no images under 6 px"):
        resolve(window, Facts(8, 1, 100))


def test_auxiliary_heads_are_weighed_and_only_train(stranger):
    """Auxiliary heads would count as much as the network's own, or judge in its place."""
    network = build("stranger", Shape(1, 8, 3), mean=torch.zeros(1), std=torch.ones(1))
    images = torch.rand(5, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    network.eval()
    logits, (side,) = network.training_logits(images)
    torch.testing.assert_close(logits, network(images))
    loss = LOSSES["cross_entropy"]
    objective = Objective(loss, Options(smoothing=0.1))
    batch = objective.batch(Batch(images, labels, torch.arange(5)), 0)
    total = objective(logits, batch, [side])
    own, other = (
        torch.nn.functional.cross_entropy(z, labels, label_smoothing=0.1, reduction="none")
        for z in (logits, side)
    )
    assert AUXILIARY == 0.3
    torch.testing.assert_close(total, own + 0.3 * other)
    total.sum().backward()
    assert network.body.side.weight.grad.abs().sum() > 0


def test_most_networks_have_no_auxiliary_head():
    """The training pass of a plain network would differ from its forward pass."""
    network = build("cnn", Shape(1, 8, 3), mean=torch.zeros(1), std=torch.ones(1)).eval()
    assert isinstance(network, Network)
    assert network.hooks == Hooks()
    images = torch.rand(2, 1, 8, 8)
    logits, none = network.training_logits(images)
    assert none == []
    assert torch.equal(logits, network(images))


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_keeps_the_contract(name):
    """A model's default would be a field that no recipe has, or leave one open for good."""
    entry = MODELS[name]
    fields = Recipe("x").__dict__.keys()
    assert entry.defaults.keys() <= fields
    assert {"optimizer", "lr", "schedule", "batch_size", "epochs"} <= entry.defaults.keys()
    assert ("weight_decay" in entry.defaults) != (entry.decay is not None)
    assert entry.build.__doc__
    assert set(entry.knobs) <= {"width", "dropout"}
    moves = entry.moves(32, 3)
    assert 0 <= moves.crop < 32
    assert 0 <= moves.window < 32
    assert entry.size(500, False) >= entry.least
