"""Distillation: the loss, the smoothness index, and whole students."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import finished_run
from levelhead.studies import train_outputs
from levelhead.targets import smooth
from levelhead.training.distillation import distillation, scaled, smoothness
from levelhead.training.events import Note
from levelhead.training.run import train

STUDENT = Recipe("digits", model="linear", epochs=3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A smoothed teacher of the digits."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    recipe = Recipe("digits", model="mlp", epochs=4, smoothing=0.1)
    return train(recipe, folder)


@pytest.mark.parametrize(("beta", "t", "s"), [(1.0, 1.0, 1.0), (0.6, 4.0, 1.0), (0.3, 2.0, 2.0)])
def test_the_loss_is_the_formula(beta, t, s):
    """The student would learn something else than DESIGN's L."""
    rng = np.random.default_rng(0)
    z, v, losses = rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) * 3, rng.random(20)
    wanted = [
        (1 - beta) * losses[i] - beta * s * s * softmax(v[i] / t) @ log_softmax(z[i] / s)
        for i in range(20)
    ]
    found = distillation(
        *map(torch.from_numpy, (losses, z, v)), beta=beta, temperature=t, student_temperature=s
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_matching_logits_is_half_the_squared_distance_and_the_limit_of_high_temperatures():
    """Hinton's limit would be another loss: the MNIST students were trained with it."""
    rng = np.random.default_rng(1)
    z, v, losses = rng.normal(size=(6, 5)), rng.normal(size=(6, 5)), rng.random(6)
    given = tuple(map(torch.from_numpy, (losses, z, v)))
    found = distillation(*given, beta=0.6, temperature=1, student_temperature=1, match="logits")
    wanted = [0.4 * losses[i] + 0.6 * sum((z[i] - v[i]) ** 2) / 2 for i in range(6)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    gradients = []
    for match, t, share in (("logits", 1.0, 1 / 5), ("probabilities", 300.0, 1.0)):
        x = torch.from_numpy(z - z.mean(1, keepdims=True)).requires_grad_()
        far = torch.from_numpy(v - v.mean(1, keepdims=True))
        how = {"beta": 1.0, "temperature": t, "student_temperature": t, "match": match}
        distillation(torch.zeros(6), x, far, **how).sum().backward()
        gradients.append(share * x.grad)
    # Equation 4 of Hinton et al.: dC/dz = (z - v) / (K T²), times our T².
    np.testing.assert_allclose(gradients[0], gradients[1], atol=2e-3)


def test_a_teacher_scaled_to_one_norm_knows_no_scale():
    """The remedy would not make a smoothed and a hard teacher equally soft at a temperature."""
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    one = scaled(logits, 5**0.5)
    torch.testing.assert_close(one, scaled(0.01 * logits + 7, 5**0.5), rtol=1e-3, atol=1e-4)
    z = logits.double().numpy()
    wanted = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(scaled(torch.ones(1, 5), 3.0), torch.zeros(1, 5))


def test_a_smoothing_teacher_has_its_epsilon_as_smoothness():
    """Curves compared at equal smoothness index would be compared at unequal smoothing."""
    labels = torch.arange(10)
    for epsilon in (0.0, 0.1, 0.5):
        logits = smooth(labels, 10, epsilon).clamp_min(1e-30).log()
        assert smoothness(logits, labels, 1.0).mean().item() == pytest.approx(epsilon, abs=1e-6)


def test_a_student_learns_from_a_run_and_says_how_soft_it_was(teacher, tmp_path):
    """A student would learn from the labels alone, or its smoothness index be lost."""
    said = []
    recipe = STUDENT.replace(teacher=str(teacher.folder), temperature=4.0)
    run = train(recipe, tmp_path / "s", watch=lambda e: said.append(getattr(e, "text", "")))
    assert any("smoothing 0.1 and is distilled at temperature 4" in text for text in said)
    found = json.loads((run.folder / "distillation.json").read_text())
    made = train_outputs(teacher)
    whole = smoothness(made.scores, made.labels, 4.0).mean().item()
    assert found["smoothness_index"] == pytest.approx(whole, abs=1e-3)
    assert run.findings["test"]["metrics"]["accuracy"]["value"] > 0.8
    again = train(recipe, tmp_path / "again")
    assert torch.equal(again.outputs("test").scores, run.outputs("test").scores)
    labels = train(STUDENT, tmp_path / "labels")
    scaled = recipe.replace(teacher_norm=5.0)
    said.clear()
    other = train(scaled, tmp_path / "n", watch=lambda e: said.append(str(e)))
    assert not any("is distilled at" in text for text in said), "scaled is the fix"
    assert json.loads((other.folder / "distillation.json").read_text()) != found
    # Without a share of the teacher it is the student that learns from labels.
    none = train(recipe.replace(beta=0.0), tmp_path / "none")
    assert torch.equal(none.outputs("test").scores, labels.outputs("test").scores)
    assert not torch.equal(run.outputs("test").scores, labels.outputs("test").scores)


def test_predictions_of_the_training_pictures_teach_the_same(teacher, tmp_path):
    """A table would be read in another order than the images: each taught another's target."""
    path = teacher.folder / "outputs" / "train.safetensors"
    train_outputs(teacher)
    shuffled = train_outputs(teacher)
    order = torch.randperm(len(shuffled), generator=torch.Generator().manual_seed(1))
    shuffled.take(order).save(tmp_path / "t.safetensors")
    found = [
        train(STUDENT.replace(teacher=str(source)), tmp_path / str(i))
        for i, source in enumerate((path, tmp_path / "t.safetensors", teacher.folder))
    ]
    scores = [run.outputs("test").scores for run in found]
    assert torch.equal(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2], atol=1e-3, rtol=1e-3)


def test_no_warning_where_nothing_is_known_to_go_wrong(teacher, tmp_path):
    """A warning at temperature 1 would be ignored at 4, too."""
    said: list[str] = []

    def watch(event):
        if isinstance(event, Note):
            said.append(event.text)

    train(STUDENT.replace(teacher=str(teacher.folder)), tmp_path / "s", watch=watch)
    assert not any("distilled" in text for text in said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 4.0}, "--temperature 4.0: is for distillation; give --teacher RUN"),
        ({"beta": 0.5}, "--beta 0.5: is for distillation"),
        ({"match": "logits"}, "--match logits: is for distillation"),
        ({"teacher_norm": 3.0}, "--teacher-norm 3.0: is for distillation"),
        ({"teacher": "T", "teacher_norm": 0.0}, "--teacher-norm 0.0: must be above 0"),
        ({"teacher": "T", "match": "logits", "temperature": 2.0}, "knows no temperature"),
        ({"teacher": "nowhere"}, "nowhere: no such file; check the path"),
        ({"teacher": "T", "beta": 1.5}, "--beta 1.5: must be between 0 and 1"),
        ({"teacher": "T", "temperature": 0.0}, "--temperature 0.0: must be above 0"),
        ({"teacher": "T", "split_seed": 3}, "images that judge the student"),
        ({"teacher": "T", "image_size": 16}, "--image-size 8"),
        ({"teacher": "T", "model": "lite0"}, "--teacher: needs a network trained"),
    ],
)
def test_what_cannot_teach_is_refused(change, says, teacher, tmp_path):
    """A student would be judged on what its teacher saw, or fail in the first step."""
    change = {k: str(teacher.folder) if v == "T" else v for k, v in change.items()}
    with pytest.raises(LevelheadError, match=says):
        train(STUDENT.replace(**change), tmp_path / "s")


