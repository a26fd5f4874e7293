"""Out of distribution: whether certainty tells examples of the task from others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.decisions.plain import missing, plain, share
from levelhead.decisions.scores import find_score
from levelhead.decisions.selective import checked
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.statistics.examples import normal_quantile


def separate(
    inside: Outputs,
    outside: Outputs | Tensor,
    scores: Sequence[str] = ("msp", "energy", "max_logit"),
    *,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """`separation` by each score: `{name: {…}}`, null with a reason where outputs lack a score.

    `outside` may be bare scores [M, K] of the kind of `inside`; labels given are not looked at.
    Raises LevelheadError for other numbers of classes and for unknown scores.
    """
    if isinstance(outside, Tensor):
        nothing = torch.zeros(len(outside), dtype=torch.int64)
        outside = Outputs(inside.kind, outside, nothing, inside.class_names)
    if outside.classes != inside.classes and "confidence" not in (inside.kind, outside.kind):
        raise LevelheadError(
            f"{inside.classes} classes inside, {outside.classes} outside; give one network's scores"
        )
    by_score: dict[str, dict[str, Any]] = {}
    for name in scores:
        score = find_score(name)
        if reason := score.missing(inside) or score.missing(outside):
            by_score[name] = {"auroc": missing(reason), "fpr_at_95_tpr": missing(reason)}
        else:
            by_score[name] = separation(score.of(inside), score.of(outside), level=level)
    return by_score


def separation(inside: Any, outside: Any, *, level: float = 0.95) -> dict[str, Any]:
    """AUROC and FPR at 95 % TPR of certainties inside [M] and outside [N], higher inside.

    AUROC = P(inside > outside) + ½ P(equal); interval on the logit by DeLong, DeLong and
    Clarke-Pearson (1988), where that has no variance (all apart, all equal) by Newcombe (2006).
    FPR: share of outside at or above the highest threshold that keeps 95 % of inside; its Wilson
    interval takes the threshold as given. Raises LevelheadError for NaN and for no examples.
    """
    x, y = (np.sort(checked(part, np.zeros(len(part)))[0]) for part in (inside, outside))
    m, n = len(x), len(y)
    above, under = placements(x, y)
    area = float(above.mean())
    low, high = _interval(area, above, under, normal_quantile(level))
    limit = x[m - math.ceil(0.95 * m - 1e-9)]
    passed = n - int(np.searchsorted(y, limit))
    return {
        "auroc": {"value": area, "low": low, "high": high},
        "fpr_at_95_tpr": share(passed, n, level),
        "threshold": plain(limit),
        "n_inside": m,
        "n_outside": n,
    }


def placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each inside [M] the share of outside below it, of each outside [N] that of inside above.

    Equals count half. Both have the AUROC as their mean; their variances are DeLong's (1988).
    """

    def below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        y = np.sort(y)
        both = np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")
        return np.asarray(both / (2 * len(y)))

    return below(inside, outside), 1 - below(outside, inside)


def _interval(area: float, above: Any, under: Any, z: float) -> tuple[float, float]:
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
