"""The one exception that means: the input is at fault, not the program."""


class UserError(Exception):
    """A mistake in data, parameters or usage, said in one line: file, record, value and remedy."""
