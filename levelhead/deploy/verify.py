"""Whether an exported file answers as its run does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levelhead.data.decode import pixels
from levelhead.decisions.policy import Answers, Policy
from levelhead.deploy.exported import Answerer, coloured, open_export
from levelhead.deploy.module import Decided
from levelhead.deploy.predict import predict
from levelhead.errors import LevelheadError
from levelhead.files import reading
from levelhead.runs import MAKE_ANEW, Run, finished_run

TOLERANCE = 1e-4
"""Probabilities of the run and of its export differ by this at most, in float32."""


@dataclass(frozen=True)
class Verified:
    """A run and its export on the same images."""

    n: int
    largest: float  # difference of two probabilities
    changed: tuple[str, ...]  # images that are decided otherwise
    broken: tuple[tuple[str, str], ...]
    int8: bool = False  # an export in 8 bits, which was judged when it was made

    @property
    def good(self) -> bool:
        """Whether the export may stand for the run."""
        return self.int8 or (self.largest <= TOLERANCE and not self.changed)

    @property
    def words(self) -> tuple[str, ...]:
        """The verdict, and what speaks against."""
        lines = [
            f"{self.n:,} images: probabilities differ by {self.largest:.1e} at most "
            f"({'in 8 bits' if self.int8 else f'allowed: {TOLERANCE:g}'}); {len(self.changed):,} "
            "decided otherwise."
        ]
        return (*lines, *(f"Decided otherwise: {path}" for path in self.changed[:10]))

    def to_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "schema": 1,
            "n": self.n,
            "largest_difference": self.largest,
            "tolerance": None if self.int8 else TOLERANCE,
            "changed": list(self.changed),
            "good": self.good,
            "broken": [{"path": path, "why": why} for path, why in self.broken],
        }


def beside(
    policy: Policy, answer: Answerer, images: Iterable[tuple[str, np.ndarray, Answers]]
) -> Verified:
    """An exported file beside the answers [1] that are known of images, uint8 [H, W, 3]."""
    largest, changed, n = 0.0, [], 0
    for name, image, ours in images:
        values = [torch.from_numpy(np.asarray(value)) for value in answer.run(image[None])]
        theirs = Decided(*values).answers(policy)
        n += 1
        assert ours.probabilities is not None
        assert theirs.probabilities is not None
        largest = max(largest, float((ours.probabilities - theirs.probabilities).abs().max()))
        same = ours.decisions == theirs.decisions
        if ours.sets is not None and theirs.sets is not None:
            same &= torch.equal(ours.sets, theirs.sets)
        if not same:
            changed.append(name)
    return Verified(n, largest, tuple(changed), ())


def verify(path: str | Path, run: Run | str | Path, images: Sequence[str | Path]) -> Verified:
    """An exported file and the run's own answers (`predict`) on images and folders of them.

    Raises LevelheadError for a file that is none of ours, or of another run's classes.
    """
    run = finished_run(run.folder if isinstance(run, Run) else run)
    answer, policy = open_export(path), run.policy
    names = policy.class_names
    if answer.metadata and tuple(answer.metadata["class_names"]) != names:
        raise LevelheadError(f"{path}: of other classes than {run.folder}; export it anew")
    with reading(run.folder / "data.json", MAKE_ANEW):
        bits = int(run.data.get("bits", 16))
    predicted = predict(run, [str(image) for image in images])
    known = (
        (
            name,
            coloured(pixels(Path(name).read_bytes(), bits)),
            predicted.answers.take(torch.tensor([i])),
        )
        for i, name in enumerate(predicted.paths)
    )
    int8 = bool(answer.metadata.get("int8"))
    return replace(beside(policy, answer, known), broken=predicted.broken, int8=int8)
