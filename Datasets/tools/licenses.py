"""Licences, by SPDX identifier or expression, against those that licenses.allow in params.yaml names."""

from collections.abc import Iterable, Mapping

from Datasets.tools.errors import UserError

UNKNOWN = "unknown"  # where none is stated; licenses.allow can name it


def check_licenses(found: Mapping[str, str], allowed: Iterable[str]) -> None:
    """Raise UserError, which names all that would have to be allowed, for licences that are not; [] allows all.

    found: the licence of each source, weights and package, by what the message calls it; "" where none is stated.
    """
    allow = {each.casefold() for each in allowed} - {"none"}  # which DVC makes of an empty `allow:`
    lacking: dict[str, list[str]] = {}
    for what, license in found.items():
        for each in _lacking(license or UNKNOWN, allow) if allow else ():
            lacking.setdefault(each, []).append(what)
    if lacking:
        told = ", ".join(f"{name} (of {', '.join(of[:3])}{' …' * (len(of) > 3)})" for name, of in lacking.items())
        stated = ", or state it; of a source, by `license` in its entry, or --license" if UNKNOWN in lacking else ""
        raise UserError(f"licenses.allow in params.yaml lacks {told}; add what the project accepts{stated}")


def _lacking(license: str, allow: set[str]) -> list[str]:
    """The parts of an SPDX expression that are not allowed. `OR` asks for one side, in parentheses for both."""
    if license.casefold() in allow:
        return []
    plain = license.replace("(", "").replace(")", "")
    ways = plain.split(" OR ") if plain == license else [plain.replace(" OR ", " AND ")]
    return min(([part for part in way.split(" AND ") if part.casefold() not in allow] for way in ways), key=len)
