"""The model card of a run: what it is, what it promises, what it was never tried on (card.md)."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from levelhead.data.entries import Array
from levelhead.files import read_object, reading, write
from levelhead.judging.words import weakest_class
from levelhead.metrics import HEADLINE
from levelhead.report.page import shown, title
from levelhead.runs import MAKE_ANEW, Run, finished_run
from levelhead.text import duration

TIMED = 50
"""Images whose answers are timed, one by one, after five that are not."""


def model_card(run: Run | str | Path, *, licence: str = "not said", timed: int = TIMED) -> str:
    """The card of a finished run, in Markdown. Raises LevelheadError as `predict` does.

    `licence`: of the data, as its owner says. `timed` images of noise are decided one at a time,
    for the latency on this machine (0: not timed).
    """
    run = finished_run(run.folder if isinstance(run, Run) else run)
    with reading(run.folder / "findings.json", MAKE_ANEW):
        return _text(run, licence, timed)


def _text(run: Run, licence: str, timed: int) -> str:
    recipe, data, found = run.recipe, run.data, run.findings
    policy, test, pair = run.policy, run.outputs("test"), run.calibrated_test
    judged, how = (found["test"], "as it is") if pair is None else (pair[1], f"after {pair[0]}")
    rows, decided = found["report"]["classes"], found.get("policy")
    counts, hashes = data["counts"], data["hashes"]
    environment = read_object(run.folder / "environment.json")
    weak = weakest_class(test, 0.95)
    lines = [
        f"# {data['name']} · {recipe.model}",
        "",
        f"Decides images of {len(rows)} classes: {', '.join(row['name'] for row in rows)}.",
        "",
        "## Data",
        "",
        f"- Source: `{data['source']}`; licence: {licence}",
        *(f"- {name}: {counts[name]:,} images, SHA-256 `{hashes[name][:16]}…`" for name in counts),
        *(f"- {note}" for note in data["notes"]),
        *([f"- {len(data['skipped'])} broken images left out"] if data["skipped"] else []),
        "",
        f"## What it was found to do ({judged['n']:,} test images, {how}; 95 % intervals)",
        "",
        *_table(
            ["measure", "value"],
            [
                [title(name), " ".join(shown(judged["metrics"][name], name))]
                for name in HEADLINE
                if name in judged["metrics"]
            ],
        ),
        "",
        *([f"Weakest class: {weak.name}, {weak.hits} of {weak.n} found.", ""] if weak else []),
        *_table(
            ["class", "test images", "found", "right of those so called"],
            [
                [
                    row["name"],
                    f"{row['support']:,}",
                    _share(row["recall"]),
                    _share(row["precision"]),
                ]
                for row in rows
            ],
        ),
        "",
        "## What it decides, and what that promises",
        "",
        f"Calibrator: {policy.calibrator_reason or 'none'}",
        "",
        *(f"- {promise}" for promise in policy.promises),
    ]
    if decided is not None:
        shares = {name: _share(share) for name, share in decided["shares"].items()}
        lines.append(
            f"- On test: {shares['class']} a class (of these {_share(decided['risk']['value'])} "
            f"wrong), {shares['set']} one of a set, {shares['ask']} ask a person, "
            f"{shares['none']} none of mine"
        )
    lines += [
        "",
        "## What it was never tried on",
        "",
        "Everything but the test images above: other cameras, places, seasons, groups of people, "
        "corrupted or edited images, attacks. `levelhead tradeoff --ood` and "
        "`levelhead decide --outside` try some of it.",
        "",
        "## Cost and versions",
        "",
        f"- Training: {duration(found['seconds'] or 0)} on {environment.get('machine', '?')}, "
        f"{environment.get('cores', '?')} cores",
        *([f"- {_latency(run, timed)}"] if timed else []),
        *(
            f"- {name}: {environment[name]}"
            for name in ("levelhead", "python", "torch", "numpy")
            if environment.get(name)
        ),
        f"- Weights: SHA-256 `{policy.model[:16] or '?'}…`; recipe: `{recipe.command()}`",
    ]
    return "\n".join(lines) + "\n"


def write_card(run: Run | str | Path, **choices: Any) -> Path:
    """Write `model_card` as card.md into the run; returns its path.

    The licence that an earlier card names stays, where none is given.
    """
    run = finished_run(run.folder if isinstance(run, Run) else run)
    path = run.folder / "card.md"
    if "licence" not in choices and path.exists():
        with reading(path, MAKE_ANEW):
            stated = re.search(r"; licence: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        choices |= {} if stated is None else {"licence": stated[1]}
    write(path, model_card(run, **choices))
    return path


def _latency(run: Run, n: int) -> str:
    """How long one image takes, decoding apart: p50 and p99 on this machine."""
    import torch

    from levelhead.deploy.decider import decider_of

    decider = decider_of(run, device="cpu")
    size, draw, seconds = decider.size, np.random.default_rng(0), []
    for i in range(n + 5):
        image: Array = draw.integers(0, 256, (1, size, size, decider.channels), dtype=np.uint8)
        start = time.perf_counter()
        decider.decide(image)
        if i >= 5:
            seconds.append(time.perf_counter() - start)
    middle, slow = (float(np.quantile(seconds, q)) * 1e3 for q in (0.5, 0.99))
    return (
        f"One image at a time, decoding apart: p50 {middle:.1f} ms, p99 {slow:.1f} ms "
        f"({n} images of {size} px, {torch.get_num_threads()} threads)"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]
