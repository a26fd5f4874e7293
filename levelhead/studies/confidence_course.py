"""How sure networks become in training: mean confidence minus accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from levelhead.runs import Run
from levelhead.statistics.seeds import seeds_mean


def confidence_course(runs: Sequence[Run], level: float = 0.95) -> list[dict[str, Any]]:
    """Mean confidence minus accuracy on validation after each epoch, over the seeds of a setting.

    Above 0 is over-confident. From history.csv, for the epochs that all runs have; the interval
    holds over seeds (Student's t), so that one seed has none (low and high are None). Heads on a
    frozen body have no epochs: [].
    """
    columns = ("epoch", "validation_confidence", "validation_accuracy")
    histories = [
        {
            row["epoch"]: row[columns[1]] - row[columns[2]]
            for row in run.history
            if {*columns} <= {*row}
        }
        for run in runs
    ]
    rows = []
    for epoch in sorted(set.intersection(*map(set, histories))):
        each = [history[epoch] for history in histories]
        interval = seeds_mean(each, 0.0, level)
        alone = len(each) == 1
        low, high = (None, None) if alone else (interval.low, interval.high)
        row = {"epoch": int(epoch), "value": interval.mean, "low": low, "high": high}
        rows.append(row | {"per_seed": each})
    return rows
