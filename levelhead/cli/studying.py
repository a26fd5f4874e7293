"""The commands that show what smoothing does: penultimate, information, distillation, tradeoff."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.cli.common import (
    add_budget,
    add_device,
    add_jobs,
    add_json,
    add_out,
    deadline,
    deliver,
    new_result_folder,
)
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
    options = parser.parse(words)

    from levelhead.runs import finished_run
    from levelhead.studies import penultimate
    from levelhead.text import columns

    runs = [finished_run(run) for run in options.runs]
    with new_result_folder(options, f"{runs[0].folder.name}-penultimate") as folder:
        result = penultimate(runs, options.classes, options.splits)
        names = ("within", "between", "ratio", "equidistance", "nc1", "nc4")
        rows = [
            [
                f"{c['run']}, {c['split']}",
                f"{c['plane']:.4g}",
                *(_short(c["metrics"][name]) for name in names),
            ]
            for c in result.findings["columns"]
        ]
        header = [f"classes {', '.join(result.findings['classes'])}", "plane", *names]
        lines = [columns(header, rows), "", *result.words, f"Figures: {folder}"]
        return _deliver(result, lines, options, folder, "penultimate")


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
    options = parser.parse(words)

    from levelhead.runs import finished_run
    from levelhead.studies import informations

    runs = [finished_run(run) for run in options.runs]
    with new_result_folder(options, f"{runs[0].folder.name}-information") as folder:
        result = informations(runs, options.classes)
        lines = [*result.words, f"Figure: {folder}/information.png"]
        return _deliver(result, lines, options, folder, "information")


def landscape(words: list[str]) -> int:
    """`levelhead landscape`."""
    parser = Parser(
        prog="levelhead landscape",
        description="How the loss on test images rises around the weights of runs, along the same "
        "random directions, each filter of them as long as the network's own (Li et al. 2018). The "
        "first run is what the others are held against.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs of one design")
    for name, default, what in (
        ("directions", 5, "random directions"),
        ("points", 21, "places along each"),
        ("images", 1000, "test images"),
        ("seed", 0, "seed of the directions"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument(
        "--radius", type=float, default=1.0, metavar="X", help="how far, in filters (default: 1)"
    )
    parser.add_argument(
        "--plane",
        type=int,
        nargs="?",
        const=21,
        default=0,
        metavar="N",
        help="also over the plane of the first two directions, N places a side (21)",
    )
    add_device(parser)
    add_out(parser, "folder for the figures and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import counter
    from levelhead.runs import finished_run
    from levelhead.studies import landscape

    runs = [finished_run(run) for run in options.runs]
    with new_result_folder(options, f"{runs[0].folder.name}-landscape") as folder:
        result = landscape(
            runs,
            directions=options.directions,
            points=options.points,
            radius=options.radius,
            grid=options.plane,
            images=options.images,
            seed=options.seed,
            device=options.device,
            progress=counter("places"),
        )
        lines = [*result.words, f"Figures: {folder}"]
        figures = ["landscape", *(["landscapeplane"] if options.plane else [])]
        return _deliver(result, lines, options, folder, *figures)


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
    options = parser.parse(words)

    from levelhead.runs import runs_of
    from levelhead.studies import distillation_curves
    from levelhead.text import columns

    with new_result_folder(options, "distillation") as folder:
        result = distillation_curves(runs_of(options.runs))
        header = ["γ", "seeds", "on test", "on validation"]
        lines = []
        for curve in result.findings["curves"]:
            lines += [columns([curve["name"], *header], [*map(_point, curve["points"])]), ""]
        lines += [*result.words, f"Figure: {folder}/distillation.png"]
        return _deliver(result, lines, options, folder, "distillation")


def _point(point: Mapping[str, Any]) -> list[str]:
    """A point of a curve as a row."""
    where = f"ε {point['epsilon']:g}"
    if point["temperature"] is not None:
        where += f", T {point['temperature']:g}"
    accuracies = [_percent(of) for of in (point, point["validation"])]
    return [where, f"{point['gamma']:.3f}", str(point["n_seeds"]), *accuracies]


def _percent(entry: Mapping[str, Any]) -> str:
    from levelhead.text import interval_text

    ends = (entry[key] for key in ("value", "low", "high"))
    return interval_text(*ends, scale=100, unit=" %", least=1)


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
    options = parser.parse(words)

    from levelhead.runs import runs_of
    from levelhead.studies import tradeoff

    students = runs_of(options.students) if options.students else []
    watch = functools.partial(print, file=sys.stderr)
    with new_result_folder(options, "tradeoff") as folder:
        result = tradeoff(runs_of(options.runs), options.ood, students, watch=watch)
        lines = []
        for name, measure in result.findings["measures"].items():
            lines += [_measure_table(name, measure, result.findings["settings"]), ""]
        lines += [*result.words, f"Figures: {folder}"]
        return _deliver(result, lines, options, folder, "tradeoff", "overconfidence")


def _measure_table(
    name: str, measure: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> str:
    """One measure of every setting, a column a series."""
    from levelhead.text import columns, interval_text

    rows = [(setting["name"], setting["measures"].get(name, {})) for setting in settings]
    series = list(dict.fromkeys(key for _, entries in rows for key in entries))
    scale, unit = measure["scale"], ", %" if measure["scale"] == 100 else ""

    def cell(entry: Mapping[str, Any] | None) -> str:
        if entry is None:
            return "–"
        ends = (entry["value"], entry["low"], entry["high"])
        return interval_text(*ends, digits=4 if scale == 1 else 2, scale=scale)

    header = [measure["title"] + unit, *(key.replace("_", " ") for key in series)]
    body = [[setting, *(cell(entries.get(key)) for key in series)] for setting, entries in rows]
    return columns(header, body)


def reproduce(words: list[str]) -> int:
    """`levelhead reproduce`."""
    parser = Parser(
        prog="levelhead reproduce",
        description="Run a published paper's experiments again, and hold them against what was "
        "published. The same command goes on where it stopped.",
    )
    parser.add_argument(
        "paper",
        metavar="PAPER",
        help="mueller2019, xia2025, followups, keras-notebook or pytorch-notebook",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FOLDER",
        help="folder that holds cifar10/, cifar100/, mnist/, cifar10n/ and multi30k/",
    )
    parser.add_argument(
        "--experiment",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of mueller2019: table2, table3, figure1, figure5, figure6, translation, mnist "
        "(default: all; an unknown name lists those of the paper)",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds (default: 3)")
    parser.add_argument(
        "--full", action="store_true", help="the published settings, for a GPU and days"
    )
    add_jobs(parser)
    add_budget(parser)
    add_out(parser, "folder for its studies and its page (default: runs/papers)")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import watcher
    from levelhead.papers import reproduce
    from levelhead.papers.document import plain_table
    from levelhead.text import columns

    out = options.out or "runs/papers"
    result = reproduce(
        options.paper,
        options.data,
        out,
        experiments=options.experiment,
        seeds=options.seeds,
        full=options.full,
        jobs=options.jobs,
        deadline=deadline(options.budget),
        watch=watcher(epochs=False),
    )
    chosen = result.chosen(options.experiment)
    lines = [columns(["", "published", "ours", "interval", ""], plain_table(chosen)), ""]
    lines += [sentence for experiment in chosen.values() for sentence in experiment["words"]]
    lines.append(f"Page: {out}/{options.paper}/README.md")
    return deliver(result, lines, as_json=options.json)


def _short(cell: dict[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{cell['value']:.4g}"


def _deliver(
    result: Understood, lines: Iterable[str], options: Any, folder: Path | None, *figures: str
) -> int:
    """Findings and figures into the folder, if there is one; words or JSON."""

    def pages(folder: Path) -> None:
        from levelhead.figures import FIGURES, write_panels

        write_panels({name: FIGURES[name].data(result.drawn) for name in figures}, folder)

    return deliver(result, lines, as_json=options.json, folder=folder, write_pages=pages)
