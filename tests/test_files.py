"""Files: whole or not at all, with advice that fits what was being written."""

from __future__ import annotations

import pytest

from levelhead import files
from levelhead.cli import run as cli
from levelhead.errors import CannotWrite, LevelheadError
from levelhead.recipe import Recipe
from levelhead.training import train
from worlds import fill_the_disk, sampled


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    """Half a file would be read as a whole one, or a good one be lost to a full disk."""
    path = tmp_path / "a" / "x.json"
    files.write(path, "old")
    fill_the_disk(monkeypatch, "x.json")
    with pytest.raises(CannotWrite, match="No space left on device"):
        files.write(path, "new content")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    assert not files.write_cache(path, b"cached")
    assert files.write_cache(tmp_path / "b" / "y", b"cached")


def test_a_place_that_denies_is_not_called_full(tmp_path, monkeypatch):
    """ "Free some space" would send somebody to delete files, where permission is what lacks."""

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", deny)
    with pytest.raises(CannotWrite, match=f"Permission denied.; allow writing into {tmp_path}, th"):
        files.write(tmp_path / "x.json", "content")


def test_an_audit_with_a_full_disk_is_not_told_to_resume(tmp_path, monkeypatch, capsys):
    """Who audits predictions has no training to go on with."""
    sampled(50, 3).save(tmp_path / "p.safetensors")
    fill_the_disk(monkeypatch, "findings.json")
    words = ["audit", str(tmp_path / "p.safetensors"), "--out", str(tmp_path / "out")]
    assert cli([*words, "--methods", "temperature"]) == 2
    error = capsys.readouterr().err
    assert "findings.json: cannot be written (No space left on device); free some space" in error
    assert "resume" not in error
    assert not (tmp_path / "out").exists(), "nothing was written, nothing is left"


def test_a_training_with_a_full_disk_goes_on_later(tmp_path, monkeypatch, quick_judging):
    """A night's training would be lost for one file."""
    recipe = Recipe("digits", model="linear", epochs=2, precision="float32", device="cpu")
    with monkeypatch.context() as patched:
        fill_the_disk(patched, "test.safetensors")
        with pytest.raises(LevelheadError, match=r"levelhead resume .*run goes on where") as error:
            train(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert cli(["resume", str(tmp_path / "run")]) == 0
    whole = train(recipe, tmp_path / "whole")
    ours, theirs = (f / "model.safetensors" for f in (tmp_path / "run", whole.folder))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_missing_is_said_by_what_it_belongs_to(tmp_path):
    """A study's missing findings would be blamed on a training that has not finished."""
    with pytest.raises(LevelheadError, match="make it anew") as error:
        files.read_json(tmp_path / "findings.json")
    assert "resume" not in str(error.value)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(LevelheadError, match="levelhead resume"):
        files.read_json(tmp_path / "findings.json")
