"""Has a command forked, passes signals on to it, and ends as it ends.

python forked_client.py SOCKET MODULE WORDS
"""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path


def ask(
    connection: socket.socket, words: list[str], directory: str, environment: dict[str, str], files: list[int]
) -> int:
    """Have `python -m` run these words with these files as its standard streams; the id of its process."""
    request = json.dumps([words, directory, environment]).encode()
    socket.send_fds(connection, [struct.pack("Q", len(request))], files)
    connection.sendall(request)
    return int(struct.unpack("q", connection.recv(8, socket.MSG_WAITALL))[0])


def wait(connection: socket.socket) -> int:
    """The exit code of the command that was asked for; that of a signal is negative."""
    answer = connection.recv(8, socket.MSG_WAITALL)
    return int(struct.unpack("q", answer)[0]) if answer else -signal.SIGKILL


def main() -> None:
    """End as the command ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        process = ask(connection, sys.argv[2:], str(Path.cwd()), dict(os.environ), [0, 1, 2])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(process, number))
        code = wait(connection)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
