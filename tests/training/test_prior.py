"""Balanced classes: what they do to probabilities, and that the correction undoes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levelhead.data import from_arrays
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.training.prior import balanced_weights, correction, words
from levelhead.training.run import train


def test_the_correction_is_bayes_rule():
    """If this fails, corrected probabilities are not those of images as they come."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)
    truth = torch.softmax(torch.randn((40, 3), generator=draw), 1)
    weights = balanced_weights(labels, 3)
    torch.testing.assert_close(weights[labels].mean(), torch.tensor(1.0))
    for times, fields in (
        (1, {"class_weights": "balanced"}),
        (1, {"sampler": "balanced"}),
        (2, {"class_weights": "balanced", "sampler": "balanced"}),
    ):
        balanced = truth * weights**times
        balanced /= balanced.sum(1, keepdim=True)
        shift = correction(Recipe("x", **fields), labels, 3)
        torch.testing.assert_close(torch.softmax(balanced.log() + shift, 1), truth)


def rare(n: int = 3000, share: float = 0.08):
    """Two classes that overlap, one rare: grey levels of 8 x 8 px, around 110 and 140."""
    draw = np.random.default_rng(0)
    labels = (draw.random(n) < share).astype(int)
    levels = draw.normal(110 + 30 * labels, 20)
    images = draw.normal(levels[:, None, None], 12, (n, 8, 8)).clip(0, 255).astype(np.uint8)
    return from_arrays(images, labels, class_names=("common", "rare"))


@pytest.mark.parametrize("how", ["class_weights", "sampler"])
def test_balancing_overstates_the_rare_class_and_the_correction_mends_it(how, tmp_path):
    """If this fails, what is said of balanced training is not so, or the remedy does nothing."""
    shares = {}
    for corrected in (False, True):
        recipe = Recipe(
            "arrays", model="linear", epochs=12, device="cpu", prior_correction=corrected,
            **{how: "balanced"},
        )  # fmt: skip
        run = train(recipe, tmp_path / f"run-{corrected}", data=rare())
        test = run.outputs("test")
        shares[corrected] = float(test.probabilities()[:, 1].mean())
        actual = float((test.labels == 1).double().mean())
        note = next(n for n in run.data["notes"] if "balanced" in n)
        assert ("overstated" in note) is not corrected
    assert shares[False] > 1.7 * actual
    assert abs(shares[True] - actual) < 0.03


def test_words_and_refusals(tmp_path):
    """If this fails, a run says nothing of its balance, or a correction is silently without one."""
    labels, names = torch.tensor([0] * 90 + [1] * 10), ("ok", "crack")
    assert words(Recipe("x"), labels, names) is None
    both = words(Recipe("x", class_weights="balanced", sampler="balanced"), labels, names)
    assert "--class-weights balanced and --sampler balanced: in training crack (10 images)" in both
    assert "counted as much as ok (90), so rare classes are found more often" in both
    even = words(Recipe("x", sampler="balanced"), torch.arange(100) % 2, names)
    assert "changes little" in even
    unbalanced = Recipe("arrays", model="linear", prior_correction=True)
    with pytest.raises(LevelheadError, match="classes are not balanced"):
        train(unbalanced, tmp_path / "a", data=rare(200))
    no_bias = Recipe(
        "arrays", model="fast", image_size=32, sampler="balanced", prior_correction=True
    )
    with pytest.raises(LevelheadError, match="its head has no bias to correct"):
        train(no_bias, tmp_path / "b", data=rare(200))
    assert not (tmp_path / "b").exists()
