"""What stands on the terminal besides the answer: nothing of C libraries, and it may be closed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from levelhead.cli.terminal import without_decoders


def command(*words: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with `shell` behind it."""
    line = [sys.executable, "-m", "levelhead", *words]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *line], capture_output=True, text=True, check=False
    )


def test_decoders_keep_quiet(folder: Callable[..., Path]) -> None:
    """libpng's and libjpeg's own lines would stand between the sentences that name the image."""
    root = folder({"a": 6, "b": 6}, (64, 64))
    for name in "ab":
        data = bytearray((root / name / "1.png").read_bytes())
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
        (root / name / "1.png").write_bytes(bytes(data))
    done = command("check", str(root))
    assert done.returncode == 0
    assert "2 images cannot be read: a/1.png" in done.stdout
    assert done.stderr == ""


def test_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    """A crash's last words, or those of another library, would be swallowed with the decoders'."""
    with without_decoders():
        os.write(2, b"libpng error: IDAT: CRC error\nterminate called after throwing\n")
        print("a sentence", file=sys.stderr)
        os.write(2, b"Corrupt JPEG data: 14 extraneous bytes\nno end of line")
    os.write(2, b" and after\n")
    lines = capfd.readouterr().err
    assert "libpng" not in lines
    assert "Corrupt" not in lines
    assert "terminate called after throwing\n" in lines
    assert "a sentence\n" in lines
    assert lines.endswith("no end of line and after\n")


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """A stream that is closed would end in a traceback, or a file be opened in its place."""
    assert command("check", "digits", shell=closed).returncode == 0
    assert command("check", str(tmp_path / "nothing"), shell=closed).returncode == 2
