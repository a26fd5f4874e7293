"""The one error that means "what you gave cannot be used"."""


class LevelheadError(ValueError):
    """A mistake in the input: one line that names the file or value and the fix.

    The command line prints the line and leaves with exit code 2; nothing else is lost.
    """


MOST = 20  # names listed in a message


class NoLabels(LevelheadError):
    """Predictions without the true classes: they can be decided, not judged."""


class CannotWrite(LevelheadError):
    """A file that cannot be written; `what` names it and the reason, `fix` says what helps."""

    def __init__(self, what: str, fix: str = "free some space") -> None:
        super().__init__(f"{what}; {fix}, then run it again")
        self.what, self.fix = what, fix


def nearest(word: str, known: list[str]) -> str:
    """The fix for a misspelt name: `" Did you mean 'resnet18'?"`, or the list of what exists.

    >>> nearest("resnt18", ["resnet18", "linear"])
    "did you mean 'resnet18'?"
    >>> nearest("--val", ["--lr", "--validation"])
    "did you mean '--validation'?"
    >>> nearest("zzz", ["resnet18", "linear"])
    'choose one of linear, resnet18'
    """
    from difflib import get_close_matches

    begin = sorted((name for name in known if len(word) > 2 and name.startswith(word)), key=len)
    close = begin[:1] or get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"choose one of {', '.join(sorted(known)[:MOST])}{more}"
