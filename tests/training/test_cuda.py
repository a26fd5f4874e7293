"""Every way to train runs on a CUDA device, and what it saves answers alike on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from levelhead import Recipe, train
from levelhead.data import from_arrays
from levelhead.data.batches import as_batch
from levelhead.models import MODELS
from levelhead.runs import Run
from levelhead.training.augmentation import views_of
from levelhead.training.inference import scores_of
from levelhead.training.prepare import prepare
from levelhead.translation.token_scores import token_scores
from levelhead.translation.train_translator import train_translator
from levelhead.translation.translate import translate
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import encoded
from worlds import write_parallel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EMBEDDED = {name for name, entry in MODELS.items() if entry.weights == "embedded"}
NETWORKS = sorted(set(MODELS) - EMBEDDED - {"inception_v4", "resnet34", "resnet44", "resnet32"})
WAYS: dict[str, dict[str, object]] = {
    "warped": {"shift": 0.1, "rotation": 20.0, "perspective": 0.2, "scale": 0.5},
    "warped, constant": {"shift": 0.1, "shear": 10.0, "fill": "constant", "cutout": 4},
    "relit": {"brightness": 0.2, "contrast": 0.2, "colour": 0.2, "pixel_noise": 0.05},
    "trivialaugment": {"policy": "trivialaugment"},
    "autoaugment": {"policy": "autoaugment-cifar10", "crop": 2, "flip": True},
    "window": {"window": 12, "crop": 2, "flip": True},
    "mixup": {"mix": "mixup"},
    "cutmix": {"mix": "cutmix", "smoothing": 0.1},
    "balanced draws": {"sampler": "balanced", "prior_correction": True},
    "balanced weights": {"class_weights": "balanced", "prior_correction": True},
    "explicit": {"targets": "explicit", "smoothing": 0.1, "convention": "others"},
    "online": {"targets": "online"},
    "focal": {"loss": "focal"},
    "rmse": {"loss": "rmse"},
    "muon": {"optimizer": "muon"},
    "l1, clipped": {"l1": 1e-4, "clip_norm": 1.0, "optimizer": "sgd"},
    "first weights": {"init": "orthogonal"},
    "mirror": {"tta": "flip"},
    "crops": {"tta": "crops", "tta_average": "probabilities"},
    "draws": {"tta": "draws", "tta_draws": 3, "shift": 0.1, "fill": "constant", "crop": 2},
    "snapshots": {"save_every": 2},
    "float32": {"precision": "float32"},
}


@pytest.fixture
def stripes(tmp_path: Path):
    """Three classes of colour images of 16 px: stripes across, stripes down, none."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 240)
    images = draw.integers(0, 120, (240, 16, 16, 3))
    images[labels == 0, ::4] += 130
    images[labels == 1, :, ::4] += 130
    images = images.astype(np.uint8)
    return from_arrays(images[:200], labels[:200], test=(images[200:], labels[200:]))


def trained(data, out: Path, **fields) -> Run:
    defaults = {"model": "cnn", "width": 8, "epochs": 2, "batch_size": 32, "device": "cuda"}
    return train(Recipe("arrays", **{**defaults, **fields}), out=out, data=data)


def check(run: Run, data) -> None:
    """What the run saved, reckoned on the GPU, is what its weights say on the CPU."""
    saved = run.outputs("test").scores.numpy()
    _, read = prepare(run.recipe.replace(device="cpu"), known=data)
    network = run.network("cpu")
    views = views_of(run.recipe, network)
    scores, _ = scores_of(network, as_batch(read.test, torch.device("cpu")), views)
    np.testing.assert_allclose(softmax(saved, 1), softmax(scores.numpy(), 1), atol=2e-4)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_runs_on_cuda(way, stripes, tmp_path):
    run = trained(stripes, tmp_path / "run", **WAYS[way])
    check(run, stripes)
    assert run.findings["test"]["metrics"]["nll"]["value"] < 2


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_trains_on_cuda(model, stripes, tmp_path):
    run = trained(stripes, tmp_path / "run", model=model, width=None, batch_size=64, image_size=32)
    check(run, stripes)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_translator_trains_and_searches_on_cuda(precision, tmp_path):
    """Its tokens are judged on the GPU as its weights say on the CPU, and answers are alike."""
    write_parallel(tmp_path / "data", (400, 40, 40))
    recipe = TranslationRecipe(
        str(tmp_path / "data"), source="aa", target="bb", vocabulary=340, layers=2, width=32,
        heads=2, feed_forward=64, dropout=0.1, batch_tokens=600, epochs=20, average=2,
        precision=precision, device="cuda", smoothing=0.1,
    )  # fmt: skip
    run = train_translator(recipe, tmp_path / "run")
    _, tokens = encoded(run.corpus(), run.vocabulary, run.recipe)
    (nll,) = token_scores(run.network("cpu"), tokens["test"]).nll([1.0])
    assert nll == pytest.approx(run.findings["test"]["metrics"]["nll"]["value"], abs=1e-3)
    lines = ["ba ko .", "tu na mi ."]
    by_device = [translate(run, lines, device=device).texts() for device in ("cpu", "cuda")]
    assert by_device[0] == by_device[1]
