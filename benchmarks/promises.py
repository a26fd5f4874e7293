"""Do policies keep what they promise? Random splits of real predictions.

    python benchmarks/promises.py RUN DATA/predictions/resnet56_cifar10_test.npz [--splits 200]

A run stands for its own validation and test images together, a file for its examples. Each split
draws the labelled images that set a policy; the rest judge it. Printed: in how many splits the
wanted risk is kept by the rest (of its answers, and by class all at once), how often sets hold the
true class, and how many own images are taken for none of mine. A risk counts as broken where the
rest exceeds it at all, also by its own chance: the rest is no infinite population.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from levelhead.judging import Wishes, judged_policy, set_policy
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_predictions
from levelhead.runs import Run
from levelhead.text import columns


def pooled(path: str) -> Outputs:
    """The examples of a file, or those of a run that did not train it."""
    if not Path(path).is_dir():
        return read_predictions(path)
    run = Run(Path(path))
    parts = [run.outputs("validation"), run.outputs("test")]
    scores = torch.cat([part.scores for part in parts])
    labels = torch.cat([part.labels for part in parts])
    names = parts[0].class_names
    features = torch.cat([part.features for part in parts])  # type: ignore[arg-type]
    return Outputs("logits", scores, labels, names, features=features)


def row(outputs: Outputs, n: int, wishes: Wishes, splits: int, limit: Callable) -> list[str]:
    """One world and one wish over all splits."""
    kept, joint, answered, sets, alarms, policies = [], [], [], [], [], 0
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(outputs))
        policy = set_policy(outputs.take(np.sort(order[:n])), wishes, seed=seed)
        found = judged_policy(policy, outputs.take(np.sort(order[n:])))
        answered.append(found["shares"]["class"])
        sets.append(found["sets"]["coverage"]["value"])
        alarms.append(found["false_alarms"]["value"] or 0.0)
        wanted = limit(policy)
        policies += bool(found["shares"]["class"])
        risk = found["risk"]["value"]
        kept.append(wishes.risk_by_class is not None or risk is None or risk <= wanted)
        joint.append(
            wishes.risk_by_class is None
            or all(c["risk"]["value"] is None or c["risk"]["value"] <= wanted
                   for c in found["by_class"])
        )  # fmt: skip
    good = [a and b for a, b in zip(kept, joint, strict=True)]
    return [
        f"{n:,}", f"{policies} of {splits}", f"{np.mean(good) * 100:.1f} %",
        f"{np.mean(answered) * 100:.1f} %", f"{np.mean(sets) * 100:.1f} %",
        f"{np.mean(alarms) * 100:.1f} %",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+")
    parser.add_argument("--splits", type=int, default=200)
    options = parser.parse_args()
    header = ["world", "wish", "labelled", "policies that answer", "risk kept", "answered",
              "sets hold (90 %)", "false alarms (5 %)"]  # fmt: skip
    rows = []
    for path in options.worlds:
        outputs = pooled(path)
        few = len(outputs) < 2000
        for risk in (0.1, 0.2) if few else (0.01, 0.05):
            n = 350 if few else 2000
            cells = row(
                outputs, n, Wishes(risk=risk), options.splits, lambda p: p.thresholds[0].risk_wanted
            )
            rows.append([Path(path).stem, f"risk {risk:g}", *cells])
            print(columns(header, rows[-1:]), flush=True)
        risk = 0.3 if few else 0.1
        by_class = dict.fromkeys(outputs.class_names, risk)
        cells = row(
            outputs, 350 if few else 4000, Wishes(risk_by_class=by_class), options.splits,
            lambda p: p.thresholds[0].risk_wanted,
        )  # fmt: skip
        rows.append([Path(path).stem, f"risk {risk:g} by class", *cells])
        cells = row(
            outputs, 350 if few else 2000, Wishes(), options.splits,
            lambda p: p.thresholds[0].risk_wanted if p.thresholds else 1.0,
        )  # fmt: skip
        rows.append([Path(path).stem, "none (strictest of 1, 5, 10 %)", *cells])
    print(columns(header, rows))


if __name__ == "__main__":
    main()
