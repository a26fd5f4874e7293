"""`python -m levelhead` and the command `levelhead`."""

import sys


def main() -> int:
    """Run a command; what is wrong with the input becomes one line and exit code 2."""
    from levelhead.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
