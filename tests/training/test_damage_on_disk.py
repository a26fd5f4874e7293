"""What changes on disk between two commands is noticed, and two processes do not share a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levelhead.cli import run as cli
from levelhead.data import cache, load, scan
from levelhead.errors import LevelheadError
from levelhead.files import cache_folder, locked
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.training import checkpoint, course, resume, train


@pytest.fixture
def photos(folder: Callable[..., Path]) -> Path:
    return folder({f"{split}/{name}": 12 for split in ("train", "test") for name in "ab"})


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path], Run]:
    """Train, and stop after the first epoch."""

    def stop(recipe: Recipe, out: Path) -> Run:
        def save(*rest: Any) -> None:
            checkpoint.save_checkpoint(*rest)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(course, "save_checkpoint", save)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, out)
        return Run(out)

    return stop


def recipe(photos: Path, **more: Any) -> Recipe:
    return Recipe(str(photos), model="linear", epochs=3, batch_size=4, device="cpu", **more)


def test_side_files_are_those_the_run_was_started_with(
    photos: Path, tmp_path: Path, stopped: Callable[[Recipe, Path], Run], quick_judging: None
) -> None:
    """Labels, prior or ε by class replaced before resume would change the end in silence."""
    ids = scan(str(photos)).splits["train"].ids
    labels, prior, epsilon = (tmp_path / f"{name}.csv" for name in ("labels", "prior", "epsilon"))
    labels.write_text("id,label\n" + "".join(f"{i},{i.split('/')[1]}\n" for i in ids))
    prior.write_text("a,b\n0.7,0.3\n")
    epsilon.write_text("class,epsilon\na,0.1\nb,0.2\n")
    files = {"labels": labels, "prior": prior, "smoothing_by_class": epsilon}
    more = {name: str(path) for name, path in files.items() if name != "smoothing_by_class"}
    for name, path in files.items():
        fields = more | {"smoothing": 0.1} if name != "smoothing_by_class" else {name: str(path)}
        run = stopped(recipe(photos, **fields), tmp_path / name)
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"0.7,0.3", b"0.6,0.4").replace(b"a,0.1", b"a,0.3") + b"\n")
        with pytest.raises(
            LevelheadError, match=f"file of --{name.replace('_', '-')} is no longer"
        ):
            resume(run.folder)
        path.write_bytes(whole)
        assert resume(run.folder).finished


def test_another_teacher_is_refused(
    photos: Path, tmp_path: Path, stopped: Callable[[Recipe, Path], Run], quick_judging: None
) -> None:
    """A student would end under another teacher than it began with."""
    train(recipe(photos), tmp_path / "teacher")
    run = stopped(recipe(photos, teacher=str(tmp_path / "teacher")), tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher")
    train(recipe(photos, seed=1), tmp_path / "teacher")
    with pytest.raises(LevelheadError, match="file of --teacher is no longer"):
        resume(run.folder)


def test_a_checkpoint_with_other_bytes_is_refused(
    photos: Path, tmp_path: Path, stopped: Callable[[Recipe, Path], Run], quick_judging: None
) -> None:
    """One flipped bit of a weight would go into the rest of the training."""
    run = stopped(recipe(photos), tmp_path / "run")
    path = run.folder / "checkpoint" / "last.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(LevelheadError, match="its bytes have changed since it was written"):
        resume(run.folder)


def test_a_zeroed_cache_is_made_again(photos: Path, monkeypatch: Any, tmp_path: Path) -> None:
    """Pixels that fell to zeros would be trained on: accuracy .167 instead of .667."""
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    listing = scan(str(photos))
    first = load(listing, image_size=8, channels=3).train.images.copy()
    files = sorted((cache_folder() / "decoded").glob("*.npy"))
    assert files
    for damage in ("zeros", "short", "foreign", "side"):
        for file in files:
            if damage == "zeros":
                with file.open("r+b") as stream:
                    stream.seek(200)
                    stream.write(bytes(64))
            elif damage == "short":
                file.write_bytes(file.read_bytes()[:-5])
            elif damage == "foreign":
                np.save(file, np.zeros((2, 2)))
            else:
                file.with_suffix(".json").write_text("[1, 2]")
        assert np.array_equal(load(listing, image_size=8, channels=3).train.images, first), damage
    shutil.rmtree(tmp_path / "cache")
    load(listing, image_size=8, channels=3, cached=False)
    assert not (tmp_path / "cache").exists()


def test_zeroed_features_are_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    """Features of a frozen body that were damaged would train a head on nothing."""
    import torch
    from safetensors.torch import save_file

    from levelhead.training.checkpoint import checksum
    from levelhead.training.frozen import _kept

    path, features = tmp_path / "f.safetensors", torch.randn(5, 3)
    save_file({"features": features}, path, {"checksum": checksum({"features": features})})
    kept = _kept(path, 5, 3)
    assert kept is not None
    assert torch.equal(kept, features)
    assert _kept(path, 6, 3) is None
    save_file({"features": 0 * features}, path, {"checksum": checksum({"features": features})})
    assert _kept(path, 5, 3) is None
    save_file({"features": features}, path)
    assert _kept(path, 5, 3) is None
    path.write_bytes(b"")
    assert _kept(path, 5, 3) is None


def test_a_cache_that_cannot_be_written_costs_time_alone(
    photos: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    """A full or read-only cache would stop the training."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    data = load(scan(str(photos)), image_size=8, channels=3)
    assert any("are not kept in" in note for note in data.notes)
    assert len(data.train) == 24
    assert cache.VERSION > 1


