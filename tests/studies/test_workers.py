"""Trainings side by side: the same study, its failures, its end."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.studies import workers
from levelhead.studies.compare import compare
from levelhead.studies.workers import LATE, Job, carry_on, side_by_side
from levelhead.training.events import Event, Note

SMALL = Recipe("digits", model="linear", epochs=2)


def test_a_study_side_by_side_is_the_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """--jobs would train something else, lose a failed training's reason, or stop at it."""
    words = ["compare", "digits", "--model", "linear", "--epochs", "2", "--seeds", "2"]
    words += ["--lr", "0.002", "1e38", "--json"]
    assert cli([*words, "--jobs", "2", "--out", str(tmp_path / "two")]) == 0
    said = capsys.readouterr().err
    assert "lr=0.002, seed 1 (2 of 4)" in said
    one = compare(SMALL, {"lr": (2e-3, 1e38)}, seeds=2, out=tmp_path / "one").findings
    two = compare(SMALL, {"lr": (2e-3, 1e38)}, seeds=2, out=tmp_path / "two", jobs=2).findings
    assert [(f["name"], f["seed"]) for f in two["failed"]] == [("lr=1e+38", 0), ("lr=1e+38", 1)]
    assert all("no longer finite" in f["why"] for f in two["failed"])
    for seed in range(2):
        a, b = (Run(tmp_path / n / "lr=0.002" / f"seed-{seed}") for n in ("one", "two"))
        assert a.recipe == b.recipe
        torch.testing.assert_close(a.outputs("test").scores, b.outputs("test").scores)
    nll = [f["settings"][0]["raw"]["nll"]["value"] for f in (one, two)]
    assert nll[0] == pytest.approx(nll[1], rel=1e-4)
    with pytest.raises(LevelheadError, match="--jobs 0: must be 1 or more"):
        compare(SMALL, {}, jobs=0, out=tmp_path / "none")


def test_a_stopped_training_goes_on(tmp_path: Path) -> None:
    """Hours of a checkpoint would be thrown away, or end in other weights."""
    jobs = [Job(n, SMALL, tmp_path / n) for n in ("whole", "stopped")]
    whole = carry_on(jobs[0])
    carry_on(jobs[1])
    for name in ("findings.json", "model.safetensors"):
        (jobs[1].folder / name).unlink()
    assert side_by_side(jobs[1:], 2, math.inf, lambda event: None) == {}
    scores = [Run(job.folder).outputs("test").scores for job in jobs]
    torch.testing.assert_close(*scores)
    assert whole.recipe == Run(jobs[1].folder).recipe


def test_no_training_begins_that_would_end_too_late(tmp_path: Path) -> None:
    """A budget would be overrun by as many trainings as run at once."""
    jobs = [Job(str(n), SMALL, tmp_path / str(n)) for n in range(2)]
    events: list[Event] = []
    gone = time.monotonic() - 1
    assert side_by_side(jobs, 2, gone, events.append) == {job.folder: LATE for job in jobs}
    assert not events
    assert not list(tmp_path.iterdir())


def test_stopping_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C would leave trainings that go on alone, on the same folders as the next try."""
    begun = []
    real = workers._start

    def start(*given):
        begun.append(real(*given))
        return begun[-1]

    def stop(event: Event) -> None:
        if isinstance(event, Note) and "(2 of 2)" in event.text:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_start", start)
    long = SMALL.replace(epochs=5000)
    jobs = [Job(str(n), long, tmp_path / str(n)) for n in range(2)]
    with pytest.raises(KeyboardInterrupt):
        side_by_side(jobs, 2, math.inf, stop)
    assert [process.poll() is not None for process in begun] == [True]


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training killed for memory would count as done, or its study wait for ever."""
    monkeypatch.setattr(workers, "CHILD", "import os; os.abort()")
    found = side_by_side([Job("a", SMALL, tmp_path / "a")], 1, math.inf, lambda event: None)
    assert found[tmp_path / "a"].startswith("its process ended with -6")


def test_the_processes_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings with a thread for every core each would be slower than one after the other."""
    seen = []

    def popen(*given, env, **more):
        seen.append(env["OMP_NUM_THREADS"])
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 8)
    for at_once in (1, 3, 16):
        with pytest.raises(FileNotFoundError):
            side_by_side([Job("a", SMALL, tmp_path / "a")], at_once, math.inf, lambda event: None)
    assert np.array(seen, int).tolist() == [8, 2, 1]
