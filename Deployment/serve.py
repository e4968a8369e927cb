"""The service: an image comes in over HTTP, the model's prediction goes out as JSON.

    python -m Deployment.serve BUNDLE_OR_EXPORT [--host 127.0.0.1] [--port 8000]

The export is verified, loaded and tried on a sample before the port opens; then the address is printed. This process
speaks HTTP, its worker processes (service/workers.py) run the model. The environment variable FOURFOLD_API_KEY sets a
key that requests must bear, or several. It runs outside this repository, with what a bundle's requirements.txt lists:
hence argparse.
"""

import argparse
import logging
import math
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from Datasets.format.graphs import Device
from Datasets.format.images import FORMATS, MAX_PIXELS
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Runtime, load
from Deployment.service.keeping import keeping
from Deployment.service.worker import Limits, Setup

if TYPE_CHECKING:
    from fastapi import FastAPI

KEY = "FOURFOLD_API_KEY"
KEY_LENGTH = 16  # a shorter key could be guessed
SHUTDOWN_SECONDS = 8  # for running requests to end after SIGTERM
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line."""

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


def formats(text: str) -> tuple[str, ...]:
    """The option --formats."""
    names = tuple(name.strip().upper() for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FORMATS)}")
    return names


def share(text: str) -> float:
    """The options --overlap and --keep-share."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to below 1")
    return value


def origins(text: str) -> tuple[str, ...]:
    """The option --cors."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name != "*" and not re.fullmatch(r"https?://[^/\s]+", name):
            raise argparse.ArgumentTypeError(f"{name!r} is no origin such as https://example.com")
    return names


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """The cores that this process may run on, or fewer where a container's CPU limit allows fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        microseconds, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(microseconds) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit
        return cores


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = Parser(prog="python -m Deployment.serve", description="Answers POST /predict with the model's prediction.")

    def add(option: str, kind: Callable[[str], Any], default: Any, text: str, *choices: str) -> None:
        shown = f"{text} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=default, help=shown, choices=choices or None)

    limits = Limits()
    parser.add_argument("export", type=Path, help="a bundle, or an export")
    add("--host", str, "127.0.0.1", "the address to listen at; 0.0.0.0 to be reached from elsewhere")
    add("--port", number(0, 65535), 8000, "0 takes any free one")
    add("--device", Device, Device.auto, "auto is a GPU where onnxruntime has one; the log says which", *Device)
    add("--threads", number(1), 1, "threads for the operators of one image")
    add("--tile", number(0), 0, "side in pixels of the squares that larger images are looked at in as well; 0: none")
    add("--overlap", share, 0.2, "what neighbouring tiles share, of a side")
    add("--parallel", number(1, 256), usable_cores() + 1, "worker processes, each with the model; one more than cores")
    add("--waiting", number(0), limits.waiting, "requests that may wait for a worker; further ones get 503")
    add("--seconds", number(1), limits.seconds, "the longest that a request may take")
    add("--keep-alive", number(1), 75, "seconds that an idle connection stays open: longer than your load balancer's")
    add("--max-bytes", number(1), limits.max_bytes, "the largest body, of a batch too")
    add("--max-pixels", number(1, MAX_PIXELS), limits.max_pixels, "the most pixels of an image")
    add("--max-images", number(1), limits.max_images, "the most images of a batch")
    add("--max-memory", number(1), limits.max_memory, "bytes of all bodies that are held at once")
    add("--formats", formats, ",".join(limits.formats), f"image formats, with commas between: {', '.join(FORMATS)}")
    add("--cors", origins, "", "origins of other sites' pages that may use it, with commas between; * for all")
    add("--keep", str, "", "directory or other place of fsspec to keep some images in, with answers; none if empty")
    add("--keep-share", share, 0.01, "of the images, kept at random; about as many of those the model is unsure of")
    add("--keep-most", number(1), 1000, "images kept there in all")
    add("--log-level", str, "info", "info has a line for each request", "debug", "info", "warning", "error")
    return parser.parse_args()


def api_keys() -> list[str]:
    """The keys of which requests must bear one, from the environment, with commas between: old and new, while clients
    change. Raises UserError for one that would protect nothing.
    """
    if KEY not in os.environ:
        return []
    keys = [key.strip() for key in os.environ[KEY].split(",")]
    for key in keys:
        if not (len(key) >= KEY_LENGTH and key.isascii() and key.isprintable() and " " not in key):
            raise UserError(
                f"{KEY}: is set to {len(key)} characters; a key has {KEY_LENGTH} or more, all visible ASCII: "
                'python -c "import secrets; print(secrets.token_urlsafe())" makes one'
            )
    return keys


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port`. Raises UserError if that cannot be."""
    try:
        opened = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:  # names such as .. cannot be encoded
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error}; choose another") from error
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of its connections too: else an answer takes 40 ms
    return opened


def serve(options: argparse.Namespace) -> None:
    """Load the export, then run the service until SIGTERM or Ctrl-C. Raises UserError."""
    from Deployment.service.workers import Workers

    keys = api_keys()
    given = vars(options)
    limits = Limits(**{each.name: given[each.name] for each in fields(Limits)})
    runtime = Runtime(**{each.name: given[each.name] for each in fields(Runtime)})
    artifact = load(options.export)
    kept = keeping(options.keep, options.keep_most, options.keep_share) if options.keep else None
    workers = Workers(options.export, Setup(artifact, runtime, limits, kept))
    try:
        workers.start()
        from Deployment.service.app import create_app  # while the workers load the model, who need no FastAPI

        app = create_app(artifact, workers, limits, keys, options.cors)
        workers.wait()
        with listen(options.host, options.port) as opened:
            run(app, opened, options, artifact.manifest["experiment"], workers.device)
    finally:
        workers.stop()


def run(app: "FastAPI", opened: socket.socket, options: argparse.Namespace, experiment: str, device: Device) -> None:
    """Print the address and serve; after a signal finish running requests, for SHUTDOWN_SECONDS at most."""
    import uvicorn

    from Deployment.service.monitoring import log_as_json

    log_as_json(options.log_level)
    logging.getLogger("fourfold").info(f"{experiment} computes on {device}")
    if KEY not in os.environ and options.host not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger("fourfold").warning(f"listening on {options.host} without authentication; set {KEY}")
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=options.keep_alive,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which uvicorn's own handler calls when it has finished
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"{experiment} answers at http://{host}:{opened.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[opened])


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
