"""The service: an image comes in over HTTP, what the model finds in it goes out as JSON.

    python -m Deployment.serve BUNDLE_OR_EXPORT [--host 127.0.0.1] [--port 8000]

It is verified, loaded and tried on a sample before the port opens; then the address is printed. This process speaks
HTTP, its workers (serving/worker.py) run the model. The environment variable FOURFOLD_API_KEY sets a key that requests
must bear. It runs outside this repository, with what a bundle's requirements.txt lists: hence argparse.
"""

import argparse
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from Datasets.format.images import FORMATS, MAX_PIXELS
from Datasets.tools.errors import UserError
from Deployment.service.artifact import load
from Deployment.service.cores import MOST_PROCESSES, usable_cores
from Deployment.service.json_log import log_as_json
from Deployment.service.limits import Limits
from Deployment.service.messages import Job
from Deployment.service.predictor import RUNTIMES
from Deployment.service.workers import Workers

if TYPE_CHECKING:
    from Deployment.service.front import Front

KEY = "FOURFOLD_API_KEY"
KEY_LENGTH = 16  # a shorter key could be guessed
SHUTDOWN_SECONDS = 8  # how long running requests may take to end after SIGTERM
HEADER_SECONDS = 10  # from connecting, or from the last answer, to the end of a request's headers
BACKLOG = 2048  # connections that may wait to be accepted
DESCRIPTORS = 16_384  # wanted, for as many connections; systems give 1,024 to those who do not ask for more


class Parser(argparse.ArgumentParser):
    """An argument parser that says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 1, as every other mistake does."""
        sys.exit(f"error: {message} (--help lists the options)")


def number(least: int, most: float = float("inf")) -> Callable[[str], int]:
    """A conversion of an option's text to a whole number in these bounds."""

    def convert(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return convert


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = Parser(prog="python -m Deployment.serve", description="Answers POST /predict with what the model finds.")

    def add(option: str, kind: Callable[[str], Any], default: Any, text: str, *choices: str) -> None:
        shown = f"{text} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=default, help=shown, choices=choices or None)

    limits = Limits()
    parser.add_argument("export", type=Path, help="a bundle, or an export")
    add("--host", str, "127.0.0.1", "the address to listen at; 0.0.0.0 to be reached from elsewhere")
    add("--port", number(0, 65535), 8000, "0 takes any free one")
    add("--runtime", str, "onnx", "torch builds the model from the export's own script", *RUNTIMES)
    add("--threads", number(1), 1, "threads for the operators of one image")
    parallel = "worker processes, each with the model: images worked on at once"
    add("--parallel", number(1, MOST_PROCESSES), usable_cores(), parallel)
    add("--waiting", number(0), limits.waiting, "requests that may wait for that; further ones get 503")
    add("--seconds", number(1), limits.seconds, "the longest that a request may take")
    add("--max-bytes", number(1), limits.body, "the largest body, of a batch too")
    add("--max-pixels", number(1, MAX_PIXELS), limits.pixels, "the most pixels of an image")
    add("--max-images", number(1), limits.images, "the most images of a batch")
    add("--max-memory", number(1), limits.memory, "bytes of all bodies that are held at once")
    add("--formats", formats, ",".join(limits.formats), "the formats of image files, with commas between")
    add("--log-level", str, "info", "info has a line for each request", "debug", "info", "warning", "error")
    return parser.parse_args()


def formats(text: str) -> tuple[str, ...]:
    """The option --formats."""
    names = tuple(name.strip().upper() for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FORMATS)}")
    return names


def api_key() -> str | None:
    """The key that requests must bear, from the environment. Raises UserError for one that would protect nothing."""
    key = os.environ.get(KEY)
    if key is not None and not (len(key) >= KEY_LENGTH and key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"{KEY}: is set to {len(key)} characters; a key has {KEY_LENGTH} or more, all visible ASCII: "
            'python -c "import secrets; print(secrets.token_urlsafe())" makes one'
        )
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port`. Raises UserError if that cannot be.

    It names its protocol, as socket.create_server's does not: asyncio switches Nagle's algorithm off on such sockets
    only, and with it every answer takes 40 ms.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except (OSError, UnicodeError) as error:  # names such as .. cannot be encoded
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error}; choose another") from error
    return opened


def allow_descriptors() -> None:
    """Raise this process's limit of file descriptors to DESCRIPTORS, or as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve(options: argparse.Namespace) -> None:
    """Run the service until SIGTERM or Ctrl-C. Raises UserError."""
    key = api_key()
    limits = Limits(
        body=options.max_bytes,
        pixels=options.max_pixels,
        images=options.max_images,
        formats=options.formats,
        seconds=options.seconds,
        parallel=options.parallel,
        waiting=options.waiting,
        memory=max(options.max_memory, options.max_bytes),
    )
    with Workers(limits.parallel, limits.waiting) as workers:
        artifact = load(options.export)
        workers.learn(Job(options.export, artifact, options.threads, options.runtime, limits, options.log_level))
        from Deployment.service.endpoints import create_app  # imports FastAPI, while the workers load the model
        from Deployment.service.front import Front

        app = create_app(artifact, workers, limits, key is not None)
        workers.wait()
        allow_descriptors()
        with listen(options.host, options.port) as opened:
            log_as_json(options.log_level)
            if key is None and options.host not in ("127.0.0.1", "localhost", "::1"):
                logging.getLogger("fourfold").warning(f"whoever reaches {options.host} may ask: {KEY} is not set")
            host = f"[{options.host}]" if ":" in options.host else options.host
            greeting = f"{artifact.manifest['experiment']} answers at http://{host}:{opened.getsockname()[1]}"
            run(Front(app, app.state.metrics, key), opened, limits.seconds, greeting)


def run(app: "Front", opened: socket.socket, seconds: float, greeting: str) -> None:
    """Serve until a signal; then finish what is running, for SHUTDOWN_SECONDS at most.

    seconds: the longest that a client may take to read an answer. greeting: printed once a signal is heeded.
    """
    import uvicorn

    from Deployment.service.protocol import protocol_with

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        http=protocol_with(min(HEADER_SECONDS, seconds), seconds),
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    signal.signal(signal.SIGTERM, _end)  # uvicorn's own handler calls this one when it has finished
    print(greeting, flush=True)
    uvicorn.Server(config).run(sockets=[opened])


def _end(*_: object) -> NoReturn:
    """End as intended: nothing is left to finish."""
    sys.exit(0)


def main() -> None:
    """The command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, so that the workers are ended
    try:
        serve(parse())
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
