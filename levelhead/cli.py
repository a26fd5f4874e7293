"""The commands: parse, call the library, print; progress goes to standard error."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.errors import LevelheadError, nearest
from levelhead.flags import Parser, add_recipe, grid_of, recipe_of

if TYPE_CHECKING:
    from levelhead.outputs import Kind
    from levelhead.runs import Run

HELP = """levelhead: image classifiers whose confidence can be believed

  levelhead check DATA                  look at a data set before training
  levelhead train DATA [--out RUN]      train, calibrate, judge, report
  levelhead resume RUN                  go on with a run that was stopped
  levelhead compare DATA --smoothing 0 0.1 --seeds 3
                                        train settings over seeds; which to use
  levelhead predict RUN IMAGE...        calibrated predictions of new pictures
  levelhead audit PREDICTIONS           judge anyone's predictions
  levelhead report RUN                  write the report of a run or study anew
  levelhead models                      the networks that --model knows

Each has --help, and --json for results on standard output (progress goes to standard error).
DATA is `digits`, or a folder of images, a labels.csv, parquet or IDX files, or an npz."""


def run(words: list[str]) -> int:
    """One command; returns the exit code (2 for what the user can mend, 130 for Ctrl-C)."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        import levelhead

        print(f"levelhead {levelhead.__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise LevelheadError(f"{words[0]}: no such command; {nearest(words[0], [*COMMANDS])}")
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return COMMANDS[words[0]](words[1:])
    except LevelheadError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; a run goes on with levelhead resume RUN", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch says "out of memory" or "can't allocate memory", both as a RuntimeError.
        if isinstance(error, RuntimeError) and " memory" not in str(error):
            raise
        return _fail("out of memory; give a smaller --batch-size or --image-size")
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror}; see that it can be used")


def _fail(text: str, code: int = 2) -> int:
    print(f"levelhead: {' '.join(text.split())}", file=sys.stderr)
    return code


def _warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"levelhead: warning: {message}", file=sys.stderr)


def _train(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead train", description="Train, calibrate, judge, report: DATA becomes a run."
    )
    add_recipe(parser)
    _add_out(parser, "run folder to make (default: the next runs/NAME-N)")
    _add_json(parser)
    found = parser.parse(words)
    recipe = recipe_of(found)

    from levelhead.terminal import watcher
    from levelhead.training import train

    _show_run(train(recipe, found.out, watch=watcher()), found.json)
    return 0


def _resume(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead resume",
        description="Go on with a run that was stopped; it ends as if it never had been.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.terminal import watcher
    from levelhead.training import resume

    _show_run(resume(found.run, watch=watcher()), found.json)
    return 0


def _show_run(run: Run, as_json: bool) -> None:
    if as_json:
        _print_json(run.findings | {"run": str(run.folder)})
        return
    from levelhead.report import run_words

    print("\n".join(run_words(run)))


def _compare(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead compare",
        description="Train every combination of the values given, over seeds, and say which to "
        "use. Any flag takes several values. The same command again goes on where it stopped.",
    )
    add_recipe(parser, many=True)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds (default: 3)")
    _add_out(parser, "study folder (default: the next runs/NAME-study-N)")
    _add_json(parser)
    found = parser.parse(words)
    recipe, grid = grid_of(found)

    from levelhead.study import compare, table
    from levelhead.terminal import watcher
    from levelhead.text import columns

    watch = watcher(epochs=False)
    study = compare(recipe, grid, seeds=found.seeds, out=found.out, watch=watch)
    if found.json:
        _print_json(study.findings | {"study": str(study.folder)})
        return 0
    print(columns(*table(study.findings)))
    print()
    print("\n".join(study.findings["recommendation"]))
    print(f"Report: {study.folder / 'report.html'}")
    return 0


def _predict(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead predict", description="Calibrated predictions of pictures or folders."
    )
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="pictures, or folders (searched through)"
    )
    parser.add_argument(
        "--abstain-below",
        type=float,
        default=0.0,
        metavar="P",
        help="decide `abstain` where the confidence is lower (default: 0, never)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    _add_out(parser, "CSV file to write: path, prediction, confidence, decision, a column a class")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.predict import predict_files, write_csv
    from levelhead.runs import finished_run

    predicted = predict_files(
        finished_run(found.run),
        found.images,
        abstain_below=found.abstain_below,
        device=found.device,
    )
    for path, why in predicted.broken:
        print(f"levelhead: {path}: {why}; left out", file=sys.stderr)
    if found.out is not None:
        write_csv(Path(found.out), predicted)
    if found.json:
        _print_json(predicted.as_json())
    elif found.out is not None:
        print(f"{len(predicted.paths)} predictions written to {found.out}")
    else:
        width = max((len(path) for path in predicted.paths), default=0)
        for path, decision, sure in zip(
            predicted.paths, predicted.decisions, predicted.confidence, strict=True
        ):
            print(f"{path:<{width}}  {decision}  {sure:.3f}")
    return 2 if not predicted.paths else 0


def _audit(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead audit",
        description="Judge predictions: npz (logits or probabilities, labels; optional features, "
        "ids, classes), safetensors, or CSV/parquet with a column a class and `label`.",
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help="npz, safetensors, csv, parquet")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--logits", action="store_true", help="the scores are logits")
    kind.add_argument("--probabilities", action="store_true", help="the scores are probabilities")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.findings import audit
    from levelhead.reading import read_predictions
    from levelhead.report import metric_table

    given: Kind | None = None
    if found.logits or found.probabilities:
        given = "logits" if found.logits else "probabilities"
    findings = audit(read_predictions(found.predictions, given))
    if found.json:
        _print_json(findings)
        return 0
    print("\n".join(findings["words"]))
    print()
    print(metric_table({"as given": findings}))
    return 0


def _report(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead report", description="Write report.html of a run or study anew."
    )
    parser.add_argument("run", metavar="RUN", help="run or study folder")
    parser.add_argument("--figures", metavar="FOLDER", help="write the figures as PNG there, too")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.report import write_figures, write_report

    path = write_report(found.run)
    figures = [] if found.figures is None else write_figures(found.run, found.figures)
    if found.json:
        _print_json({"report": str(path), "figures": [str(figure) for figure in figures]})
    else:
        print(*[path, *figures], sep="\n")
    return 0


def _check(words: list[str]) -> int:
    parser = Parser(
        prog="levelhead check", description="What is in a data set, and what is wrong with it."
    )
    parser.add_argument("data", metavar="DATA", help="the data, as for levelhead train")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.datasets.check import check
    from levelhead.datasets.check import words as sentences
    from levelhead.terminal import counter

    findings = check(found.data, progress=counter("reading pictures"))
    if found.json:
        _print_json(findings)
    else:
        print("\n".join(sentences(findings)))
    return 0


def _models(words: list[str]) -> int:
    parser = Parser(prog="levelhead models", description="The networks that --model knows.")
    _add_json(parser)
    found = parser.parse(words)

    from levelhead.models import MODELS

    if found.json:
        _print_json({"models": list(MODELS)})
        return 0
    for name, make in MODELS.items():
        words_ = (getattr(make, "func", make).__doc__ or "").splitlines()[0]
        print(f"{name:<10} {words_}")
    print("timm:NAME, torchvision:NAME: any network of those libraries")
    return 0


def _add_out(parser: Parser, told: str) -> None:
    parser.add_argument("--out", metavar="PATH", help=told)


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


COMMANDS = {
    "train": _train,
    "resume": _resume,
    "compare": _compare,
    "predict": _predict,
    "audit": _audit,
    "report": _report,
    "check": _check,
    "models": _models,
}
