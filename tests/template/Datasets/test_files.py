"""Decoding text files."""

import codecs

import pytest

from Datasets.format.files import decode_text
from Datasets.tools.errors import UserError

BEAR = "cat\nBär\n".encode("latin-1")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_text_that_is_not_utf_8_is_refused_with_its_line(mark: bytes) -> None:
    with pytest.raises(UserError, match="^a.txt: line 2: byte 0xe4 is not UTF-8; "):
        decode_text(mark + BEAR, "a.txt")
    assert decode_text(mark + "Bär".encode(), "a.txt") == "Bär"
    assert decode_text(mark + "Bär".encode(), "a.txt", "utf-8").encode() == mark + "Bär".encode()
