"""Keeps some of the images that a service is sent, with its answers, for people to look at and models to learn from.

In a directory, or at another place that fsspec knows: WHERE/random has a random share of the images, as
Deployment.drift needs, WHERE/unsure about as many of which the model was most unsure, for `Models.review next`, and
WHERE/answers what it answered. A file's name is the sha256 of the image.
"""

import hashlib
import io
import json
import logging
import queue
import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from Datasets.tools.errors import UserError, one_line

RECENT = 1000  # images that an image's uncertainty is compared with
WAITING = 8  # images that may wait to be written; further ones are not kept
FOLDERS = ("random", "unsure", "answers")


class Keeper:
    """Chooses images, and writes them in a thread, so that no answer waits.

    where: a directory or an address. most: images there in all. share: of the images, at random. manifest: the model's.
    Raises UserError if nothing can be written there.
    """

    def __init__(self, where: str, most: int, share: float, manifest: Mapping[str, Any]) -> None:
        from fsspec.core import url_to_fs

        self._where, self._most, self._share = where, most, share
        self._model = {"experiment": manifest["experiment"], "commit": (manifest.get("git") or {}).get("commit")}
        try:
            self._files, self._root = url_to_fs(where)
            for folder in FOLDERS:
                self._files.makedirs(f"{self._root}/{folder}", exist_ok=True)
            self._files.pipe_file(f"{self._root}/.writable", b"")
            self._files.rm(f"{self._root}/.writable")
            self._kept = sum(len(self._files.find(f"{self._root}/{folder}")) for folder in FOLDERS[:2])
        except Exception as error:  # each kind of place has errors of its own
            raise UserError(f"--keep {where}: nothing can be written there: {one_line(error)}") from error
        self._recent, self._considered = np.full(RECENT, np.nan), 0
        self._waiting = queue.Queue[tuple[str, bytes, dict[str, Any]]](WAITING)
        Thread(target=self._write, daemon=True).start()

    def consider(self, image: bytes, prediction: Mapping[str, Any], uncertainty: float) -> None:
        """Keep an image, if chance has it so or the model is unsure, and there is room."""
        self._recent[self._considered % RECENT] = uncertainty
        self._considered += 1
        more_certain = np.count_nonzero(self._recent < uncertainty)  # in microseconds, as the event loop waits
        if random.random() < self._share:
            folder = "random"
        elif more_certain > (1 - self._share) * (min(self._considered, RECENT) - 1):
            folder = "unsure"
        else:
            return
        if self._kept < self._most:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            answer = {"time": when, **self._model, "uncertainty": uncertainty, **prediction}
            with suppress(queue.Full):
                self._waiting.put_nowait((folder, image, answer))
                self._kept += 1

    def _write(self) -> None:
        while True:
            folder, image, answer = self._waiting.get()
            name = hashlib.sha256(image).hexdigest()
            try:
                suffix = str(Image.open(io.BytesIO(image)).format).lower()
                self._files.pipe_file(f"{self._root}/{folder}/{name}.{suffix}", image)
                self._files.pipe_file(f"{self._root}/answers/{name}.json", json.dumps(answer).encode())
            except Exception as error:
                reason = f"--keep {self._where}: an image could not be kept: {one_line(error)}"
                logging.getLogger("fourfold").warning(reason)
