"""The commands: parse, call the library, print; progress goes to standard error."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from levelhead.cli import judging, running, studying
from levelhead.errors import LevelheadError, nearest

HELP = """levelhead: image classifiers whose confidence can be believed

  levelhead check DATA                  look at a data set before training
  levelhead train DATA [--out RUN]      train, calibrate, judge, report
  levelhead distill --teacher RUN --student MODEL
                                        train a student on a teacher's probabilities
  levelhead resume RUN                  go on with a run that was stopped
  levelhead compare DATA --smoothing 0 0.1 --seeds 3
                                        train settings over seeds; which to use
  levelhead predict RUN IMAGE...        calibrated predictions of new images
  levelhead audit PREDICTIONS           judge anyone's predictions; what would fix them
  levelhead calibrate VALIDATION --apply TEST
                                        choose and fit a calibrator, judge it on others
  levelhead decide VALIDATION --apply TEST
                                        thresholds, sets and choices with a guarantee
  levelhead penultimate RUN...          its last layer: how tight the clusters are
  levelhead information RUN...          what its logits tell about a training example
  levelhead distillation STUDY_OR_RUN...
                                        students of smoothed and hard teachers, compared
  levelhead tradeoff STUDY_OR_RUN... [--ood DATA...]
                                        what smoothing buys and what it costs
  levelhead reproduce PAPER --data FOLDER
                                        run a published paper's experiments again
  levelhead report RUN                  write the report of a run or study anew
  levelhead models                      the networks that --model knows

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
        return _fail("out of memory; give a smaller --batch-size or --image-size, or fewer rows")
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror}; see that it can be used")


def _fail(text: str, code: int = 2) -> int:
    print(f"levelhead: {' '.join(text.split())}", file=sys.stderr)
    return code


def _warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"levelhead: warning: {message}", file=sys.stderr)


COMMANDS = {
    "train": running.train,
    "distill": running.distill,
    "resume": running.resume,
    "compare": running.compare,
    "predict": running.predict,
    "audit": judging.audit,
    "calibrate": judging.calibrate,
    "decide": judging.decide,
    "penultimate": studying.penultimate,
    "information": studying.information,
    "distillation": studying.distillation,
    "tradeoff": studying.tradeoff,
    "reproduce": studying.reproduce,
    "report": running.report,
    "check": running.check,
    "models": running.models,
}
