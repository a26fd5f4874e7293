"""The estimator beside scikit-learn's own tools, and beside the run it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import levelhead
from levelhead import ImageClassifier, LevelheadError
from levelhead.cli import run as command


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """600 images [N, 8, 8] from 0 to 16, and their labels."""
    data = load_digits()
    return data.images[:600], data.target[:600]


def quick(**more: object) -> ImageClassifier:
    recipe = {"precision": "float32"}
    return ImageClassifier(
        "linear", epochs=8, value_range=(0, 16), device="cpu", recipe=recipe, **more
    )


def test_fit_and_predict(digits: tuple[np.ndarray, np.ndarray], quick_judging: None) -> None:
    """Probabilities, sets and decisions would not be those of the run."""
    x, y = digits
    labels = np.array(["minus" if k == 0 else f"n{k}" for k in y])
    fitted = quick(risk=0.1).fit(x[:500], labels[:500])
    assert fitted.classes_.tolist() == sorted(set(labels))
    assert fitted.score(x[500:], labels[500:]) > 0.8
    p = fitted.predict_proba(x[500:])
    assert p.shape == (100, 10)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (fitted.predict(x[500:]) == fitted.classes_[p.argmax(1)]).all()
    same = levelhead.predict(fitted.run_, x[500:], value_range=(0, 16))
    np.testing.assert_array_equal(p, same.probabilities.numpy())
    assert fitted.run_.policy.thresholds[0].risk_wanted == 0.1
    decisions, sets = fitted.decide(x[500:]), fitted.predict_set(x[500:])
    assert set(decisions) <= {*fitted.classes_, "one of a set", "ask a person", "none of mine"}
    assert sets[np.arange(100), p.argmax(1)].all()
    given = np.isin(decisions, fitted.classes_)
    assert (decisions[given] == fitted.predict(x[500:])[given]).all()


def test_it_is_an_estimator(digits: tuple[np.ndarray, np.ndarray], quick_judging: None) -> None:
    """clone, grid search, pipelines and cross-validation would not take it."""
    x, y = digits
    plain = quick(smoothing=0.1)
    assert clone(plain).get_params() == plain.get_params()
    assert plain.set_params(smoothing=0.2).smoothing == 0.2
    search = GridSearchCV(quick(), {"smoothing": [0.0, 0.1]}, cv=2).fit(x[:400], y[:400])
    assert search.best_score_ > 0.7
    flipped = make_pipeline(FunctionTransformer(lambda images: images[:, ::-1]), quick())
    assert flipped.fit(x[:300], y[:300]).score(x[300:400], y[300:400]) > 0.6
    p = cross_val_predict(quick(), x[:300], y[:300], cv=2, method="predict_proba")
    assert p.shape == (300, 10)


def test_scikit_learns_own_checks() -> None:
    """Its other checks feed tables [N, D], which are no images: the tags say so."""
    from sklearn.utils.estimator_checks import (
        check_estimator_cloneable,
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    )

    for check in (
        check_estimator_cloneable, check_get_params_invariance, check_no_attributes_set_in_init,
        check_parameters_default_constructible, check_set_params,
    ):  # fmt: skip
        check("ImageClassifier", ImageClassifier())
    tags = ImageClassifier().__sklearn_tags__().input_tags
    assert (tags.two_d_array, tags.three_d_array) == (False, True)


def test_paths(tmp_path: Path, quick_judging: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths would be read otherwise than the command reads them."""
    paths, labels = [], []
    for number, name in enumerate(("dark", "light")):
        for i in range(30):
            draw = np.random.default_rng([number, i])
            pixels = draw.normal(70 + 90 * number, 30, (12, 9, 3)).clip(0, 255).astype(np.uint8)
            paths.append(tmp_path / f"{name}-{i}.png")
            Image.fromarray(pixels).save(paths[-1])
            labels.append(number == 1)
    recipe = {"image_size": 8, "precision": "float32"}
    made = ImageClassifier("linear", epochs=3, recipe=recipe, out=tmp_path / "out", device="cpu")
    fitted = made.fit(paths, labels)
    assert fitted.classes_.tolist() == [False, True]
    assert fitted.score(paths, labels) > 0.9
    table = tmp_path / "table.csv"
    command(["predict", str(fitted.run_.folder), *map(str, paths), "--out", str(table)])
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    np.testing.assert_allclose(
        [float(row[-1]) for row in rows], fitted.predict_proba(paths)[:, 1], atol=1e-8
    )
    with pytest.raises(LevelheadError, match=r"no such file|does not exist|not there"):
        fitted.predict([tmp_path / "gone.png"])


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((4, 8, 8), np.uint8), [0, 1], "4 images, labels of shape"),
        (np.zeros((4, 8, 8), np.uint8), [0, 0, 0, 0], "one class"),
        (np.zeros((4, 8)), [0, 1, 0, 1], "shape"),
        ("photos/", [0], "give a list|labels of shape"),
    ],
)
def test_refuses(x: object, y: list[int], words: str) -> None:
    """A mistake would end in a traceback from deep inside."""
    with pytest.raises(LevelheadError, match=words):
        quick().fit(x, y)
    bad = ImageClassifier(recipe={"epocs": 3})
    with pytest.raises(LevelheadError, match="has no field 'epocs'"):
        bad.fit(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1])
