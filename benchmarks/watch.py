"""`levelhead watch`: how often it raises a false alarm, and how often it sees what has changed.

    python benchmarks/watch.py RUN [--streams 1000]

1. The run's test images are parted at random, again and again: one part is the reference, the
   other a stream of "new" images. Nothing has changed: alarms are false, at most 5 % may be.
2. The streams are corrupted (five corruptions, `data.corruptions`), or one class is thinned out to
   a quarter: alarms are right.
3. Labelled streams whose errors have exactly the promised rate, looked at after every label: the
   share that is ever called broken; and streams with twice and three times the rate: after how
   many answers half of them are.
4. How often the 95 % intervals of the classes' shares hold the truth: in streams as in 1, and in
   streams whose shares are drawn anew (Dirichlet).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from levelhead.data.appearance import appearance
from levelhead.data.corruptions import AMOUNTS, corrupt
from levelhead.data.entries import Array
from levelhead.decisions.policy import joined
from levelhead.decisions.shares import share_intervals
from levelhead.deploy.decider import Decider, decider_of
from levelhead.runs import finished_run
from levelhead.statistics.anytime import evidence
from levelhead.statistics.examples import wilson
from levelhead.text import columns
from levelhead.training.run_data import run_data
from levelhead.watching.drift import drift
from levelhead.watching.sample import Sample

DRAWS = 400


def sample(decider: Decider, images: Array) -> Sample:
    """Decoded images [N,S,S,C] as the run sees them."""
    parts = [decider.decide(images[i : i + 64]) for i in range(0, len(images), 64)]
    features = [rows for _, rows in parts if rows is not None]
    return Sample(
        tuple(map(str, range(len(images)))),
        joined([answers for answers, _ in parts]),
        torch.cat(features).numpy(),
        appearance(images),
    )


def alarms(reference: Sample, stream: Sample, n: int, times: int, rng: np.random.Generator) -> str:
    """The share of streams of n images, apart from the reference, that raise an alarm."""
    hits = 0
    for i in range(times):
        order = rng.permutation(len(reference))
        a, b = reference.take(order[n:]), stream.take(order[:n])
        hits += min(c.p for c in drift(a, b, draws=DRAWS, seed=i)) <= 0.05
    low, high = wilson(hits, times)
    return f"{100 * hits / times:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def thinned(
    reference: Sample, labels: Array, k: int, n: int, times: int, rng: np.random.Generator
) -> str:
    """As `alarms`, of streams in which class k has a quarter of its share."""
    hits = 0
    for i in range(times):
        order = rng.permutation(len(reference))
        half = order[: len(order) // 2]
        keep = (labels[half] != k) | (rng.random(len(half)) < 0.25)
        a, b = reference.take(order[len(order) // 2 :]), reference.take(half[keep][:n])
        hits += min(c.p for c in drift(a, b, draws=DRAWS, seed=i)) <= 0.05
    low, high = wilson(hits, times)
    return f"{100 * hits / times:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def shares_held(own: Sample, labels: Array, n: int, drawn: bool, times: int, seed: int) -> str:
    """The share of intervals that hold the truth, over all classes: mean, and the worst class."""
    rng, probabilities = np.random.default_rng(seed), own.answers.probabilities
    assert probabilities is not None
    p = probabilities.numpy()
    k = p.shape[1]
    held = np.zeros(k)
    for i in range(times):
        order = rng.permutation(len(p))
        a, b = order[: len(p) // 2], order[len(p) // 2 :]
        truth = np.bincount(labels, minlength=k) / len(labels)
        if drawn:
            truth = rng.dirichlet(np.ones(k))
            weight = (truth / np.maximum(np.bincount(labels[b], minlength=k), 1))[labels[b]]
            b = rng.choice(b, n, p=weight / weight.sum())
        _, low, high = share_intervals(p[a], labels[a], p[b[:n]], draws=100, seed=i)
        held += (low <= truth) & (truth <= high)
    return f"{100 * held.mean() / times:.1f} %, worst class {100 * held.min() / times:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--streams", type=int, default=1000)
    options = parser.parse_args()
    run, rng = finished_run(options.run), np.random.default_rng(0)
    decider, test = decider_of(run), run_data(run).test
    own = sample(decider, test.images)
    sizes, few = (25, 100, len(own) // 2), max(20, options.streams // 10)
    rows = [["nothing", *(alarms(own, own, n, options.streams, rng) for n in sizes)]]
    for kind in AMOUNTS:
        other = sample(decider, corrupt(test.images, kind))
        rows.append([kind, *(alarms(own, other, n, few, rng) for n in sizes)])
    common = int(np.bincount(test.labels).argmax())
    cells = [thinned(own, test.labels, common, n, few, rng) for n in sizes]
    rows.append([f"{test_name(run, common)} quartered", *cells])
    header = [
        f"alarms of {options.streams:,} streams ({few} where changed)",
        *(f"{n} new" for n in sizes),
    ]
    print(columns(header, rows))
    every = max(50, options.streams // 10)
    rows = [
        [what, *(shares_held(own, test.labels, n, drawn, every, n) for n in (60, 200))]
        for what, drawn in (("as they were", False), ("drawn anew", True))
    ]
    print(columns([f"shares, {every} streams", "60 new", "200 new"], rows))
    rows = []
    for rate in (0.01, 0.05, 0.1):
        for factor in (1, 2, 3):
            errors = rng.random((options.streams, 2000)) < rate * factor
            first = [
                int(above[0]) + 1 if len(above := np.flatnonzero(evidence(e, rate) >= 20)) else 0
                for e in errors.astype(int)
            ]
            share = np.mean(np.array(first) > 0)
            half = np.median([x or 10**9 for x in first])
            when = f"{half:,.0f}" if half < 10**9 else "–"
            rows.append([f"{rate:g}", f"{rate * factor:g}", f"{100 * share:.1f} %", when])
    print(columns(["promised", "true rate", "ever broken in 2,000", "half after"], rows))


def test_name(run: object, k: int) -> str:
    """The name of a class."""
    from levelhead.runs import Run

    assert isinstance(run, Run)
    return str(run.data["class_names"][k])


if __name__ == "__main__":
    main()
