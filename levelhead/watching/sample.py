"""What is watched of images: answers, features, looks; a row an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levelhead.data.appearance import LOOKS, appearance
from levelhead.data.entries import Array
from levelhead.decisions.policy import Answers, Policy, joined
from levelhead.deploy.decider import Decider
from levelhead.deploy.predict import decoded, nothing_read
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.runs import Run
from levelhead.training.run_data import run_data


@dataclass(frozen=True, eq=False)
class Sample:
    """N images as the run sees them. `looks` are None where the pixels are no longer there."""

    ids: tuple[str, ...]
    answers: Answers
    features: Array | None  # float32 [N, D]
    looks: dict[str, Array] | None  # float64 [N] of each of `LOOKS`
    digests: Array | None = None  # uint64 [N]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Array) -> Sample:
        """Those at `index` (integers), in that order."""
        place = torch.from_numpy(index)
        ids = tuple(self.ids[i] for i in index.tolist())
        looks, features, digests = self.looks, self.features, self.digests
        return Sample(
            ids,
            self.answers.take(place),
            None if features is None else features[index],
            None if looks is None else {name: looks[name][index] for name in LOOKS},
            None if digests is None else digests[index],
        )


def sample_of_test(run: Run, test: Outputs, policy: Policy) -> Sample:
    """The run's own test images, which nothing was fitted on, with their outputs."""
    looks = None
    try:
        examples = run_data(run).test
        place = {id_: i for i, id_ in enumerate(examples.ids)}
        rows = np.array([place[id_] for id_ in test.ids or ()])
        looks = appearance(examples.images)
        looks = {name: column[rows] for name, column in looks.items()}
    except (LevelheadError, KeyError, IndexError):  # the images have moved, or were arrays
        looks = None
    features = None if test.features is None else test.features.numpy()
    if policy.unknown is not None and policy.unknown.missing(test):
        policy = policy.without_unknown("")
    ids = test.ids or tuple(map(str, range(len(test))))
    return Sample(ids, policy.answers(test), features, looks)


def sample_of_paths(
    decider: Decider,
    paths: Sequence[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Sample, tuple[tuple[str, str], ...]]:
    """New images, and those that cannot be read (path, why). Raises LevelheadError if none can."""
    ids: list[str] = []
    answers: list[Answers] = []
    features: list[Tensor] = []
    looks: dict[str, list[Array]] = {name: [] for name in LOOKS}
    digests: list[Array] = []
    broken: list[tuple[str, str]] = []
    for examples, faults in decoded(decider, paths):
        broken += faults
        if len(examples):
            some, rows = decider.decide(examples.images)
            answers.append(some)
            features += [] if rows is None else [rows.float()]
            for name, column in appearance(examples.images).items():
                looks[name].append(column)
            ids += examples.ids
            digests.append(examples.digests)
        progress(len(ids) + len(broken), len(paths))
    if not ids:
        raise nothing_read(broken)
    whole = torch.cat(features).numpy() if len(features) == len(answers) else None
    columns = {name: np.concatenate(parts) for name, parts in looks.items()}
    sample = Sample(tuple(ids), joined(answers), whole, columns, np.concatenate(digests))
    return sample, tuple(broken)
