"""The page of a study, from its findings.

    {"schema": 1, "data": {…as a run's data.json}, "n": N, "classes": K, "class_names": […],
     "settings": [{"name": "smoothing=0.1", "changes": {"smoothing": 0.1}, "seeds": [0, 1, 2],
                   "runs": [folder, …], "seconds": {"mean": …},
                   "raw": {metric: {"value", "low", "high", "per_seed": […]}},
                   "calibrated": {the same},
                   "temperature": {"value", "low", "high", "per_seed": […]}}, …],
     "differences": [{"setting", "baseline", "calibrated": bool, "metric", "value", "low",
                      "high", "words": sentence}, …],
     "recommendation": [sentence, …], "seconds": total}

A value that is null carries its "reason"; further keys are left alone, but shown where they are
there: "command", "notes" (sentences), "failed" ([{"name", "seed", "why"}]), and a difference's
"kind", which says what was compared where both stages are in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from levelhead.report.page import page, svgs
from levelhead.statistics.multiplicity import holm, missing_by_chance


def study_report(findings: Mapping[str, Any]) -> str:
    """The page of a study, from the findings described above."""
    from levelhead.figures import comparison

    settings = findings["settings"]
    changes = findings["differences"]
    intervals = [(row.get("value"), row.get("low"), row.get("high")) for row in changes]
    cells = [s[stage][m] for s in settings for stage in ("raw", "calibrated") for m in s[stage]]
    return page(
        "study",
        title=f"{findings['data']['name']} · {len(settings)} settings",
        found=findings,
        data=findings["data"],
        metrics=[m for m in settings[0]["raw"] if _any(settings, m)] if settings else [],
        comparison=svgs("comparison", comparison.data(findings)),
        stand=holm(intervals),
        by_chance=missing_by_chance(
            sum((one or {}).get("low") is not None for one in cells + changes)
        ),
        command=findings.get("command"),
    )


def _any(settings: Sequence[Mapping[str, Any]], metric: str) -> bool:
    return any((s["raw"].get(metric) or {}).get("value") is not None for s in settings)
