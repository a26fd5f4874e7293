"""The commands that show what smoothing does: penultimate, information, distillation, tradeoff."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.cli.common import add_budget, add_jobs, add_json, add_out, deadline, print_json
from levelhead.cli.flags import Parser

if TYPE_CHECKING:
    from levelhead.studies import Understood


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
    from levelhead.studies import penultimate

    runs = [finished_run(run) for run in found.runs]
    done = penultimate(runs, found.classes, found.splits)
    folder = _keep(found, f"{runs[0].folder.name}-penultimate", done, "penultimate")
    if found.json:
        print_json(done.findings)
        return 0
    from levelhead.text import columns

    names = ("within", "between", "ratio", "equidistance", "nc1", "nc4")
    rows = [
        [
            f"{c['run']}, {c['split']}",
            f"{c['plane']:.4g}",
            *(_short(c["metrics"][name]) for name in names),
        ]
        for c in done.findings["columns"]
    ]
    print(columns([f"classes {', '.join(done.findings['classes'])}", "plane", *names], rows))
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
    from levelhead.studies import Understood, information

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


def distillation(words: list[str]) -> int:
    """`levelhead distillation`."""
    parser = Parser(
        prog="levelhead distillation",
        description="Accuracy of teachers, students and distilled students by smoothness of their "
        "targets; students of smoothed teachers against the hard teacher's.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="STUDY_OR_RUN", help="studies and finished runs, in any order"
    )
    add_out(parser, "folder for the figure and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    found = parser.parse(words)

    from levelhead.figures.canvas import percent
    from levelhead.runs import runs_of
    from levelhead.studies import distillation_curves
    from levelhead.text import columns

    done = distillation_curves(runs_of(found.runs))
    folder = _keep(found, "distillation", done, "distillation")
    if found.json:
        print_json(done.findings)
        return 0
    for curve in done.findings["curves"]:
        rows = []
        for point in curve["points"]:
            taught = "" if (t := point["temperature"]) is None else f", T {t:g}"
            row = [f"ε {point['epsilon']:g}{taught}", f"{point['gamma']:.3f}"]
            row.append(str(point["n_seeds"]))
            for of in (point, point["validation"]):
                value, low, high = (percent(of[key]) for key in ("value", "low", "high"))
                row.append(f"{value} [{low}, {high}]")
            rows.append(row)
        print(columns([curve["name"], "γ", "seeds", "on test", "on validation"], rows) + "\n")
    print("\n".join([*done.findings["words"], f"Figure: {folder}/distillation.png"]))
    return 0


def tradeoff(words: list[str]) -> int:
    """`levelhead tradeoff`."""
    parser = Parser(
        prog="levelhead tradeoff",
        description="What smoothing buys and what it costs: accuracy, NLL, calibration, ranking of "
        "errors, corrupted and out-of-distribution images, by epsilon, against hard targets; and "
        "how sure each setting became in training.",
    )
    parser.add_argument("runs", nargs="+", metavar="STUDY_OR_RUN", help="studies and finished runs")
    parser.add_argument(
        "--ood", nargs="+", default=[], metavar="DATA", help="other data sets, to be told apart"
    )
    parser.add_argument(
        "--students", nargs="+", default=[], metavar="STUDY_OR_RUN", help="runs that these taught"
    )
    add_out(parser, "folder for the figures and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    found = parser.parse(words)

    from levelhead.runs import runs_of
    from levelhead.studies import tradeoff
    from levelhead.text import columns

    students = runs_of(found.students) if found.students else []
    told = functools.partial(print, file=sys.stderr)
    done = tradeoff(runs_of(found.runs), found.ood, students, watch=told)
    folder = _keep(found, "tradeoff", done, "tradeoff", "overconfidence")
    if found.json:
        print_json(done.findings)
        return 0
    for name, measure in done.findings["measures"].items():
        of = [(s["name"], s["measures"].get(name, {})) for s in done.findings["settings"]]
        series = list(dict.fromkeys(key for _, cells in of for key in cells))
        scale = measure["scale"]
        rows = [[n, *(_ranged(cells.get(key), scale) for key in series)] for n, cells in of]
        unit = ", %" if scale == 100 else ""
        print(columns([measure["title"] + unit, *(key.replace("_", " ") for key in series)], rows))
        print()
    print("\n".join([*done.findings["words"], f"Figures: {folder}"]))
    return 0


def _ranged(cell: dict[str, Any] | None, scale: int) -> str:
    if cell is None:
        return "–"
    digits = 4 if scale == 1 else 2
    value, low, high = (f"{cell[end] * scale:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def reproduce(words: list[str]) -> int:
    """`levelhead reproduce`."""
    parser = Parser(
        prog="levelhead reproduce",
        description="Run a published paper's experiments again, and hold them against what was "
        "published. The same command goes on where it stopped.",
    )
    parser.add_argument("paper", metavar="PAPER", help="mueller2019, xia2025 or followups")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FOLDER",
        help="folder that holds cifar10/, mnist/ and cifar10n/",
    )
    parser.add_argument(
        "--experiment",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of mueller2019: table2, table3, figure1, figure5, figure6, mnist (default: all; an "
        "unknown name lists those of the paper)",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds (default: 3)")
    parser.add_argument(
        "--full", action="store_true", help="the published settings, for a GPU and days"
    )
    add_jobs(parser)
    add_budget(parser)
    add_out(parser, "folder for its studies and its page (default: runs/papers)")
    add_json(parser)
    found = parser.parse(words)

    from levelhead.cli.terminal import watcher
    from levelhead.papers import reproduce
    from levelhead.papers.document import plain_table
    from levelhead.text import columns

    out = found.out or "runs/papers"
    findings = reproduce(
        found.paper,
        found.data,
        out,
        experiments=found.experiment,
        seeds=found.seeds,
        full=found.full,
        jobs=found.jobs,
        deadline=deadline(found.budget),
        watch=watcher(epochs=False),
    )
    if found.json:
        print_json(findings)
        return 0
    asked = {n: e for n, e in findings["experiments"].items() if n in (found.experiment or [n])}
    print(columns(["", "published", "ours", "interval", ""], plain_table(asked)))
    said = [s for e in asked.values() for s in e["words"]]
    print("\n".join(["", *said, f"Page: {out}/{found.paper}/README.md"]).strip())
    return 0


def _short(cell: dict[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{cell['value']:.4g}"


def _keep(found: Any, name: str, done: Understood, *figures: str) -> Path | None:
    """Write findings.json and the figures; nothing for `--json` without `--out`."""
    from levelhead.figures import FIGURES
    from levelhead.files import write_json
    from levelhead.report.judgement_page import write_panels
    from levelhead.runs import new_folder

    if found.json and found.out is None:
        return None
    folder = new_folder(found.out, name)
    write_json(folder / "findings.json", done.findings)
    write_panels({figure: FIGURES[figure].data(done.drawn) for figure in figures}, folder)
    return folder