def test_predictions_without_the_training_pictures_are_refused(teacher, tmp_path):
    """Images without a target would be given another's."""
    test = teacher.outputs("test")
    test.save(tmp_path / "t.safetensors")
    with pytest.raises(LevelheadError, match="no prediction for 1,"):
        train(STUDENT.replace(teacher=str(tmp_path / "t.safetensors")), tmp_path / "s")
    bare = Outputs.from_logits(test.scores, test.labels, test.class_names)
    bare.save(tmp_path / "b.safetensors")
    with pytest.raises(LevelheadError, match="no ids"):
        train(STUDENT.replace(teacher=str(tmp_path / "b.safetensors")), tmp_path / "s2")


def test_the_command_takes_the_teachers_data_and_splits(teacher, tmp_path, capsys):
    """A student would be judged on images that its teacher was trained on."""
    out = tmp_path / "student"
    words = ["distill", "--teacher", str(teacher.folder), "--student", "linear"]
    words += ["--temperature", "2", "--epochs", "2", "--out", str(out), "--json"]
    assert cli([*words, "--protocol", "hinton"]) == 0
    run = finished_run(out)
    assert run.data["hashes"] == teacher.data["hashes"]
    recipe = run.recipe
    assert (recipe.temperature, recipe.student_temperature, recipe.beta) == (2.0, 2.0, 1.0)
    capsys.readouterr()
    assert cli(["distill", "--student", "linear"]) == 2
    assert "--teacher" in capsys.readouterr().err
    assert cli([*words, "--smothing", "0.1"]) == 2
    assert "did you mean '--smoothing'" in capsys.readouterr().err
