"""Text files that people bring: they are in UTF-8, or it is said where they are not."""

from Datasets.tools.errors import UserError


def decode_text(data: bytes, name: object, encoding: str = "utf-8-sig") -> str:
    """The text of a file, without a byte order mark. encoding: "utf-8" keeps the mark, for what is written back.

    Raises UserError with the line of what is not UTF-8; name: how it calls the file.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]  # which is not that of `data` if that begins with a mark
        raise UserError(f"{name}: line {line}: byte 0x{byte:02x} is not UTF-8; save the file in UTF-8") from error
