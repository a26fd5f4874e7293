"""How sharp the probabilities are, right or wrong."""

from __future__ import annotations

from torch import Tensor

from levelhead.metrics.metric import Metric, mean
from levelhead.outputs import Outputs


def _squares(outputs: Outputs) -> Tensor:
    rows = outputs.rows  # Brier score = Σ p² − 2 p_label + 1
    return rows.brier - 1 + 2 * (-rows.nll).exp()


sharpness = Metric(
    name="sharpness",
    title="Sharpness",
    direction="none",
    source="mean Σ p² over classes: 1/K if all are equal, 1 if one has all (Gneiting et al. 2007)",
    prepare=_squares,
    value=mean("sharpness"),
    interval="bootstrap",
    needs="probabilities",
)

entropy = Metric(
    name="entropy",
    title="Predictive entropy",
    unit="nats",
    direction="none",
    source="mean −Σ p log p over classes, nats (Shannon 1948)",
    prepare=lambda outputs: outputs.rows.entropy,
    value=mean("entropy"),
    interval="bootstrap",
    needs="probabilities",
)
