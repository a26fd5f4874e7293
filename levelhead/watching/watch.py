"""Watching a run: are new images as its own were, do its promises hold, what to label next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.data.appearance import LOOKS
from levelhead.decisions.plain import plain
from levelhead.decisions.shares import share_intervals
from levelhead.deploy.decider import decider_of
from levelhead.deploy.predict import listed
from levelhead.errors import LevelheadError
from levelhead.files import write_json
from levelhead.machine import tune_malloc
from levelhead.outputs import Outputs
from levelhead.runs import Run, finished_run
from levelhead.statistics.examples import wilson
from levelhead.text import count, isolated
from levelhead.watching.drift import SHARES, Change, drift
from levelhead.watching.label_next import Queue, label_next
from levelhead.watching.promise import UNPROMISED, Promise, promises_of, read_labels_of
from levelhead.watching.sample import Sample, sample_of_paths, sample_of_test


@dataclass(frozen=True)
class Share:
    """The share of a class before (test labels) and after, if the shares alone have changed."""

    name: str
    before: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Watched:
    """New images beside the run's test images."""

    reference: Sample
    new: Sample
    changes: tuple[Change, ...]
    shares: tuple[Share, ...]
    promises: tuple[Promise, ...]  # none without labels
    queue: Queue
    broken: tuple[tuple[str, str], ...]
    known: int  # images of the run itself, left out
    level: float

    @property
    def changed(self) -> tuple[Change, ...]:
        """What is shown to have changed, the surest first."""
        shown = [change for change in self.changes if change.p <= 1 - self.level + 1e-12]
        return tuple(sorted(shown, key=lambda change: change.p))

    @property
    def others(self) -> bool:
        """Whether there are images of other classes: then the shares of the own mean nothing."""
        return "none of mine" in {change.name for change in self.changed}

    @property
    def alarm(self) -> bool:
        """Whether the images have changed, or a promise is broken."""
        return bool(self.changed) or any(one.broken for one in self.promises)

    @property
    def words(self) -> tuple[str, ...]:
        """What was found, as sentences."""
        return (*self._of_images(), *self._of_labels())

    def _of_images(self) -> list[str]:
        n, m = len(self.new), len(self.reference)
        rate = f"{100 * (1 - self.level):.3g} %"
        left = f" ({count(self.known, 'image')} of the run itself left out)" if self.known else ""
        if not self.changed:
            least = min(change.p for change in self.changes)
            lines = [
                f"No change shown: {n:,} new images{left} cannot be told from the {m:,} test "
                f"images (false alarms: {rate} of looks; least adjusted p {least:.2g})."
            ]
            if n < 100:
                lines.append(f"With {n:,} images only large changes can be seen.")
        else:
            lines = [
                f"These images are not as the test images were: {n:,} new{left} against {m:,} "
                f"(false alarms: {rate} of looks). What the policy promises is not for them."
            ]
            lines += [_sentence(change) for change in self.changed]
        names = {change.name for change in self.changed}
        moved = [s for s in self.shares if not s.low <= s.before <= s.high]
        if "predicted classes" in names and self.others:
            lines.append("Shares of the classes cannot be told: other things are among the images.")
        elif "predicted classes" in names and moved:
            parts = ", ".join(
                f"{isolated(s.name)} {100 * s.value:.1f} % [{100 * s.low:.1f}, "
                f"{100 * s.high:.1f}] (test: {100 * s.before:.1f} %)"
                for s in moved
            )
            lines.append(f"If the shares of the classes alone have changed: {parts}.")
        if self.reference.looks is None:
            lines.append("Brightness and sharpness are not compared: the run's images have moved.")
        return lines

    def _of_labels(self) -> list[str]:
        lines = []
        for one in self.promises:
            sentence = (
                f"{isolated(one.name)}: {one.errors:,} of {one.n:,} wrong"
                if one.name.startswith("answers")
                else f"sets: {one.errors:,} of {one.n:,} miss the label"
                if one.name == "sets"
                else f"none of mine: said of {one.errors:,} of {one.n:,} own images"
            )
            sentence = sentence[0].upper() + sentence[1:]
            range_ = f"[{100 * one.low:.1f}, {100 * one.high:.1f}] %, at any time"
            free = one.name == UNPROMISED
            goal = f"at most {100 * one.promised:.3g} %" + (
                ", by test" if free else " was promised"
            )
            verdict = (
                f"{'more' if free else 'broken'}, as was shown after {one.after:,}"
                if one.broken
                else f"not shown to be {'more' if free else 'broken'} (evidence "
                f"{one.evidence:.2g} of {one.limit:.3g})"
            )
            lines.append(f"{sentence} ({range_}); {goal}: {verdict}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return {
            "schema": 1,
            "n": len(self.new),
            "reference": len(self.reference),
            "left_out": self.known,
            "level": self.level,
            "alarm": self.alarm,
            "words": list(self.words),
            "changes": [plain(asdict(change)) for change in self.changes],
            "class_shares": [plain(asdict(share)) for share in self.shares],
            "promises": [plain({**asdict(one), "broken": one.broken}) for one in self.promises],
            "label_next": [self.new.ids[i] for i in self.queue.first],
            "broken": [{"path": path, "why": why} for path, why in self.broken],
        }

    def save(self, folder: str | Path) -> None:
        """Write findings.json and label_next.csv."""
        folder = Path(folder)
        write_json(folder / "findings.json", self.to_json())
        self.queue.save(folder / "label_next.csv")


