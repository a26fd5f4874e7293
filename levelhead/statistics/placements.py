"""AUROC from placements: of two samples, how often one lies above the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each inside [M] the share of outside below it, of each outside [N] that of inside above.

    Equals count half. Both have the AUROC as their mean; their variances are DeLong's (1988).
    """

    def below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        y = np.sort(y)
        both = np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")
        return np.asarray(both / (2 * len(y)))

    return below(inside, outside), 1 - below(outside, inside)


def auroc_interval(area: float, above: Any, under: Any, z: float) -> tuple[float, float]:
    """Interval of an AUROC: DeLong's variance on the logit; where it has none, Newcombe's."""
    m, n = len(above), len(under)
    if min(m, n) > 1 and 0 < area < 1:
        variance = above.var(ddof=1) / m + under.var(ddof=1) / n
        half = z * math.sqrt(variance) / (area * (1 - area))
        if half:
            centre = math.log(area / (1 - area))
            low, high = 1 / (1 + np.exp(-np.clip([centre - half, centre + half], -700, 700)))
            return float(low), float(high)
    # All areas t that Hanley and McNeil's variance at t does not rule out.
    fine = np.geomspace(1e-12, 0.5, 20_000)
    t = np.concatenate(([0.0], fine, 1 - fine[::-1], [1.0]))
    pairs = (m + n) / 2 - 1
    spread = t * (1 - t) / (m * n) * (1 + pairs * ((1 - t) / (2 - t) + t / (1 + t)))
    near = t[(t - area) ** 2 <= z * z * spread]
    return min(area, float(near.min())), max(area, float(near.max()))
