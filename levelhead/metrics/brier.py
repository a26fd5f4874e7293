"""Brier score."""

from __future__ import annotations

from levelhead.metrics.metric import Metric, mean

brier = Metric(
    name="brier",
    title="Brier score",
    direction="down",
    source="mean squared distance to the one-hot label, summed over classes, 0 to 2 (Brier 1950)",
    prepare=lambda outputs: outputs.rows.brier,
    value=mean("brier"),
    interval="bootstrap",
)
