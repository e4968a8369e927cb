"""The image files in a request's body: the body itself, or the files of a form."""

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from python_multipart.multipart import FormParser, parse_options_header

FORM = "multipart/form-data"
NAME_LENGTH = 255  # of a file in a form; what is longer is cut
MOST_FIELDS = 1000  # of a form, beside its files; each takes time


class WrongForm(ValueError):
    """A form that holds no files to work on; the message says why."""


class Sent(NamedTuple):
    """An image file as it came, with the name that a form gave it."""

    name: str
    data: bytes


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form that carries files."""
    return content_type.partition(";")[0].strip().lower() == FORM


def single_image(body: bytes, content_type: str) -> bytes:
    """The image file in a body of any type, or in a form's only file. Raises WrongForm."""
    if not is_form(content_type):
        return body
    return form_files(body, content_type, 1)[0].data


def form_files(body: bytes, content_type: str, most: int) -> list[Sent]:
    """The files of a form, whatever its fields' names; other fields are passed over.

    Raises WrongForm for a damaged form, for one without a file, and for one with more than `most`.
    """
    found: list[Sent] = []

    def add(file: Any) -> None:
        if len(found) == most:
            raise WrongForm(f"the form has more files than the limit of {most}")
        found.append(Sent(_name(file.file_name), file.file_object.getvalue()))  # read() would copy it

    _parse(body, content_type, add)
    if not found:
        raise WrongForm("the form has no file")
    return found


def _parse(body: bytes, content_type: str, on_file: Callable[[Any], None]) -> None:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise WrongForm("the form's content type names no boundary")
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # never a temporary file: the file system may be read-only
    ended: list[bool] = []
    fields = count(1)

    def pass_over(_: object) -> None:
        if next(fields) > MOST_FIELDS:
            raise WrongForm(f"the form has more fields than the limit of {MOST_FIELDS}")

    try:
        parser = FormParser(FORM, pass_over, on_file, lambda: ended.append(True), boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except WrongForm:
        raise
    except Exception as error:  # the parser's own errors, and others for hostile bytes
        raise WrongForm("the form is damaged") from error
    if not ended:
        raise WrongForm("the form is damaged: it was cut off")


def _name(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")[:NAME_LENGTH]