def watch(
    run: Run | str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = None,
    n_next: int = 50,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Watched:
    """New images (paths, and folders) beside the run's test images.

    `labels`: a CSV of the lines path,label of some of the new images in the order in which they
    came; then the policy's promises are tested, too, at any time. `n_next`: how many images are
    to be labelled next. Images that the run itself had are left out. Raises LevelheadError as
    `predict` does, and for labels that fit no image or class.
    """
    if not 0 < level < 1 or level < 1 - 100 / (draws + 1):
        raise LevelheadError(f"--level {level}: must be between 0.91 and 1, for example 0.95")
    if n_next < 1:
        raise LevelheadError(f"--next {n_next}: must be 1 or more")
    run = finished_run(run.folder if isinstance(run, Run) else run)
    tune_malloc()
    decider, paths = decider_of(run, device=device), listed(images)
    sample, broken = sample_of_paths(decider, paths, progress)
    assert sample.digests is not None
    own = np.isin(sample.digests, run.digests)
    if own.all():
        raise LevelheadError("every image is one of the run's own; give new ones")
    new = sample.take(np.flatnonzero(~own))
    test = run.outputs("test")
    reference = sample_of_test(run, test, decider.policy)
    index, truth = (
        (None, None)
        if labels is None
        else read_labels_of(labels, new.ids, decider.policy.class_names)
    )
    promises: tuple[Promise, ...] = ()
    if index is not None and truth is not None:
        promises = promises_of(new.take(index), truth, _risk_on_test(reference, test), level)
    return Watched(
        reference=reference,
        new=new,
        changes=drift(reference, new, draws=draws, seed=seed),
        shares=_shares(reference, new, test, seed),
        promises=promises,
        queue=label_next(new, n_next, index, seed),
        broken=broken,
        known=int(own.sum()),
        level=level,
    )


def _risk_on_test(reference: Sample, test: Outputs) -> float:
    """The most that the answers' risk is, by the test images: for a policy that promises none."""
    answered = (reference.answers.kind == 0).numpy()
    wrong = (reference.answers.choice != test.labels).numpy()[answered]
    high = wilson(float(wrong.sum()), max(len(wrong), 1))[1]
    return float(min(max(high, 1e-3), 1 - 1e-3))


def _shares(reference: Sample, new: Sample, test: Outputs, seed: int) -> tuple[Share, ...]:
    """Of each class; none where the policy knows no probabilities."""
    p, q = reference.answers.probabilities, new.answers.probabilities
    if p is None or q is None:
        return ()
    labels, names = test.labels.numpy(), new.answers.policy.class_names
    before = np.bincount(labels, minlength=len(names)) / len(labels)
    columns = (before, *share_intervals(p.numpy(), labels, q.numpy(), seed=seed))
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    return tuple(Share(*row) for row in rows)


def _sentence(change: Change) -> str:
    """What has changed, and how."""
    p = f"adjusted p {change.p:.2g}"
    if change.before is None or change.after is None:
        owner = "The network's" if change.name == "features" else "The"
        return f"{owner} {change.name} differ ({p})."
    before, after = change.before, change.after
    if change.name in SHARES:
        what = "None of mine" if change.name == "none of mine" else "Answered with a class"
        return f"{what}: {100 * after:.1f} % after {100 * before:.1f} % ({p})."
    what = "likeness to the training images" if change.name == "likeness" else change.name
    less, more = LOOKS.get(change.name, ("lower", "higher"))
    how = less if after < before else more if after > before else "spread otherwise"
    head = what[0].upper() + what[1:]
    return f"{head}: {how}, median {change.medians[1]} after {change.medians[0]} ({p})."
