"""A headless Chromium driven over its DevTools pipe: nothing to install beside the browser."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="Chrome or Chromium not found; CHROME can name it")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP plain.test 127.0.0.1",
]
# Chromium reads commands from descriptor 3 and writes answers to 4
_LAUNCH = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


# Of an element: its letters' colour and that of the nearest background which is not transparent, as numbers to 255
_COLOURS = """(element) => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const letters = numbers(getComputedStyle(element).color).slice(0, 3);
  let back;
  do back = numbers(getComputedStyle(element).backgroundColor);
  while (back[3] === 0 && (element = element.parentElement));
  return [letters, back.slice(0, 3)];
}"""


class Page:
    """One tab. Every method waits for its answer; an error in the page's script fails the test.

    complaints: what the browser reported on its console as an error, such as a resource that it refused to load.
    width: of its window, in CSS pixels; `window.innerWidth` grows with a page that is too wide for a phone.
    """

    width = 1280

    def __init__(self, writes: int, reads: int) -> None:
        self._writes = os.fdopen(writes, "wb", buffering=0)
        self._reads = os.fdopen(reads, "rb")
        self._number = 0
        self.complaints: list[str] = []
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Log.enable")

    def _call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._writes.write(
            json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            answer = json.loads(self._message())
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.complaints.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> bytes:
        read = bytearray()
        while (byte := self._reads.read(1)) != b"\0":
            assert byte, "Chromium ended"
            read += byte
        return bytes(read)

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a window of this size, in CSS pixels."""
        self.width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.02)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input, as a person would."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def click(self, selector: str) -> None:
        """Click on the middle of an element, as a person would."""
        centre = "(({x, y, width, height}) => ({x: x + width / 2, y: y + height / 2}))"
        place = self.run(f"{centre}(document.querySelector('{selector}').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def paste(self) -> None:
        """Paste what was copied into the element that has the focus."""
        self._call("Input.dispatchKeyEvent", type="keyDown", commands=["paste"])

    def contrast(self, selector: str) -> float:
        """The least contrast of the letters of some elements with what they stand on, as WCAG 2.2 defines it.

        It should be 4.5 at least (1.4.3).
        """
        pairs = self.run(f"[...document.querySelectorAll({selector!r})].map({_COLOURS})")
        lights = np.array(pairs) / 255
        linear = np.where(lights > 0.04045, ((lights + 0.055) / 1.055) ** 2.4, lights / 12.92)
        luminance = np.sort(linear @ [0.2126, 0.7152, 0.0722]) + 0.05
        return float((luminance[:, 1] / luminance[:, 0]).min())

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start Chromium with the fresh directory `profile`, and end it with the block."""
    commands, answers = os.pipe(), os.pipe()
    launch = [sys.executable, "-c", _LAUNCH, str(commands[0]), str(answers[1])]
    browser = [str(CHROMIUM), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    with tempfile.TemporaryDirectory() as sockets:  # a path of at most 107 bytes, which those of tests may exceed
        process = subprocess.Popen(
            [*launch, *browser],
            pass_fds=(commands[0], answers[1]),
            env={**os.environ, "TMPDIR": sockets},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Page(commands[1], answers[0])
        finally:
            process.terminate()
            process.wait(20)
