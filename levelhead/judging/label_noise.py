"""What false labels in a test set leave open."""

from __future__ import annotations

from typing import Any

from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.statistics.examples import share_interval


def label_noise(outputs: Outputs, rate: float, level: float = 0.95) -> dict[str, Any]:
    """Bounds of accuracy and ECE where a share `rate` of the labels is false, whichever they are.

    A false label can turn one answer from right to wrong or back, so both move by `rate` at most;
    the ends also hold the interval of the examples. `independent` is the accuracy if labels were
    false by chance alone, equally into every other class: (a − r/(K − 1))/(1 − r K/(K − 1)), of the
    observed accuracy a. Raises LevelheadError for a rate outside 0 to (K − 1)/K.
    """
    k = outputs.classes
    if not 0 <= rate < (k - 1) / k:
        raise LevelheadError(f"--label-noise {rate}: must be 0 or more and below {(k - 1) / k:.3g}")
    seen = float(outputs.rows.correct.mean())
    low, high = share_interval(outputs.rows.correct, level, outputs.units)
    chance = (seen - rate / (k - 1)) / (1 - rate * k / (k - 1))
    return {
        "rate": rate,
        "accuracy": {
            "value": seen,
            "low": max(low - rate, 0.0),
            "high": min(high + rate, 1.0),
        },
        "independent": min(max(chance, 0.0), 1.0),
        "ece_moves": rate,
    }
