"""Negative log-likelihood."""

from __future__ import annotations

from levelhead.metrics.metric import Metric, mean
from levelhead.outputs import Outputs


def _undefined(outputs: Outputs) -> str | None:
    zeros = outputs.rows.nll.isinf().nonzero()
    if not len(zeros):
        return None
    return (
        f"infinite: the label's probability is exactly 0 in {len(zeros)} of {len(outputs)} rows, "
        f"first in row {int(zeros[0])}; give logits, or probabilities with more digits"
    )


nll = Metric(
    name="nll",
    title="Negative log-likelihood",
    direction="down",
    source="mean −log probability of the label, natural logarithm (a proper score; Good 1952)",
    prepare=lambda outputs: outputs.rows.nll,
    value=mean("nll"),
    interval="bootstrap",
    undefined=_undefined,
)
