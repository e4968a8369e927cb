"""The log of the service and its workers: lines of JSON on stderr."""

import json
import logging
import time
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class NowAndThen(logging.Filter):
    """Passes asyncio's complaint that a connection cannot be accepted once a second, of up to 2,000 a second.

    It makes one for each connection that may wait, while file descriptors are lacking.
    """

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is passed."""
        if record.name != "asyncio" or not str(record.msg).startswith("socket.accept() out of system resource"):
            return True
        now = time.monotonic()
        passed = now >= self._next
        if passed:
            self._next = now + 1
        return passed


def log_as_json(level: str) -> None:
    """Send the log of everything in this process to stderr, as lines of JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(NowAndThen())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
