"""The exception for a user's mistake, and errors in one line."""


class UserError(Exception):
    """A mistake in data, parameters or usage, described in one line: file, record, value and remedy."""


def one_line(error: object) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
