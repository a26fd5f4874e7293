"""What stands on the terminal besides the answer: nothing of C libraries, and it may be closed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from levelhead.cli.terminal import watcher, without_decoders
from levelhead.training.events import Note, Step


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


def on_a_terminal(code: str) -> str:
    """What Python code writes to a terminal of 100 columns."""
    import fcntl
    import pty
    import struct
    import termios

    process, end = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    written = b""
    while True:
        try:
            part = os.read(end, 4096)
        except OSError:  # the end of a terminal is an error
            break
        if not part:
            break
        written += part
    os.waitpid(process, 0)
    os.close(end)
    return written.decode()


EVENTS = """
import time
from levelhead.cli import terminal
from levelhead.training.events import Epoch, Note, Progress, Step
time.sleep(0.5)  # until the window has its size
watch = terminal.watcher()
for i in range(1, 31):
    watch(Progress("features", i, 30))
    time.sleep(0.02)
watch(Note("a note"))
for i in range(1, 5):
    watch(Step(i, 40, 0.5, 100, 300))
    time.sleep(0.12)
watch(Epoch(1, 5, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 100))
watch(Step(6, 40, 0.5, 100, 300))
terminal.end_bars()
print("after")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_bar_shows_how_far_it_is_and_makes_room_for_lines():
    """A person would not see how long it takes, or find a bar's remains in front of a sentence."""
    written = on_a_terminal(EVENTS)
    lines = [line.split("\r")[-1].strip() for line in written.replace("\r\n", "\n").split("\n")]
    shown = [line for line in lines if line]
    assert "features 3" in written
    assert "step 4 of 40, loss 0.5000, 100 images/s, 3 s left |" in written
    assert shown[0] == "a note"
    assert shown[1].startswith("epoch   1: train loss 0.1000")
    assert shown[-1] == "after"


def test_a_log_gets_plain_lines(capsys, monkeypatch):
    """A log would fill with a bar's redrawing, or say nothing for hours."""
    now = [0.0]
    monkeypatch.setattr("levelhead.cli.terminal.time.monotonic", lambda: now[0])
    watch = watcher()
    for second in range(25):
        now[0] = float(second)
        watch(Step(second, 2400, 0.5, 100, 300))
    watch(Note("a note"))
    assert capsys.readouterr().err.splitlines() == [
        "step 11 of 2,400: loss 0.5000, 100 images/s, 3 s left",
        "step 22 of 2,400: loss 0.5000, 100 images/s, 3 s left",
        "a note",
    ]