def test_two_processes_do_not_work_on_one_run(
    photos: Path, tmp_path: Path, stopped: Callable[[Recipe, Path], Run], quick_judging: None
) -> None:
    """Two trainings would write one run folder in turns."""
    run = stopped(recipe(photos), tmp_path / "run")
    code = (
        "import sys, time; from pathlib import Path; from levelhead.files import locked\n"
        "with locked(Path(sys.argv[1]), 'run'):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        with pytest.raises(LevelheadError, match="another process works on this run"):
            resume(run.folder)
    finally:
        process.kill()
        process.communicate()
    assert resume(run.folder).finished  # a lock dies with its process
    assert not (run.folder / ".lock").exists()
    with locked(tmp_path, "run"):
        pass


def test_a_folder_that_a_killed_training_left_takes_the_same_command(
    photos: Path, tmp_path: Path, quick_judging: None
) -> None:
    """Killed while recipe.toml was written, the same command would be refused."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".recipe.toml.0a1b2c3d4e5f.part").write_text("data =")
    (out / ".lock").write_text("")
    run = train(recipe(photos), out)
    assert not list(run.folder.rglob("*.part"))


def test_sigterm_ends_a_training_like_ctrl_c(photos: Path, tmp_path: Path) -> None:
    """A terminated study would leave trainings that go on alone."""
    words = ["compare", str(photos), "--model", "mlp", "--epochs", "400", "--jobs", "2", "--seeds"]
    process = subprocess.Popen(
        [sys.executable, "-m", "levelhead", *words, "2", "--out", str(tmp_path / "study")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    folders: list[Path] = []
    end = time.monotonic() + 60
    while not folders and time.monotonic() < end:
        folders = list((tmp_path / "study").glob("*/seed-*/recipe.toml"))
        time.sleep(0.1)
    assert folders
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"stopped; the same command goes on" in said
    time.sleep(0.5)
    marks = [p for p in Path("/proc").glob("[0-9]*/cmdline") if _mentions(p, str(tmp_path))]
    assert not marks, "a training goes on alone"


def _mentions(file: Path, text: str) -> bool:
    try:
        return text.encode() in file.read_bytes() and file.parent.name != str(os.getpid())
    except OSError:
        return False


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict"])
def test_output_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    """A name that the terminal cannot show would end in a traceback after all work is done."""
    lines = [f"{p},{1 - p},{'łódź' if p > 0.5 else '犬'}" for p in (0.9, 0.2, 0.8, 0.4)]
    (tmp_path / "p.csv").write_text("\n".join(["łódź,犬,label", *lines]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "levelhead", "audit", "p.csv", "--probabilities", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("latin-1").replace("\\x", "\\u00"))["n"] == 4


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path, capsys: Any) -> None:
    """A file name could clear the screen, or turn a sentence round."""
    (tmp_path / "p.csv").write_text(
        "a\x1b[31m,b\u202e,label\n1,0,a\x1b[31m\n0,1,b\u202e\n1,0,cow\n"
    )
    assert cli(["audit", str(tmp_path / "p.csv"), "--probabilities"]) == 2
    said = capsys.readouterr().err
    assert "cow" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_resume_tidies_a_finished_run(photos: Path, tmp_path: Path, quick_judging: None) -> None:
    """Killed on its last step, a run would keep its checkpoint and half-written files for good."""
    run = train(recipe(photos), tmp_path / "run")
    (run.folder / "checkpoint").mkdir()
    (run.folder / "checkpoint" / "last.safetensors").write_bytes(b"old")
    (run.folder / ".report.html.0123456789ab.part").write_bytes(b"half")
    before = (run.folder / "model.safetensors").read_bytes()
    assert resume(run.folder).finished
    assert not (run.folder / "checkpoint").exists()
    assert not list(run.folder.rglob("*.part"))
    assert (run.folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("field", ["class_names", "counts", "hashes", "image_size", "channels"])
def test_a_run_whose_data_lacks_a_field(
    field: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    quick_judging: None,
) -> None:  # fmt: skip
    """A KeyError somewhere in a study would be all that a person sees."""
    run = train(recipe(photos), tmp_path / "run")
    path = run.folder / "data.json"
    content = json.loads(path.read_text())
    for damaged in ({k: v for k, v in content.items() if k != field}, content | {field: [None]}):
        path.write_text(json.dumps(damaged))
        for words in (["report"], ["decide"], ["tradeoff"], ["penultimate"]):
            if cli([*words, str(run.folder)]) == 2:
                assert capsys.readouterr().err.startswith("levelhead: ")
        with pytest.raises(LevelheadError, match=f"data.json: holds (no|another) '{field}'"):
            _ = run.data
