"""The commands: parse, call the library, print; progress goes to standard error."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from itertools import pairwise
from typing import Any

from levelhead.cli import describing, judging, running, shipping, studying, translating
from levelhead.cli.terminal import end_bars
from levelhead.errors import LevelheadError, nearest
from levelhead.text import printable

HELP = """levelhead: image classifiers whose confidence can be believed

  levelhead check DATA                  look at a data set before training
  levelhead train DATA [--out RUN]      train, calibrate, judge, report
  levelhead distill --teacher RUN --student MODEL
                                        train a student on a teacher's probabilities
  levelhead resume RUN                  go on with a run that was stopped
  levelhead compare DATA --smoothing 0 0.1 --seeds 3
                                        train settings over seeds; which to use
  levelhead predict RUN IMAGE...        decide new images by the run's policy
  levelhead export RUN model.onnx       one file that decides: images in, answers out
  levelhead verify model.onnx RUN IMAGE...
                                        whether that file answers as the run does
  levelhead serve RUN|model.onnx        a page on this machine that decides images sent to it
  levelhead watch RUN IMAGE...          whether new images are as the run's own; what to label
  levelhead audit PREDICTIONS           judge anyone's predictions; what would fix them
  levelhead calibrate VALIDATION --apply TEST
                                        choose and fit a calibrator, judge it on others
  levelhead decide VALIDATION --apply TEST
                                        a policy: thresholds, sets, none of mine; what it
                                        promises (of a run: levelhead decide RUN)
  levelhead penultimate RUN...          its last layer: how tight the clusters are
  levelhead information RUN...          what its logits tell about a training example
  levelhead distillation STUDY_OR_RUN...
                                        students of smoothed and hard teachers, compared
  levelhead tradeoff STUDY_OR_RUN... [--ood DATA...]
                                        what smoothing buys and what it costs
  levelhead reproduce PAPER --data FOLDER
                                        run a published paper's experiments again
  levelhead train-translator DATA --source en --target de
                                        a Transformer on parallel text, judged as images are
  levelhead translate RUN < LINES       translate, and say how sure it is
  levelhead report RUN                  write the report of a run or study anew
  levelhead models                      the networks that --model knows
  levelhead describe MODEL              its layers: parameters, shapes, what its units see
  levelhead cache [--empty]             what is kept for later runs, and how large it is

Each has --help, and --json for results on standard output (progress goes to standard error).
DATA is `digits`, or a folder of images, a labels.csv, parquet or IDX files, or an npz."""


def run(words: list[str]) -> int:
    """One command; returns the exit code (2 for what the user can fix, 130 for Ctrl-C)."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        import levelhead

        print(f"levelhead {levelhead.__version__}")
        return 0
    _bear_any_name()
    before = None
    with suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGTERM, _stop)  # like Ctrl-C: no training goes on alone
    try:
        if words[0] not in COMMANDS:
            raise LevelheadError(f"{words[0]}: no such command; {nearest(words[0], [*COMMANDS])}")
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return COMMANDS[words[0]](words[1:])
    except LevelheadError as error:
        return _fail(str(error))
    except Terminated:
        return _fail(_stopped(words), 143)
    except KeyboardInterrupt:
        return _fail(_stopped(words), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch says "out of memory" or "can't allocate memory", both as a RuntimeError.
        if isinstance(error, RuntimeError) and " memory" not in str(error):
            raise
        fix = {"train": "give a smaller --batch-size or --image-size", "predict": "fewer images"}
        return _fail(
            f"out of memory; {fix.get(words[0], 'free some, or give fewer rows or images')}"
        )
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror}; see that it can be used")
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _stop(*_: Any) -> None:
    raise Terminated


def _stopped(words: list[str]) -> str:
    """What to do after a command that was stopped."""
    if words[0] in ("train", "distill", "resume", "train-translator"):
        run = next((b for a, b in pairwise(words) if a == "--out"), "RUN")
        run = words[1] if words[0] == "resume" and len(words) > 1 else run
        return f"stopped; levelhead resume {run} goes on"
    if words[0] in ("compare", "reproduce"):
        return "stopped; the same command goes on"
    return "stopped; nothing was finished, give the command again"


def _bear_any_name() -> None:
    """Names that the output's encoding lacks are escaped, and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(text: str, code: int = 2) -> int:
    end_bars()
    print(f"levelhead: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


def _warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        end_bars()
        print(f"levelhead: warning: {message}", file=sys.stderr)


COMMANDS = {
    "train": running.train,
    "distill": running.distill,
    "resume": running.resume,
    "compare": running.compare,
    "predict": running.predict,
    "export": shipping.export,
    "verify": shipping.verify,
    "serve": shipping.serve,
    "watch": shipping.watch,
    "audit": judging.audit,
    "calibrate": judging.calibrate,
    "decide": judging.decide,
    "penultimate": studying.penultimate,
    "information": studying.information,
    "landscape": studying.landscape,
    "distillation": studying.distillation,
    "tradeoff": studying.tradeoff,
    "reproduce": studying.reproduce,
    "train-translator": translating.train_translator,
    "translate": translating.translate,
    "report": running.report,
    "check": describing.check,
    "describe": describing.describe,
    "models": describing.models,
    "cache": describing.cache,
}
