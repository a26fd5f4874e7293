"""With labels: whether the policy's promises still hold, told at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levelhead.data.entries import Array
from levelhead.decisions.policy import KINDS
from levelhead.delimited import rows
from levelhead.errors import LevelheadError
from levelhead.labels import positions, spelling
from levelhead.statistics.anytime import bounds, evidence
from levelhead.watching.sample import Sample

UNPROMISED = "answers, of which nothing is promised"
"""They are held to the most that their risk is by the test images."""


@dataclass(frozen=True)
class Promise:
    """A promise and what came of it: `errors` of `n`, where at most the share `promised` may be.

    `evidence` that it is broken is never above `limit`, with probability level, while it holds;
    `low` and `high` bound the rate at all times at once.
    """

    name: str
    promised: float
    n: int
    errors: int
    low: float
    high: float
    evidence: float  # the most so far
    limit: float
    after: int | None  # examples after which it was shown to be broken

    @property
    def broken(self) -> bool:
        """Whether the labels show that the promise no longer holds."""
        return self.after is not None


def promises_of(
    sample: Sample, labels: Array, fallback: float, level: float = 0.95
) -> tuple[Promise, ...]:
    """Each promise of the policy on labelled images, int64 [N] in the order in which they came.

    Risk of the answers (by class, where thresholds are), sets, and false alarms of "none of mine".
    A policy that promises no risk is held to `fallback`. All of them together raise a false alarm
    with probability 1 − level at most, however often one looks (evidence by Ville, limits by
    Bonferroni).
    """
    answers, policy = sample.answers, sample.answers.policy
    kind, best, choice = (t.numpy() for t in (answers.kind, answers.best, answers.choice))
    wrong, answered = choice != labels, kind == 0
    tests: list[tuple[str, float, Array]] = []
    guaranteed = [t for t in policy.thresholds if t.guarantee is not None and t.value is not None]
    if len(policy.thresholds) > 1:
        for k, (name, one) in enumerate(zip(policy.class_names, policy.thresholds, strict=True)):
            if one in guaranteed:
                tests.append((f"answers {name}", one.risk_wanted, wrong[answered & (best == k)]))
    elif guaranteed:
        tests.append(("answers", guaranteed[0].risk_wanted, wrong[answered]))
    else:
        tests.append((UNPROMISED, fallback, wrong[answered]))
    if policy.sets is not None and answers.sets is not None:
        inside = answers.sets.numpy()[np.arange(len(labels)), labels]
        tests.append(("sets", policy.sets.alpha, ~inside))
    if policy.unknown is not None and np.isfinite(policy.unknown.quantile):
        rate = policy.unknown.false_alarms
        tests.append(("none of mine", rate, kind == KINDS.index("none")))
    limit = len(tests) / (1 - level)
    return tuple(_promise(name, rate, errors, limit, level) for name, rate, errors in tests)


def _promise(name: str, rate: float, errors: Array, limit: float, level: float) -> Promise:
    n, k = len(errors), int(errors.sum())
    low, high = bounds(k, n, level)
    course = evidence(errors.astype(np.int64), rate)
    above = np.flatnonzero(course >= limit)
    after = int(above[0]) + 1 if len(above) else None
    most = float(course.max()) if n else 1.0
    return Promise(name, rate, n, k, low, high, most, limit, after)


def read_labels_of(
    path: str | Path, ids: Sequence[str], class_names: Sequence[str]
) -> tuple[Array, Array]:
    """A CSV of the lines `path,label`, in the order in which the images came: positions among
    `ids`, and labels, int64 [N] each.

    A path is as given to the command, or the name of a file where only one image has it; an empty
    label is left out. Raises LevelheadError by line.
    """
    path = Path(path)
    places = {id_: i for i, id_ in enumerate(ids)}
    places |= {str(Path(id_).resolve()): i for i, id_ in enumerate(ids)}
    names: dict[str, list[int]] = {}
    for i, id_ in enumerate(ids):
        names.setdefault(Path(id_).name, []).append(i)
    index: list[int] = []
    words: list[str] = []
    lines: list[int] = []
    for number, cells in rows(path):
        if len(cells) != 2:
            raise LevelheadError(f"{path}: line {number}: {len(cells)} cells; give path,label")
        where, label = cells[0].strip(), spelling(cells[1])
        if number == 1 and label.lower() in ("label", "class"):
            continue
        place = places.get(where, places.get(str(Path(where).resolve())))
        alike = names.get(where, [])
        place = alike[0] if place is None and len(alike) == 1 else place
        if place is None:
            what = "is the name of several images; give paths" if alike else "is none of the images"
            raise LevelheadError(f"{path}: line {number}: {where!r} {what}")
        if place in index:
            raise LevelheadError(f"{path}: line {number}: {where!r} occurs twice; remove one")
        if label:
            index.append(place)
            words.append(label)
            lines.append(number)
    if not index:
        raise LevelheadError(
            f"{path}: holds no label; give lines such as {ids[0]},{class_names[0]}"
        )
    labels = positions(words, class_names, lambda i: f"{path}: line {lines[i]}")
    return np.array(index), labels
