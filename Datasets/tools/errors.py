"""The exception for a user's mistake, and messages of one line."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in data, parameters or usage, described in one line: file, record, value and remedy."""


def one_line(error: object) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
