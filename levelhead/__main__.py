"""`python -m levelhead` and the command `levelhead`."""

import os
import sys


def main() -> int:
    """Run a command; what is wrong with the input becomes one line and exit code 2."""
    _open_closed_streams()
    _spin_less()
    from levelhead.cli import run
    from levelhead.cli.terminal import without_decoders
    from levelhead.text import printable

    try:
        with without_decoders():
            return run(sys.argv[1:])
    except Exception as error:
        if os.environ.get("LEVELHEAD_DEBUG"):
            raise
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        print(
            f"levelhead: {reason}; a fault of levelhead, or something given is damaged in a way "
            "that it does not know: LEVELHEAD_DEBUG=1 shows where",
            file=sys.stderr,
        )
        return 1


def _open_closed_streams() -> None:
    """Lead standard streams that are closed (`2>&-`) to nowhere: no file may take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _spin_less() -> None:
    """Let OpenMP's threads sleep soon where they wait, as libgomp has it for too many threads.

    Spinning for milliseconds they take the cores from whatever else runs: half again the time on a
    busy machine, for a tenth on an idle one. Read when torch is loaded.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"


if __name__ == "__main__":
    sys.exit(main())
