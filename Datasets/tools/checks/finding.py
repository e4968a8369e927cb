"""What a check finds wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """what: one line that names the thing, and what is wrong with it. mend: the command, or commands, that mend it."""

    what: str
    mend: str


def some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
