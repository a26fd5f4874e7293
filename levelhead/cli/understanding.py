"""The commands that show what smoothing does inside: penultimate, information."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.cli.common import add_json, add_out, print_json
from levelhead.flags import Parser

if TYPE_CHECKING:
    from levelhead.understanding import Understood


def penultimate(words: list[str]) -> int:
    """`levelhead penultimate`."""
    parser = Parser(
        prog="levelhead penultimate",
        description="The penultimate layer of runs: three classes in the plane of their templates, "
        "and how tight the clusters are. The first run is what the others are held against.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs")
    parser.add_argument(
        "--classes", nargs=3, metavar="NAME", help="three classes (default: two alike, one not)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "validation"],
        choices=["train", "validation", "test"],
        help="splits to show (default: train validation)",
    )
    add_out(parser, "folder for the figure and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    found = parser.parse(words)

    from levelhead.runs import finished_run
    from levelhead.understanding import penultimate

    runs = [finished_run(run) for run in found.runs]
    done = penultimate(runs, found.classes, found.splits)
    folder = _keep(found, f"{runs[0].folder.name}-penultimate", done, "penultimate")
    if found.json:
        print_json(done.findings)
        return 0
    from levelhead.text import columns

    names = ("within", "between", "ratio", "equidistance", "nc1", "nc4")
    rows = [
        [f"{c['run']}, {c['split']}", *(_short(c["metrics"][name]) for name in names)]
        for c in done.findings["columns"]
    ]
    print(columns([f"classes {', '.join(done.findings['classes'])}", *names], rows))
    print("\n".join(["", *done.findings["words"], f"Figures: {folder}"]).strip())
    return 0


def information(words: list[str]) -> int:
    """`levelhead information`."""
    parser = Parser(
        prog="levelhead information",
        description="What a logit difference tells about the training example, at each snapshot "
        "of runs trained with --save-every (else at their end).",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs")
    parser.add_argument(
        "--classes", nargs=2, metavar="NAME", help="two classes (default: the most alike)"
    )
    add_out(parser, "folder for the figure and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    found = parser.parse(words)

    from levelhead.runs import finished_run
    from levelhead.understanding import Understood, information

    runs = [finished_run(run) for run in found.runs]
    each = []
    classes = found.classes
    for run in runs:
        each.append(information(run, classes))
        classes = each[0].findings["classes"]  # the same two for all
    said = [sentence for one in each for sentence in one.findings["words"]]
    findings = {"schema": 1, "runs": [one.findings for one in each], "words": said}
    curves = {name: curve for one in each for name, curve in one.drawn.items()}
    done = Understood(findings, curves)
    folder = _keep(found, f"{runs[0].folder.name}-information", done, "information")
    if found.json:
        print_json(findings)
        return 0
    print("\n".join([*said, f"Figure: {folder}/information.png"]))
    return 0


def _short(cell: dict[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{cell['value']:.4g}"


def _keep(found: Any, name: str, done: Understood, figure: str) -> Path | None:
    """Write findings.json and the figure; nothing for `--json` without `--out`."""
    from levelhead.figures import FIGURES
    from levelhead.report.judgement import write_panels
    from levelhead.runs import new_folder, write_json

    if found.json and found.out is None:
        return None
    folder = new_folder(found.out, name)
    write_json(folder / "findings.json", done.findings)
    write_panels({figure: FIGURES[figure].data(done.drawn)}, folder)
    return folder
