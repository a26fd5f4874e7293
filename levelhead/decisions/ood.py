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
from levelhead.statistics.placements import auroc_interval, placements


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
    low, high = auroc_interval(area, above, under, normal_quantile(level))
    limit = x[m - math.ceil(0.95 * m - 1e-9)]
    passed = torch.from_numpy(y >= limit)
    return {
        "auroc": {"value": area, "low": low, "high": high},
        "fpr_at_95_tpr": share(passed, level),
        "threshold": plain(limit),
        "n_inside": m,
        "n_outside": n,
    }
