"""The commands that make runs and use them: check, train, resume, compare, predict, report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from levelhead.cli.common import (
    add_budget,
    add_device,
    add_jobs,
    add_json,
    add_out,
    add_quiet,
    deadline,
    deliver,
    name_broken,
    print_json,
)
from levelhead.cli.flags import Parser, add_recipe, grid_of, recipe_of
from levelhead.errors import LevelheadError

if TYPE_CHECKING:
    from levelhead.deploy.predict import Written
    from levelhead.runs import Run


def train(words: list[str]) -> int:
    """`levelhead train`."""
    parser = Parser(
        prog="levelhead train",
        usage="levelhead train DATA [flags]",
        description="Train, calibrate, judge, report: DATA becomes a run.",
    )
    add_recipe(parser)
    add_out(parser, "run folder to make (default: the next runs/NAME-N)")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)
    recipe = recipe_of(options)

    from levelhead.cli.terminal import watcher
    from levelhead.training.run import train

    return _deliver_run(
        train(recipe, options.out, watch=watcher(quiet=options.quiet)), options.json
    )


def distill(words: list[str]) -> int:
    """`levelhead distill`."""
    parser = Parser(
        prog="levelhead distill",
        usage="levelhead distill [DATA] --teacher RUN [--student MODEL] [flags of levelhead train]",
        description="Train a student on a teacher's probabilities: `levelhead train` with the "
        "teacher's data (unless DATA comes first), splits and image size.",
    )
    parser.add_argument("--teacher", required=True, metavar="RUN", help="a finished run")
    parser.add_argument("--student", default="auto", metavar="MODEL", help="as --model")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="(default: 1)")
    parser.add_argument(
        "--protocol",
        choices=["mueller", "hinton"],
        default="mueller",
        help="the student's temperature: 1, or the teacher's (default: mueller)",
    )
    add_out(parser, "run folder to make (default: the next runs/NAME-N)")
    add_json(parser)
    data = [] if not words or words[0].startswith("-") else words[:1]
    options, rest = parser.parse_known_args(words[len(data) :])

    from levelhead.runs import finished_run

    recipe = finished_run(options.teacher).recipe
    arguments = [*(data or [recipe.data]), "--teacher", options.teacher, "--model", options.student]
    arguments += ["--temperature", str(options.temperature)]
    if options.protocol == "hinton":
        arguments += ["--student-temperature", str(options.temperature)]
    for name in ("split_seed", "validation", "test", "image_size", "resize", "classes"):
        flag, value = "--" + name.replace("_", "-"), getattr(recipe, name)
        if flag not in rest and value not in (None, ()):
            arguments += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    arguments += [] if options.out is None else ["--out", options.out]
    arguments += ["--json"] if options.json else []
    return train([*arguments, *rest])


def resume(words: list[str]) -> int:
    """`levelhead resume`."""
    parser = Parser(
        prog="levelhead resume",
        description="Go on with a run that was stopped; it ends as if it never had been.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import watcher
    from levelhead.translation.translation_run import is_translation

    if is_translation(options.run):
        from levelhead.cli.translating import deliver_translator
        from levelhead.translation.train_translator import resume_translator

        watch = watcher(quiet=options.quiet, unit="tokens")
        return deliver_translator(resume_translator(options.run, watch=watch), options.json)

    from levelhead.training.run import resume

    try:
        run = resume(options.run, watch=watcher(quiet=options.quiet))
    except LevelheadError as error:
        if "--" not in str(error).replace("--out", ""):
            raise
        raise LevelheadError(
            f"{error} (resume keeps the recipe: flags are changed by training anew)"
        ) from None
    return _deliver_run(run, options.json)


def _deliver_run(run: Run, as_json: bool) -> int:
    """The page of a run where it has none, and what it options."""
    from levelhead.files import reading
    from levelhead.report import run_words, write_report
    from levelhead.report.card import write_card
    from levelhead.runs import MAKE_ANEW

    if not (run.folder / "card.md").exists():  # or it was killed while writing it
        write_card(run)
    if not (run.folder / "report.html").exists():
        write_report(run.folder)
    if as_json:
        print_json(run.findings | {"run": str(run.folder)})
    else:
        with reading(run.folder / "findings.json", MAKE_ANEW):
            lines = run_words(run)
        print("\n".join(lines))
    return 0


def compare(words: list[str]) -> int:
    """`levelhead compare`."""
    parser = Parser(
        prog="levelhead compare",
        usage="levelhead compare DATA [flags, each with several values]",
        description="Train every combination of the values given, over seeds, and say which to "
        "use. Any flag takes several values. The same command again goes on where it stopped.",
    )
    add_recipe(parser, many=True)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds (default: 3)")
    parser.add_argument(
        "--equal-within",
        dest="equal_within",
        type=float,
        default=0.01,
        metavar="M",
        help="differences of this share of accuracy and so many nats are as good as none (0.01)",
    )
    add_jobs(parser)
    add_budget(parser)
    add_out(parser, "study folder (default: the next runs/NAME-study-N)")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)
    recipe, grid = grid_of(options)

    from levelhead.cli.terminal import watcher
    from levelhead.report import write_report
    from levelhead.studies.compare import compare, table
    from levelhead.text import columns

    watch = watcher(epochs=False, quiet=options.quiet)
    study = compare(
        recipe,
        grid,
        seeds=options.seeds,
        out=options.out,
        jobs=options.jobs,
        margin=options.equal_within,
        deadline=deadline(options.budget),
        watch=watch,
    )
    write_report(study.folder)
    lines = [columns(*table(study.findings)), "", *study.words]
    lines.append(f"Report: {study.folder / 'report.html'}")
    return deliver(study, lines, as_json=options.json, more={"study": str(study.folder)})


def predict(words: list[str]) -> int:
    """`levelhead predict`."""
    parser = Parser(
        prog="levelhead predict",
        description="What the run's policy (policy.json) says of images: a class, one of a set, "
        "ask a person, or none of mine; with the calibrated confidence and the reason.",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run, or the .onnx file of one")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="images, or folders (searched through); - reads paths from standard input, one a line",
    )
    parser.add_argument(
        "--abstain-below",
        type=float,
        metavar="P",
        help="instead of the policy: the class, or `abstain` where the confidence is lower",
    )
    parser.add_argument(
        "--calibration",
        metavar="none|FILE",
        help="instead of the policy: probabilities as they are, or by a calibration.json",
    )
    add_device(parser)
    add_out(
        parser,
        "CSV to write: path, prediction, confidence, decision, set, reason, a column a class; the "
        "same command goes on with one that was stopped",
    )
    parser.add_argument(
        "--for-spreadsheet",
        action="store_true",
        help="write cells that a spreadsheet would take for a formula with an apostrophe",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave with 0 although some images cannot be read (they are named either way)",
    )
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import counter
    from levelhead.deploy.predict import predict as predict_images
    from levelhead.deploy.predict import predict_to_csv

    images = _paths(options.images)
    choices = {
        "calibration": options.calibration,
        "abstain_below": options.abstain_below,
        "device": options.device,
        "progress": counter("deciding", rate=True, quiet=options.quiet),
    }
    if options.out is not None and not options.json:
        spreadsheet = options.for_spreadsheet
        written = predict_to_csv(
            options.run, images, options.out, spreadsheet=spreadsheet, **choices
        )
        broken, lines = written.broken, [_written(written, options)]
    else:
        predicted = predict_images(options.run, images, **choices)
        broken, lines = predicted.broken, list(predicted.words)
        if options.out is not None:
            predicted.save(options.out, spreadsheet=options.for_spreadsheet)
    name_broken(broken)
    if options.json:
        print_json(predicted.to_json())
    else:
        print("\n".join(lines))
    return 2 if broken and not options.skip_broken else 0


def _paths(images: list[str]) -> list[str]:
    """Images as given; those of standard input for `-`."""
    if "-" not in images:
        return images
    listed = [line.rstrip("\r\n") for line in sys.stdin]
    paths = [path for path in [*(i for i in images if i != "-"), *listed] if path]
    if not paths:
        raise LevelheadError("standard input: holds no path; give one a line")
    return paths


def _written(written: Written, options: Any) -> str:
    """What a CSV of decisions holds, in a sentence."""
    from levelhead.decisions.policy import SPOKEN
    from levelhead.text import count

    kinds = written.decisions
    parts = [f"{kinds.get('class', 0):,} a class"]
    if options.abstain_below is not None:
        parts = [f"{kinds.get('ask', 0):,} of them abstain"]
    elif options.calibration is None:
        parts += [f"{kinds.get(kind, 0):,} {name}" for kind, name in SPOKEN.items()]
    earlier = f", {written.earlier:,} of them by an earlier try" if written.earlier else ""
    left = f"; {count(len(written.broken), 'image')} left out" if written.broken else ""
    return (
        f"{count(written.rows, 'prediction')} written to {options.out}{earlier}: "
        f"{', '.join(parts)}; {written.images_per_second:,.0f} images/s{left}"
    )


def report(words: list[str]) -> int:
    """`levelhead report`."""
    parser = Parser(
        prog="levelhead report", description="Write report.html of a run or study anew."
    )
    parser.add_argument("run", metavar="RUN", help="run or study folder")
    parser.add_argument("--figures", metavar="FOLDER", help="write the figures as PNG there, too")
    parser.add_argument(
        "--licence", metavar="TEXT", help="of the data: write the model card (card.md) anew with it"
    )
    add_json(parser)
    options = parser.parse(words)

    from levelhead.report import write_figures, write_report
    from levelhead.translation.translation_run import is_translation

    if is_translation(options.run):
        from levelhead.translation.translation_page import write_translation_page
        from levelhead.translation.translation_run import open_translation

        page = write_translation_page(open_translation(options.run), options.figures)
        print_json({"report": str(page)}) if options.json else print(page)
        return 0
    if options.licence is not None:
        from levelhead.report.card import write_card

        write_card(options.run, licence=options.licence)
    path = write_report(options.run)
    figures = [] if options.figures is None else write_figures(options.run, options.figures)
    if options.json:
        print_json({"report": str(path), "figures": [str(figure) for figure in figures]})
    else:
        print(*[path, *figures], sep="\n")
    return 0
