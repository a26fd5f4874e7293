"""TensorBoard: what its own reader finds in a run and in a study."""

from __future__ import annotations

import sys

import pytest

from levelhead import Recipe, train
from levelhead.errors import LevelheadError
from levelhead.studies.compare import compare
from levelhead.training.run import resume

pytest.importorskip("tensorboard")


def board(folder):
    """Everything that TensorBoard reads in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return events.Reload()


def text(events, tag: str) -> str:
    (entry,) = events.Tensors(f"{tag}/text_summary")
    return entry.tensor_proto.string_val[0].decode()


def hyper_parameters(events) -> dict[str, object]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    return {name: value.WhichOneof("kind") and getattr(value, value.WhichOneof("kind"))
            for name, value in start.hparams.items()}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe("digits", model="cnn", epochs=3, smoothing=0.1, device="cpu", tensorboard=True)
    return train(recipe, tmp_path_factory.mktemp("board") / "run")


def test_a_run_on_the_board(run):
    """Curves would stop early or miss their epoch, a figure be black, or the words be lost."""
    events = board(run.folder / "tensorboard")
    for name, column in (
        ("train/loss", "train_loss"),
        ("validation/nll", "validation_nll"),
        ("course/lr", "lr"),
    ):
        points = [(p.step, p.value) for p in events.Scalars(name)]
        wanted = [(int(row["epoch"]), pytest.approx(row[column], rel=1e-5)) for row in run.history]
        assert points == wanted
    test = run.findings["test"]["metrics"]
    (accuracy,) = events.Scalars("test/accuracy")
    assert accuracy.value == pytest.approx(test["accuracy"]["value"])
    for name in ("test/reliability", "test/confusion"):
        (image,) = events.Images(name)
        assert image.width > 200
        assert image.encoded_image_string.startswith(b"\x89PNG")
    assert run.findings["words"][0][:40] in text(events, "found")
    fields = hyper_parameters(events)
    assert fields["smoothing"] == pytest.approx(0.1)
    assert fields["model"] == "cnn"


def test_an_epoch_stands_there_once(tmp_path, monkeypatch):
    """A resumed run would draw the epochs after its checkpoint twice."""
    from levelhead.training import course as module

    recipe = Recipe("digits", model="cnn", epochs=4, device="cpu", tensorboard=True)
    kept = module.save_checkpoint

    def stop_after_two(folder, state, history):
        if state.epoch == 3:
            raise KeyboardInterrupt
        kept(folder, state, history)

    monkeypatch.setattr(module, "save_checkpoint", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.setattr(module, "save_checkpoint", kept)
    again = resume(tmp_path / "run")
    points = board(again.folder / "tensorboard").Scalars("train/loss")
    assert [p.step for p in points] == [1, 2, 3, 4]


def test_a_study_on_the_board(tmp_path):
    """Settings could not be told apart there, or the recommendation would stay behind in JSON."""
    recipe = Recipe("digits", model="linear", epochs=2, device="cpu", tensorboard=True)
    study = compare(recipe, {"smoothing": (0.0, 0.1)}, seeds=2, out=tmp_path / "study")
    folder = study.folder / "tensorboard"
    assert study.words[0].split()[0] in text(board(folder), "recommendation")
    settings = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(settings) == 2
    smoothings = [hyper_parameters(board(path)).get("smoothing") for path in settings]
    assert sorted(map(float, smoothings)) == [0.0, pytest.approx(0.1)]


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch):
    """A training would end in a traceback, or after all its work."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    recipe = Recipe("digits", model="linear", epochs=1, tensorboard=True)
    with pytest.raises(LevelheadError, match=r"pip install 'levelhead\[tensorboard\]'"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
