"""Headless Chromium, driven over its own pipe: pages of a server, files given to them."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)


class Tab:
    """One tab of a browser, spoken to in the DevTools protocol."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.number, self.rest = reader, writer, 0, b""
        self.session: str | None = None
        self.complaints: list[str] = []  # of the console and of the content policy
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a command. Raises AssertionError where Chromium refuses it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            while b"\0" not in self.rest:
                wait = deadline - time.monotonic()
                assert select.select([self.reader], [], [], max(wait, 0))[0], f"{method}: no answer"
                piece = os.read(self.reader, 1 << 20)
                assert piece, f"{method}: Chromium is gone"
                self.rest += piece
            raw, _, self.rest = self.rest.partition(b"\0")
            reply = json.loads(raw)
            if reply.get("method") == "Log.entryAdded":
                self.complaints.append(reply["params"]["entry"]["text"])
            if reply.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(reply["params"]["exceptionDetails"]))
            if reply.get("id") == self.number:
                assert "error" not in reply, reply
                return reply["result"]

    def open(self, address: str, width: int = 1100, height: int = 900) -> None:
        """Go to an address, on a screen of a size."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.ask("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str) -> Any:
        """What an expression comes to."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)

    def give(self, selector: str, files: list[Path]) -> None:
        """Choose files in an input."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def shot(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A tab of a fresh browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    to_it, write = os.pipe()
    read, from_it = os.pipe()
    # Chromium reads commands from descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{to_it} 4>&{from_it}'
    words = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=(to_it, from_it),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_it)
    os.close(from_it)
    try:
        yield Tab(read, write)
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)
