"""Relatives of smoothing, label noise and snapshots, in whole trainings."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES
from levelhead.recipe import Recipe
from levelhead.training.events import Epoch
from levelhead.training.prepare import prepare, relabelled
from levelhead.training.run import resume, train

QUICK = Recipe("digits", model="linear", epochs=2)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss, tmp_path):
    """A loss of the table would fail in the loop, or learn nothing."""
    run = train(QUICK.replace(loss=loss, epochs=4), tmp_path / "run")
    assert run.findings["test"]["metrics"]["accuracy"]["value"] > 0.8
    assert run.recipe.loss == loss


HEAD = {"model": "lite0", "finetune": False}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "fokal"}, "did you mean 'focal'"),
        ({"strength": 2.0}, "--strength 2.0: --loss cross_entropy has no strength"),
        ({"loss": "focal", "strength": -1.0}, "--strength -1.0"),
        ({"loss": "mbls", "smoothing": 0.1}, "takes the place of smoothing"),
        ({"loss": "label_relaxation", "targets": "explicit"}, "leave it out"),
        ({"targets": "online", "smoothing": 0.1}, "learns its own"),
        ({**HEAD, "targets": "online"}, "--targets online: needs a network trained"),
        ({**HEAD, "save_every": 5}, "--save-every: needs a network trained"),
        ({"noise": "symmetric", "noise_rate": 1.5}, "--noise-rate 1.5"),
        ({"save_every": 0}, "--save-every 0"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(change, says, tmp_path):
    """Minutes of training would end in a traceback, or in a loss that nobody asked for."""
    with pytest.raises(LevelheadError, match=says):
        train(Recipe(**{"data": "digits", "model": "linear", "epochs": 2} | change), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_online_smoothing_learns_and_resumes(tmp_path):
    """Its table would start anew after a stop: a resumed run would differ from one that was not."""
    recipe = QUICK.replace(targets="online", epochs=3)
    whole = train(recipe, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(event):
        if isinstance(event, Epoch) and event.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe, tmp_path / "part", watch=stop)
    part = resume(tmp_path / "part")
    for name in ("validation", "test"):
        assert torch.equal(whole.outputs(name).scores, part.outputs(name).scores)
    plain = train(recipe.replace(targets="loss"), tmp_path / "plain")
    assert not torch.equal(whole.outputs("test").scores, plain.outputs("test").scores)
    soft = train(recipe.replace(targets="loss", smoothing=0.5, epochs=1), tmp_path / "half")
    one = train(recipe.replace(epochs=1), tmp_path / "one")
    # In its first epoch the table is uniform: half label, half uniform, that is smoothing of 0.5.
    np.testing.assert_allclose(
        soft.outputs("test").scores, one.outputs("test").scores, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_noise_falsifies_train_and_validation_alone(kind, tmp_path):
    """Accuracy would be judged against false labels, or be true to labels never noisy."""
    recipe = QUICK.replace(noise=kind, noise_rate=0.3)
    resolved, data = prepare(recipe)
    noisy = relabelled(resolved, data)
    for name, rate in (("train", 0.3), ("validation", 0.3), ("test", 0.0)):
        clean, false = data.splits[name].labels, noisy.splits[name].labels
        assert abs((clean != false).mean() - rate) <= 4 * np.sqrt(0.21 / len(clean)) * (rate > 0)
    again = relabelled(resolved, data)
    assert (again.train.labels == noisy.train.labels).all()
    other = relabelled(resolved.replace(seed=5), data)
    assert (other.train.labels == noisy.train.labels).all()  # a study shares it
    run = train(recipe, tmp_path / "run")
    assert any("30 % of the labels" in note for note in run.data["notes"])
    assert run.findings["test"]["metrics"]["accuracy"]["value"] > 0.7
    assert run.outputs("validation").rows.correct.mean() < 0.8


def test_snapshots_are_the_network_on_its_way(tmp_path):
    """The course of a training would be drawn from weights of another step."""
    recipe = QUICK.replace(save_every=5)
    run = train(recipe, tmp_path / "run")
    steps = run.snapshots
    assert steps[0] == 0
    assert steps == list(range(0, steps[-1] + 1, 5))
    weights = [run.network(step=step).head.weight for step in steps]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(weights))
    plain = train(recipe.replace(save_every=None), tmp_path / "plain")
    assert torch.equal(plain.network().head.weight, run.network().head.weight)
    assert plain.snapshots == []
    with pytest.raises(LevelheadError, match="no such snapshot; there are 0, 5"):
        run.network(step=3)
    with pytest.raises(LevelheadError, match="none; train with --save-every"):
        plain.network(step=5)


def test_smoothing_of_soft_targets_is_not_doubled(tmp_path: Path):
    """Online targets would be smoothed once more, silently."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(QUICK.replace(targets="online", epochs=1), tmp_path / "run")
