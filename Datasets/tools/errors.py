"""UserError, which means that the input is at fault and not the program; and errors in one line."""


class UserError(Exception):
    """A mistake in data, parameters or usage, said in one line: file, record, value and remedy."""


def one_line(error: object) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
