"""`python -m levelhead` and the command `levelhead`."""

import os
import sys


def main() -> int:
    """Run a command; what is wrong with the input becomes one line and exit code 2."""
    from levelhead.cli import run
    from levelhead.text import printable

    try:
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


if __name__ == "__main__":
    sys.exit(main())
