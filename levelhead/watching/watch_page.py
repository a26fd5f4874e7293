"""The page of a watch: what has changed, shares, promises, and the images to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from levelhead.data.decode import Broken, pixels
from levelhead.data.entries import Array
from levelhead.files import write
from levelhead.report.page import page
from levelhead.watching.watch import Watched

SHOWN = 24
"""Images that stand on the page."""


def write_watch(
    result: Watched, folder: str | Path, *, title: str, command: str = "", bits: int = 16
) -> Path:
    """Write report.html; returns its path. `bits` of the run's data, to show 16-bit images."""
    answers, names = result.new.answers, result.new.answers.policy.class_names
    cards: list[dict[str, Any]] = [
        {
            "id": result.new.ids[i],
            "image": _image(result.new.ids[i], bits),
            "decision": answers.decisions[i],
            "prediction": names[int(answers.best[i])],
            "confidence": float(answers.confidence[i]),
        }
        for i in result.queue.first[:SHOWN]
    ]
    view = {"found": result.to_json(), "result": result, "cards": cards, "command": command}
    content = page("watch", title=title, **view)
    path = Path(folder) / "report.html"
    write(path, content)
    return path


def _image(path: str, bits: int) -> Array | None:
    """The image once more; None where it has gone meanwhile."""
    try:
        return pixels(Path(path).read_bytes(), bits)
    except (OSError, Broken):
        return None
