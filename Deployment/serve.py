"""The service: an image comes in over HTTP, the model's prediction goes out as JSON.

    python -m Deployment.serve BUNDLE_OR_EXPORT [--host 127.0.0.1] [--port 8000]

The export is verified, loaded and tried on a sample before the port opens; then the address is printed. This process
speaks HTTP, its worker processes (service/workers.py) run the model. The environment variable FOURFOLD_API_KEY sets a
key that requests must bear, or several. It runs outside this repository, with what a bundle's requirements.txt lists:
hence click, which uvicorn needs, and not typer.
"""

import asyncio
import logging
import math
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from Datasets.format.graphs import Device
from Datasets.format.images import FORMATS, MAX_PIXELS
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import Runtime, load
from Deployment.service.keeping import Keeper
from Deployment.service.worker import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

KEY = "FOURFOLD_API_KEY"
KEY_LENGTH = 16  # a shorter key could be guessed
SHUTDOWN_SECONDS = 8  # for running requests to end after SIGTERM
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
Command = Callable[..., None]
COUNT = click.IntRange(1)
LEVELS = ("debug", "info", "warning", "error")


def share(text: str) -> float:
    """The options --overlap and --keep-share."""
    if not 0 <= float(text) < 1:  # which click's own range would find of nan
        raise click.BadParameter(f"{text!r} is no share from 0 to below 1")
    return float(text)


def formats(text: str) -> tuple[str, ...]:
    """The option --formats."""
    names = tuple(name.strip().upper() for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(FORMATS)}")
    return names


def origins(text: str) -> tuple[str, ...]:
    """The option --cors."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name != "*" and not re.fullmatch(r"https?://[^/\s]+", name):
            raise click.BadParameter(f"{name!r} is no origin such as https://example.com")
    return names


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """The cores that this process may run on, or fewer where a container's CPU limit allows fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        microseconds, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(microseconds) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit
        return cores


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


async def serve(export: Path, options: Mapping[str, Any]) -> None:
    """Load the export, then run the service until SIGTERM or Ctrl-C. options: the command's. Raises UserError."""
    from Deployment.service.workers import Workers

    keys = api_keys()
    limits = Limits(**{each.name: options[each.name] for each in fields(Limits)})
    runtime = Runtime(**{each.name: options[each.name] for each in fields(Runtime)})
    artifact = load(export)
    keeping = (options["keep"], options["keep_most"], options["keep_share"])
    keeper = Keeper(*keeping, artifact.manifest) if options["keep"] else None
    workers = Workers(artifact, runtime, limits, extras=keeper is not None)
    try:
        workers.start()
        from Deployment.service.app import create_app  # while the workers load the model, who need no FastAPI

        app = create_app(artifact, workers, limits, keeper, keys, options["cors"])
        await workers.wait()
        with listen(options["host"], options["port"]) as opened:
            await run(app, opened, options, artifact.manifest["experiment"], workers.device)
    finally:
        workers.stop()


async def run(
    app: "FastAPI", opened: socket.socket, options: Mapping[str, Any], experiment: str, device: Device
) -> None:
    """Print the address and serve; after a signal finish running requests, for SHUTDOWN_SECONDS at most."""
    import uvicorn

    from Deployment.service.monitoring import log_as_json

    log_as_json(options["log_level"])
    log, host = logging.getLogger("fourfold"), options["host"]
    log.info(f"{experiment} computes on {device}")
    if KEY not in os.environ and host not in ("127.0.0.1", "localhost", "::1"):
        log.warning(f"listening on {host} without authentication; set {KEY}")
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=options["keep_alive"],
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which uvicorn's own handler calls when it has finished
    address = f"[{host}]" if ":" in host else host
    print(f"{experiment} answers at http://{address}:{opened.getsockname()[1]}", flush=True)
    await uvicorn.Server(config).serve(sockets=[opened])


def option(name: str, kind: Any, default: Any, text: str) -> Callable[[Command], Command]:
    """An option of the command."""
    return click.option(name, type=kind, default=default, help=text, show_default=True)


@click.command()
@click.argument("export", type=click.Path(path_type=Path))
@option("--host", str, "127.0.0.1", "the address to listen at; 0.0.0.0 to be reached from elsewhere")
@option("--port", click.IntRange(0, 65535), 8000, "0 takes any free one")
@option("--device", click.Choice(Device), "auto", "auto is a GPU where onnxruntime has one; the log says which")
@option("--threads", COUNT, 1, "threads for the operators of one image")
@option("--tile", click.IntRange(0), 0, "side in pixels of the squares that larger images are also seen in; 0: none")
@option("--overlap", share, 0.2, "what neighbouring tiles share, of a side")
@option("--parallel", click.IntRange(1, 256), usable_cores() + 1, "workers, each with the model; one more than cores")
@option("--waiting", click.IntRange(0), 64, "requests that may wait for a worker; further ones get 503")
@option("--seconds", COUNT, 30, "the longest that a request may take")
@option("--keep-alive", COUNT, 75, "seconds that an idle connection stays open: longer than your load balancer's")
@option("--max-bytes", COUNT, 20_000_000, "the largest body, of a batch too")
@option("--max-pixels", click.IntRange(1, MAX_PIXELS), 30_000_000, "the most pixels of an image")
@option("--max-images", COUNT, 64, "the most images of a batch")
@option("--max-memory", COUNT, 400_000_000, "bytes of all bodies that are held at once")
@option("--formats", formats, "JPEG,PNG,WEBP,BMP", f"image formats, with commas between: {', '.join(FORMATS)}")
@option("--cors", origins, "", "origins of other sites' pages that may use it, with commas between; * for all")
@option("--keep", str, "", "directory or other place of fsspec to keep some images in, with answers; none if empty")
@option("--keep-share", share, 0.01, "of the images, kept at random; about as many of those the model is unsure of")
@option("--keep-most", COUNT, 1000, "images kept there in all")
@option("--log-level", click.Choice(LEVELS), "info", "info has a line for each request")
def command(export: Path, **options: Any) -> None:
    """Answers POST /predict with the model's prediction. EXPORT: a bundle, or an export."""
    try:
        asyncio.run(serve(export, options))
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, so that the workers are ended
    try:
        command(standalone_mode=False)
    except click.ClickException as error:
        sys.exit(f"error: {one_line(error.format_message())} (--help lists the options)")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")


if __name__ == "__main__":
    main()
