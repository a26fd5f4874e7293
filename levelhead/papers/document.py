"""The page of a reproduction: Markdown with its tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from levelhead.figures import FIGURES, Figure, write_panels
from levelhead.files import write
from levelhead.papers.rows import Row, standing
from levelhead.statistics.multiplicity import missing_by_chance

ACROSS = 4  # panels of a figure beside each other
HOW = (
    "Intervals are at 95 % and hold over seeds (Student's t; means of examples, as accuracy and "
    "NLL, also over these); of one seed they hold for that network alone. "
    "A published number (with its own deviation, or its rounding) or claim *agrees* where our "
    "interval lies wholly inside it, *differs* where wholly outside; else the data *cannot tell*. "
    'Ranges such as "within ±0.5" are ours, not the source\'s. One seed has no verdict.'
)
HOLM_MARK = " ‡"
OLD_MARK = " †"
OLD = (
    "† Worked out before 26 November 2026 from runs that are gone, by an earlier rule over seeds "
    "(Welch's degrees of freedom, a little too many for three seeds); some shares also without "
    "Wilson's interval, some differences of calibration errors and of AURC from the spread of the "
    "seeds alone."
)


def write_page(
    folder: Path, title: str, findings: Mapping[str, Any], panels: Mapping[str, Any]
) -> Path:
    """README.md in a folder, its figures beside it. `panels`: what a figure draws, by file name,
    which starts with the figure's name in FIGURES."""
    drawn = {
        name: content if isinstance(content, tuple) else _figure(name).data(content)
        for name, content in panels.items()
    }
    write_panels(drawn, folder, (".png",), numbered=True)
    path = folder / "README.md"
    write(path, page_text(folder, title, findings))
    return path


def _figure(name: str) -> Figure:
    return FIGURES[name.partition("-")[0]]


def page_text(folder: Path, title: str, findings: Mapping[str, Any]) -> str:
    """The page of these findings, with the figures that lie in the folder."""
    return "\n".join(_lines(folder, title, findings))


def _lines(folder: Path, title: str, findings: Mapping[str, Any]) -> Iterator[str]:
    experiments = findings["experiments"]
    every = [Row(**row) for found in experiments.values() for row in found["rows"]]
    # What two experiments read off the same runs is counted once.
    once = {(row.what, row.value, row.low, row.high): row.verdict for row in every}
    verdicts = [*once.values()]
    counts = {v: verdicts.count(v) for v in ("agrees", "differs", "cannot tell")}
    stand = {id(every[i]) for i in standing(every)}
    full = " --full" if findings["full"] else ""
    yield from (f"# {title}", "")
    seeds = findings["seeds"]
    yield f"`levelhead reproduce {findings['paper']} --data DATA --out OUT{full} --seeds {seeds}`"
    yield from ("", f"Rows: {', '.join(f'{n} {v}' for v, n in counts.items())}.")
    yield from ("", HOW)
    intervals = len({key for key in once if None not in key})
    asked = sum(row.published.startswith(("above 0", "below 0")) for row in every)
    yield from (
        "",
        f"{missing_by_chance(intervals)} ‡ marks the {len(stand)} of {asked} claims about 0 whose "
        "answer also stands when all of them are taken together (Holm 1979).",
    )
    if any(row.get("rule") == "old" for found in experiments.values() for row in found["rows"]):
        yield from ("", OLD)
    for name, found in experiments.items():
        judged = f"`--experiment {name}`, judged {found['judged']}"
        yield from ("", f"## {found['title']}", "", judged)
        if found["scaled"]:
            yield from ("", f"Scaled down: {found['scaled']}")
        if wait := [f"{name} {a} of {b}" for name, (a, b) in found["not_trained"].items()]:
            yield from ("", f"Not trained yet: {', '.join(wait)} runs.")
        yield from ("", "| | published | ours | interval | seeds | |", "|---|---|---|---|---|---|")
        for row in (every.pop(0) for _ in found["rows"]):
            published, ours, ends, verdict = row.cells
            ends += OLD_MARK if row.rule == "old" else ""
            seeds = row.seeds or "–"
            verdict = "**differs**" if verdict == "differs" else verdict
            verdict += HOLM_MARK if id(row) in stand else ""
            yield f"| {row.what} | {published} | {ours} | {ends} | {seeds} | {verdict} |"
        for sentence in found["words"]:
            yield from ("", sentence)
        for figure in found["figures"]:
            drawn = [f"![{found['title']}]({path.name})" for path in _panels(folder, figure)]
            across = min(len(drawn), ACROSS)
            if across > 1:
                yield from ("", f"|{' |' * across}", f"|{'---|' * across}")
            for first in range(0, len(drawn), ACROSS):
                shown = " | ".join(drawn[first : first + ACROSS])
                yield from (f"| {shown} |",) if across > 1 else ("", shown)
    yield ""


def _panels(folder: Path, figure: str) -> list[Path]:
    """The files of a figure in the order of its panels."""
    matches = {path: re.fullmatch(rf"{figure}-(\d+)", path.stem) for path in folder.glob("*.png")}
    return sorted((p for p, m in matches.items() if m), key=lambda p: int(p.stem.split("-")[-1]))


def plain_table(experiments: Mapping[str, Any]) -> list[list[str]]:
    """Rows for a terminal: what, published, ours, interval, verdict."""
    rows = [Row(**row) for found in experiments.values() for row in found["rows"]]
    return [[row.what, *row.cells] for row in rows]
