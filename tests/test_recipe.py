"""Recipes: written and read back exactly, refused clearly, resolved once and for all."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.models import MODELS, find_model
from levelhead.recipe import Recipe
from levelhead.training.defaults import (
    LEAST_STEPS,
    LEAST_TUNED,
    TUNED_ALPHA,
    Facts,
    frozen,
    resolve,
    tuned,
)

DIGITS = Facts(size=8, channels=1, examples=1294)
MNIST = Facts(size=28, channels=1, examples=54_000)
CIFAR = Facts(size=32, channels=3, examples=45_000)
PHOTOS = Facts(size=160, channels=3, examples=1365)

names = st.text(min_size=1, max_size=12)
shares = st.floats(0.001, 0.999)
positive = st.floats(1e-12, 1e12)
recipes = st.builds(
    Recipe,
    data=names,
    model=names,
    loss=names,
    device=names,
    image_size=st.none() | st.integers(1, 10_000),
    validation=shares,
    test=shares,
    smoothing=st.floats(0, 0.999),
    convention=st.sampled_from(["uniform", "others"]),
    optimizer=st.none() | st.sampled_from(["sgd", "adamw", "muon"]),
    lr=st.none() | positive,
    momentum=st.none() | st.floats(0, 0.999),
    weight_decay=st.none() | st.floats(0, 1e9),
    warmup=st.none() | st.floats(0, 0.99),
    power=positive,
    step_at=st.lists(shares, max_size=4).map(tuple),
    classes=st.just(()) | st.lists(names, min_size=2, max_size=4, unique=True).map(tuple),
    flip=st.none() | st.booleans(),
    finetune=st.booleans(),
    seed=st.integers(0, 2**40),
)


# --- TOML ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(recipe=recipes)
def test_toml_round_trip(recipe):
    """If this fails, recipe.toml does not repeat the run it was written for."""
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    "path",
    [
        'C:\\Users\\"me"\\bilder',
        "tab\there",
        "line\nbreak\r",
        "bell\x07 escape\x1b nul\x00",
        "delete\x7f",
        "next line\x85 nbsp\xa0",
        "Ünïcødé/写真/🐈",
        "''' \"\"\" # [table] = 1",
        " spaces ",
        "\u2028\u2029\ufeff",
    ],
)
def test_odd_paths_round_trip(path, tmp_path):
    """If this fails, data under an odd path can be trained on once but never resumed."""
    recipe = Recipe(path)
    text = recipe.to_toml()
    assert tomllib.loads(text)["data"] == path
    file = tmp_path / "recipe.toml"
    file.write_bytes(text.encode())
    assert Recipe.load(file) == recipe


def test_paths_that_are_no_unicode_are_written_or_refused(tmp_path):
    """If this fails, a folder whose name is not UTF-8 ends in a traceback after the training."""
    path = b"photos-\xff".decode("utf-8", "surrogateescape")
    try:
        recipe = Recipe(path)
        content = recipe.to_toml().encode()
    except LevelheadError:
        return
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    assert Recipe.load(file).data == path


def test_every_field_is_written_once_and_read_back():
    """If this fails, a knob is lost between the command line and recipe.toml."""
    recipe = resolve(Recipe("digits", penalty=0.1, clip_norm=1.0, step_at=(0.1, 0.2, 0.9)), DIGITS)
    written = tomllib.loads(recipe.to_toml())
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()} == {
        k: v for k, v in fields.items() if v is not None
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('data = "digits"\nlearning_rate = 1', "learning_rate"),
        ('data = "digits"\nsmothing = 0.1', "did you mean 'smoothing'"),
        ('data = "digits"\nbatchsize = 1', "did you mean 'batch_size'"),
        ('model = "cnn"', "'data' is missing"),
        ("data = ", "not valid TOML"),
        ('data = "digits"\n[table]\nx = 1', "unknown key 'table'"),
        ('data = "digits"\ndata = "digits"', "not valid TOML"),
    ],
)
def test_recipe_files_that_are_none(text, words, tmp_path):
    """If this fails, a slip in recipe.toml is ignored, or not said where it is."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(LevelheadError) as error:
        Recipe.load(file)
    assert words in str(error.value)
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_recipe_files_that_cannot_be_read(tmp_path):
    """If this fails, a missing, binary or unreadable recipe ends in a traceback."""
    with pytest.raises(LevelheadError, match=r"none\.toml"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(LevelheadError):
        Recipe.load(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'data = "\xff\xfe"')
    with pytest.raises(LevelheadError, match=r"binary\.toml"):
        Recipe.load(binary)


# --- bad values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("smoothing", v) for v in (-0.1, 1.0, 1.5, math.nan, math.inf)],
        *[(n, v) for n in ("validation", "test") for v in (0.0, 1.0, -0.5, 2, math.nan)],
        *[("lr", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("clip_norm", v) for v in (0.0, -1.0, math.nan)],
        *[("epochs", v) for v in (0, -1)],
        *[("batch_size", v) for v in (0, -1)],
        *[("image_size", v) for v in (0, -1)],
        *[("weight_decay", v) for v in (-1e-9, math.nan, math.inf)],
        *[("penalty", v) for v in (-1.0, math.nan, math.inf)],
        *[("crop", -1), ("cutout", -1), ("window", -1)],
        *[("warmup", v) for v in (-0.1, 1.0, math.nan)],
        *[("momentum", v) for v in (-0.1, 1.0, math.nan)],
        *[("power", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("step_factor", v) for v in (0.0, 1.1, math.nan)],
        *[("step_at", v) for v in ((0.5, 1.0), (0.0,), (-1.0,), (math.nan,))],
        *[("mix_alpha", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("classes", v) for v in (("a",), ("a", "a"))],
        *[("seed", v) for v in (-1, 2**64)],
        *[("split_seed", -1)],
    ],
)
def test_values_that_cannot_be_are_refused_by_flag(name, value):
    """If this fails, a value that cannot be is found out (or not) in the middle of training."""
    with pytest.raises(LevelheadError) as error:
        Recipe("digits", **{name: value})
    assert "--" + name.replace("_", "-") in str(error.value)
    assert str(value) in str(error.value)
    assert "\n" not in str(error.value)


CHOICES = {
    name: typing.get_args(hint) or [a for u in typing.get_args(hint) for a in typing.get_args(u)]
    for name, hint in typing.get_type_hints(Recipe).items()
    if "Literal" in str(hint)
}


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_words_that_are_no_choice_are_refused(name):
    """If this fails, a misspelt word in recipe.toml or Python silently means something else: an
    unknown optimizer is SGD, an unknown schedule constant, an unknown convention `others`."""
    with pytest.raises(LevelheadError, match="--" + name.replace("_", "-")):
        Recipe("digits", **{name: "nonsense"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "abc"),
        ("seed", 1.5),
        ("epochs", "ten"),
        ("epochs", 2.5),
        ("batch_size", 2.5),
        ("image_size", 32.5),
        ("crop", 1.5),
        ("lr", "0.1"),
        ("smoothing", "0.1"),
        ("smoothing", None),
        ("step_at", 0.5),
        ("step_at", ("a",)),
        ("classes", "ab"),
        ("classes", (1, 2)),
        ("flip", "yes"),
        ("finetune", 3),
        ("data", 5),
        ("model", None),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_flag(name, value):
    """If this fails, a seed that is not a number (or half an epoch) ends in a traceback, or in a
    run that does something else than its recipe says."""
    flag = "data" if name == "data" else "--" + name.replace("_", "-")
    with pytest.raises(LevelheadError, match=flag):
        Recipe(**{"data": "digits", name: value})


def test_a_recipe_file_with_wrong_types_is_refused(tmp_path):
    """If this fails, recipe.toml with `step_at = 0.5` or `epochs = "ten"` ends in a traceback."""
    for line in ("step_at = 0.5", 'epochs = "ten"', 'seed = "abc"', "lr = [1]", "data2 = 1"):
        with pytest.raises(LevelheadError):
            Recipe.from_toml(f'data = "digits"\n{line}\n')


def test_contradicting_flags_are_refused():
    """If this fails, flags that exclude each other are silently reduced to one of them."""
    with pytest.raises(LevelheadError, match="--finetune"):
        Recipe("digits", finetune=True, from_scratch=True)
    for changes, words in [
        ({"model": "lite0", "from_scratch": True}, "--from-scratch"),
        ({"model": "cnn", "pretrained": True}, "--pretrained"),
        ({"model": "resnet18", "finetune": True}, "--finetune"),
        ({"loss": "cros_entropy"}, "did you mean 'cross_entropy'"),
    ]:
        with pytest.raises(LevelheadError, match=words):
            resolve(Recipe("digits", **changes), PHOTOS)
    # A folder of small images has no published weights to finetune.
    with pytest.raises(LevelheadError, match="--finetune"):
        resolve(Recipe("digits", finetune=True), CIFAR)


def test_recipes_cannot_be_changed():
    """If this fails, a recipe can be altered after its run was started."""
    recipe = Recipe("digits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0
    assert recipe.replace(lr=0.5).lr == 0.5
    with pytest.raises(LevelheadError):
        recipe.replace(lr=-0.5)
    assert hash(recipe) == hash(Recipe("digits"))


# --- resolving -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "changes", "wanted"),
    [
        (8, {}, "cnn"),
        (15, {}, "cnn"),
        (16, {}, "fast"),
        (28, {}, "fast"),
        (32, {}, "fast"),
        (48, {}, "fast"),
        (49, {}, "lite0"),
        (160, {}, "lite0"),
        (500, {}, "lite0"),
        (160, {"from_scratch": True}, "resnet18"),
        (160, {"finetune": True}, "lite0"),
        (32, {"from_scratch": True}, "fast"),
        (160, {"image_size": 32}, "fast"),
        (32, {"model": "linear"}, "linear"),
        (160, {"model": "timm:resnet18"}, "timm:resnet18"),
    ],
)
def test_auto_chooses_by_size(size, changes, wanted):
    """If this fails, `--model auto` takes a network that the issue did not mean."""
    chosen = resolve(Recipe("x", **changes), Facts(size, 3, 5000))
    assert chosen.model == wanted


def test_lite0_tunes_its_last_blocks_where_images_suffice():
    """If this fails, few photos spoil a body, many leave it as it is, or it is trained whole."""
    for name in ("lite0", "lite1", "lite2"):
        assert tuned(resolve(Recipe("x", model=name), PHOTOS))
    assert resolve(Recipe("x"), PHOTOS).mix_maps == TUNED_ALPHA
    for changes in ({"mix_maps": 0.0}, {"loss": "label_relaxation"}, {"targets": "online"}):
        assert resolve(Recipe("x", **changes), PHOTOS).mix_maps == 0
    assert resolve(Recipe("x", mix="cutmix"), PHOTOS).mix_maps == 0
    for changes in ({"loss": "label_relaxation"}, {"targets": "online"}, {"mix": "mixup"}):
        with pytest.raises(LevelheadError, match=r"--mix-maps 0\.3"):
            resolve(Recipe("x", mix_maps=0.3, **changes), PHOTOS)
    for changes in ({"finetune": False}, {"model": "cnn"}):
        with pytest.raises(LevelheadError, match=r"--mix-maps 0\.3"):
            resolve(Recipe("x", mix_maps=0.3, **changes), PHOTOS)
    few = Facts(PHOTOS.size, 3, LEAST_TUNED - 1)
    for wish in (None, True):
        assert frozen(resolve(Recipe("x", finetune=wish), few))
    assert frozen(resolve(Recipe("x", finetune=False), PHOTOS))
    assert frozen(resolve(Recipe("x", model="lite"), PHOTOS))
    assert frozen(resolve(Recipe("x", model="timm:resnet18", pretrained=True), PHOTOS))
    whole = resolve(Recipe("x", model="timm:resnet18", pretrained=True, finetune=True), PHOTOS)
    assert not frozen(whole)
    assert not tuned(whole)
    assert not frozen(resolve(Recipe("x", finetune=True), PHOTOS))
    assert not frozen(resolve(Recipe("x", from_scratch=True), PHOTOS))
    assert not frozen(resolve(Recipe("x", model="timm:resnet18"), PHOTOS))
    assert resolve(Recipe("x"), PHOTOS).image_size == 192
    assert resolve(Recipe("x"), Facts(400, 3, 5000)).image_size == 224
    assert resolve(Recipe("x", image_size=100), PHOTOS).image_size == 100


MODELS_AND_SOME = ["auto", *MODELS, "timm:resnet18", "torchvision:resnet18"]


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS_AND_SOME),
    size=st.integers(4, 300),
    channels=st.sampled_from([1, 3]),
    examples=st.integers(4, 60_000),
    optimizer=st.none() | st.sampled_from(["sgd", "adamw", "muon"]),
    schedule=st.none() | st.sampled_from(["one-cycle", "cosine"]),
    epochs=st.none() | st.integers(1, 50),
    batch=st.none() | st.integers(1, 70_000),
    scratch=st.booleans(),
    tuned=st.booleans(),
    low=st.booleans(),
)
def test_resolving_twice_changes_nothing_and_leaves_nothing_open(
    model, size, channels, examples, optimizer, schedule, epochs, batch, scratch, tuned, low
):
    """If this fails, a run resumed from its recipe.toml is another run."""
    facts = Facts(size, channels, examples)
    try:
        recipe = Recipe(
            "x",
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            epochs=epochs,
            batch_size=batch,
            from_scratch=scratch,
            finetune=tuned,
        )
        once = resolve(recipe, facts, low_precision=low)
    except LevelheadError:
        return
    again = Recipe.from_toml(once.to_toml())
    for precision in (True, False):  # resumed on another machine: still the same run
        assert resolve(again, facts, low_precision=precision) == once
    assert once.image_size
    assert once.model != "auto"
    if not frozen(once):
        for name in ("optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup"):
            assert getattr(once, name) is not None, name
        for name in ("epochs", "batch_size", "crop", "flip", "cutout", "window", "precision"):
            assert getattr(once, name) is not None, name
        assert once.batch_size <= examples
        if channels == 1:
            assert once.flip is False
    for name, value in {"optimizer": optimizer, "schedule": schedule, "epochs": epochs}.items():
        if value is not None:
            assert getattr(once, name) == value


@pytest.mark.parametrize("examples", [20, 100, 1294, 5000, 9999])
@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "resnet20", "fast", "timm:resnet18"])
@pytest.mark.parametrize("batch", [None, 16, 1000])
def test_small_data_is_trained_for_enough_steps(examples, model, batch):
    """If this fails, small data stops after a few steps, long before it has learned."""
    facts = Facts(32, 3, examples)
    chosen = resolve(Recipe("x", model=model, batch_size=batch), facts)
    steps = chosen.epochs * -(-examples // chosen.batch_size)
    assert steps >= LEAST_STEPS == 900
    assert chosen.epochs >= find_model(model).defaults["epochs"]
    if batch is None:
        assert chosen.batch_size <= max(16, examples / 10)
    assert resolve(Recipe("x", model=model, epochs=3), facts).epochs == 3


def test_large_data_keeps_the_models_defaults():
    """If this fails, CIFAR-10 is not trained by the recipe that the benchmark measures."""
    chosen = resolve(Recipe("x"), CIFAR, low_precision=True)
    assert chosen.model == "fast"
    assert (chosen.optimizer, chosen.schedule) == ("muon", "polynomial")
    assert chosen.batch_size == MODELS["fast"].defaults["batch_size"]
    assert chosen.epochs == MODELS["fast"].defaults["epochs"]
    assert chosen.weight_decay == pytest.approx(2e-6 * chosen.batch_size)
    assert (chosen.crop, chosen.flip, chosen.cutout) == (2, True, 0)
    assert chosen.precision == "bfloat16"
    assert chosen.smoothing == 0
    assert resolve(Recipe("x"), CIFAR).precision == "float32"
    assert resolve(Recipe("x", precision="float32"), CIFAR, low_precision=True).precision == (
        "float32"
    )


def test_grey_and_tiny_pictures_are_not_mirrored():
    """If this fails, digits and letters are mirrored into others by default."""
    assert resolve(Recipe("x"), MNIST).flip is False
    assert resolve(Recipe("x"), DIGITS).flip is False
    assert resolve(Recipe("x"), DIGITS).crop == 0
    assert resolve(Recipe("x", flip=True), MNIST).flip is True
    assert resolve(Recipe("x"), CIFAR).flip is True
    assert resolve(Recipe("x", model="linear"), CIFAR).flip is False


def test_what_was_given_is_kept():
    """If this fails, a flag is overruled by a default."""
    given_ = {
        "model": "cnn",
        "optimizer": "sgd",
        "lr": 0.123,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "schedule": "step",
        "warmup": 0.0,
        "epochs": 1,
        "batch_size": 7,
        "crop": 0,
        "flip": False,
        "cutout": 0,
        "precision": "float32",
        "image_size": 20,
    }
    chosen = resolve(Recipe("x", **given_), CIFAR, low_precision=True)
    assert {name: getattr(chosen, name) for name in given_} == given_


@pytest.mark.parametrize(("kind", "alpha"), [("mixup", 0.2), ("cutmix", 1.0), ("none", None)])
def test_mixing_has_its_papers_alpha(kind, alpha):
    """If this fails, mixup mixes as hard as CutMix, or resolving twice changes the recipe."""
    once = resolve(Recipe("x", mix=kind), CIFAR)
    assert once.mix_alpha == alpha
    assert resolve(once, CIFAR) == once
    if kind != "none":
        assert resolve(Recipe("x", mix=kind, mix_alpha=0.5), CIFAR).mix_alpha == 0.5


def test_another_optimizer_brings_its_own_rates():
    """If this fails, `--optimizer sgd` on cnn runs at AdamW's rate (or Muon's 0.24)."""
    for model in ("cnn", "fast", "resnet20"):
        rates = {
            name: resolve(Recipe("x", model=model, optimizer=name), CIFAR).lr
            for name in ("sgd", "adamw", "muon")
        }
        assert rates["adamw"] < 0.02 <= rates["sgd"] <= 0.2
    assert resolve(Recipe("x", model="fast", optimizer="muon"), CIFAR).lr == 0.24
    assert resolve(Recipe("x", model="cnn", schedule="one-cycle"), CIFAR).warmup == 0.3
