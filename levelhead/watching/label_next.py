"""What to label next: uncertain images, spread over what the new images look like."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levelhead.data.entries import Array
from levelhead.decisions.policy import KINDS
from levelhead.files import write
from levelhead.watching.sample import Sample

WIDTH = 50
"""Principal components of the features that are clustered."""
FOREIGN = 0.5
"""What an image that is none of the classes counts at least: a person should see its like once."""


@dataclass(frozen=True, eq=False)
class Queue:
    """Images in the order in which they are worth a label."""

    sample: Sample
    order: Array  # int64 [M], positions
    clusters: Array  # int64 [M], of each of them

    @property
    def first(self) -> tuple[int, ...]:
        """Positions of one image of each cluster: what to label next."""
        return tuple(self.order[: len(set(self.clusters.tolist()))].tolist())

    def save(self, path: Path) -> None:
        """Write a CSV: rank, path, cluster, prediction, confidence, decision, reason."""
        answers, text = self.sample.answers, io.StringIO()
        names = answers.policy.class_names
        table = csv.writer(text, lineterminator="\n")
        table.writerow(
            ["rank", "path", "cluster", "prediction", "confidence", "decision", "reason"]
        )
        for rank, (i, cluster) in enumerate(zip(self.order, self.clusters, strict=True), 1):
            table.writerow(
                [
                    rank, self.sample.ids[i], int(cluster), names[int(answers.best[i])],
                    f"{float(answers.confidence[i]):.6g}", answers.decisions[i], answers.reasons[i],
                ]
            )  # fmt: skip
        write(path, text.getvalue())


def label_next(sample: Sample, n: int, known: Array | None = None, seed: int = 0) -> Queue:
    """The images ranked, without those at `known`: the first n are one of each of n clusters.

    1. An image weighs 1 − confidence, one that is none of the classes at least `FOREIGN`.
    2. Weighted k-means of the features' principal components makes n clusters; heavy images draw
       the centres (Zhdanov 2019).
    3. The nearest to each centre come first, the heaviest cluster first; then the others by weight.

    Without features the weight alone counts, and there is one cluster.
    """
    left = np.setdiff1d(np.arange(len(sample)), [] if known is None else known)
    answers = sample.answers
    weight = (1 - answers.confidence.numpy())[left]
    foreign = answers.kind.numpy()[left] == KINDS.index("none")
    weight = np.where(foreign, np.maximum(weight, FOREIGN), weight) + 1e-6
    n = min(n, len(left))
    if sample.features is None or n < 2:
        clusters, first = np.zeros(len(left), np.int64), np.empty(0, np.int64)
    else:
        clusters, first = _clusters(_components(sample.features[left]), weight, n, seed)
    rest = np.setdiff1d(np.arange(len(left)), first)
    rest = rest[np.argsort(-weight[rest], kind="stable")]
    order = np.concatenate([first, rest]).astype(np.int64)
    return Queue(sample, left[order], clusters[order])


def _components(features: Array) -> Array:
    """Principal components [N, at most WIDTH]."""
    from sklearn.decomposition import PCA

    x = features.astype(np.float64)
    width = min(WIDTH, *x.shape)
    return np.asarray(PCA(width, svd_solver="covariance_eigh").fit_transform(x))


def _clusters(x: Array, weight: Array, k: int, seed: int) -> tuple[Array, Array]:
    """The cluster of each row, and the row nearest to each centre, the heaviest cluster first."""
    import warnings

    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different images than clusters
        fitted = KMeans(k, n_init=2, random_state=seed).fit(x, sample_weight=weight)
    labels = np.asarray(fitted.labels_, np.int64)
    apart = np.square(x - fitted.cluster_centers_[labels]).sum(1)
    heavy = np.bincount(labels, weights=weight, minlength=k)
    nearest = [
        int(members[np.argmin(apart[members])])
        for cluster in np.argsort(-heavy, kind="stable")
        if len(members := np.flatnonzero(labels == cluster))
    ]
    return labels, np.array(nearest, np.int64)
