"""Accuracy, its mean over classes, and accuracy among the top k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from levelhead.metrics.metric import Metric, mean, number
from levelhead.outputs import Outputs
from levelhead.statistics.binning import sums
from levelhead.statistics.examples import clopper_pearson, share_interval

accuracy = Metric(
    name="accuracy",
    meaning="share of right answers",
    title="Accuracy",
    short="accuracy",
    unit="%",
    digits=1,
    direction="up",
    source="share of examples whose highest score is the label's; of equal scores the first counts",
    prepare=lambda outputs: outputs.rows.correct,
    value=mean("accuracy"),
    interval="wilson",
)


zero_one = Metric(
    name="zero_one",
    meaning="share of wrong answers",
    title="0–1 loss",
    short="0–1 loss",
    unit="%",
    digits=1,
    direction="down",
    source="mean of 1 for a wrong answer and 0 for a right one: 1 − accuracy, at most NLL / log 2",
    prepare=lambda outputs: 1 - outputs.rows.correct,
    value=mean("zero_one"),
    interval="wilson",
)

multilabel_accuracy = Metric(
    name="multilabel_accuracy",
    meaning="the answer is one of the labels that the image may have",
    title="Multi-label accuracy",
    short="multi-label accuracy",
    unit="%",
    digits=1,
    direction="up",
    source="share of examples whose prediction is among their acceptable labels (Beyer et al. "
    '2020, "Are we done with ImageNet?", section 4.1)',
    prepare=lambda outputs: acceptable(outputs),
    value=mean("multilabel_accuracy"),
    interval="wilson",
    needs="acceptable",
)


superclass_accuracy = Metric(
    name="superclass_accuracy",
    meaning="the answer is of the right kind",
    title="Superclass accuracy",
    short="superclass accuracy",
    unit="%",
    digits=1,
    direction="up",
    source="share of examples whose prediction and label are of one superclass (CIFAR-100's 20)",
    prepare=lambda outputs: (
        outputs.kinds[outputs.predictions()] == outputs.kinds[outputs.labels]
    ).double(),
    value=mean("superclass_accuracy"),
    interval="wilson",
    needs="superclasses",
)


def acceptable(outputs: Outputs) -> Tensor:
    """1.0 where the prediction is among the acceptable labels, float64 [N]."""
    assert outputs.acceptable is not None
    return outputs.acceptable.gather(1, outputs.predictions()[:, None]).squeeze(1).double()


def top_k(outputs: Outputs, k: int) -> Tensor:
    """1.0 where the label is among the k highest scores (ties: first classes), float64 [N]."""
    return (outputs.rows.rank < k).double()


top5 = Metric(
    name="top5",
    meaning="the true class is among the five likeliest",
    title="Top-5 accuracy",
    short="top-5 accuracy",
    unit="%",
    digits=1,
    direction="up",
    source="share of examples whose label is among the five highest scores",
    prepare=lambda outputs: top_k(outputs, 5),
    value=mean("top5"),
    interval="wilson",
    needs="probabilities",
    undefined=lambda outputs: (
        f"any answer is among the top 5 of {outputs.classes} classes"
        if outputs.classes <= 5
        else None
    ),
)


@dataclass(frozen=True, eq=False)
class _ByClass:
    labels: Tensor  # int64 [N]
    correct: Tensor  # float64 [N]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def recall(self, weights: Tensor | None = None) -> Tensor:
        """Of each class, [..., K]; NaN without examples."""
        hits = sums(self.labels, self.classes, self.correct, weights)
        return hits / sums(self.labels, self.classes, None, weights)


def _value(prepared: _ByClass, weights: Tensor | None = None) -> dict[str, Any]:
    return {"balanced_accuracy": number(prepared.recall(weights).nanmean(-1))}


def _influence(prepared: _ByClass) -> Tensor:
    recall, count = prepared.recall(), sums(prepared.labels, prepared.classes)
    scale = len(prepared) / (count * int((count > 0).sum()))
    return (prepared.correct - recall[prepared.labels]) * scale[prepared.labels]


def _ends(prepared: _ByClass, level: float, units: Tensor | None) -> tuple[float, float] | None:
    """The classes' own intervals, combined by MOVER (Zou & Donner 2008).

    As far from the mean as √Σ (distance of a class's end)² / classes: where a class has few
    examples, or none of them is wrong, resampling them shows too little. Exact intervals, for
    counts of 1 and 2. With units, whose classes are not independent, the distances add up.
    """
    value, distances = float(prepared.recall().nanmean()), []
    for k in prepared.labels.unique():
        here = prepared.labels == k
        hits = prepared.correct[here]
        recall = float(hits.mean())
        if units is None:
            low, high = map(float, clopper_pearson(float(hits.sum()), len(hits), level))
        else:
            low, high = share_interval(hits, level, units[here].unique(return_inverse=True)[1])
        distances.append((recall - low, high - recall))
    below, above = torch.tensor(distances, dtype=torch.float64).T
    norm = 1 if units is not None else 2
    low, high = (float(part.norm(norm)) / len(distances) for part in (below, above))
    return max(value - low, 0.0), min(value + high, 1.0)


balanced_accuracy = Metric(
    name="balanced_accuracy",
    title="Balanced accuracy",
    short="balanced accuracy",
    unit="%",
    digits=1,
    direction="up",
    source="mean over the classes that occur of the share of their examples that is found "
    "(Brodersen et al. 2010)",
    prepare=lambda outputs: _ByClass(outputs.labels, outputs.rows.correct, outputs.classes),
    value=_value,
    interval="bootstrap",
    needs="classes",
    influence=_influence,
    ends=_ends,
)
