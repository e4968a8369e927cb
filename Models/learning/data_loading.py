"""Curated images and what their records say of the field to learn, letterboxed, in batches of tensors.

For each task, `loss` is given as targets:

| task   | targets of N images fitted to squares of S pixels                                                       |
|--------|---------------------------------------------------------------------------------------------------------|
| boxes  | boxes float32 [N, M, 4] (x1, y1, x2, y2 in pixels of the square), classes int64 [N, M], -1 where an image |
|        | has fewer than M, crowd bool [N, M]                                                                     |
| mask   | mask int64 [N, S, S]: class id + 1, 0 for background, IGNORED where nothing is annotated                |
| labels | labels bool [N, C]: whether the image shows the class                                                   |
| counts | counts int64 [N, C]: how many objects of the class the image shows                                      |
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from Datasets.format.curated import Curated
from Datasets.format.images import VOID, Letterbox, decode, letterbox, read_mask
from Datasets.format.records import Record
from Datasets.tools.command import progress
from Datasets.tools.errors import UserError

CACHE_BYTES = 2**30  # a split is held in memory if its letterboxed pixels fit into this; else decoded for each batch
IGNORED = -1  # in a mask of the targets: not annotated, the square's padding, or moved in from outside the image
WANTED: dict[str, Callable[[Record], object]] = {  # what at least one image of a split must have
    "boxes": lambda record: any(not box["crowd"] for box in record["boxes"] or []),
    "mask": lambda record: True,
    "labels": lambda record: record["labels"],
    "counts": lambda record: record["labels"],
}
REMEDY = "give the split a larger share (masks are drawn by curate.draw_masks), or delete the experiment in params.yaml"
WORKERS = 2  # threads that decode: Pillow lets go of the interpreter while it does
Targets = dict[str, torch.Tensor]
T = TypeVar("T")
U = TypeVar("U")


class Batch(NamedTuple):
    """images: uint8 [N, 3, size, size]. targets: what `loss` takes. squares: the same images, with the way back."""

    images: torch.Tensor
    targets: Targets
    indices: Sequence[int]
    squares: Sequence[Letterbox]

    def to(self, device: str) -> "Batch":
        """The batch with its tensors on a device."""
        targets = {name: values.to(device, non_blocking=True) for name, values in self.targets.items()}
        return self._replace(images=self.images.to(device, non_blocking=True), targets=targets)

    def pin_memory(self) -> "Batch":
        """The batch with its tensors in memory from which a GPU may fetch them meanwhile."""
        targets = {name: values.pin_memory() for name, values in self.targets.items()}
        return self._replace(images=self.images.pin_memory(), targets=targets)


class Samples:
    """The images of a split whose field `task` is known, scaled and padded to a square of `size` pixels.

    Images known to hold nothing are kept, as background; those of which nothing is known are left out. Raises UserError
    for a split with nothing to learn from.
    """

    def __init__(self, curated: Curated, split: str, size: int, task: str = "boxes") -> None:
        self.classes, self.ids = list(curated.classes), curated.classes
        self.task = task
        self._files = curated.images(split)
        records = curated.records(split, masks=task == "mask")
        self._rows = [row for row, record in enumerate(records) if record[task] is not None]  # type: ignore[literal-required]
        self.records: list[Record] = [records[row] for row in self._rows]
        self._size, self.value_range = size, curated.value_range
        self._lock = Lock()  # a Parquet file is read by one thread at a time
        self._cache: list[Letterbox] | None = None
        if not any(WANTED[task](record) for record in self.records):
            raise UserError(f"{curated.directory}: no image of the {split} split has {task} to learn from; {REMEDY}")

    def __len__(self) -> int:
        return len(self.records)

    def subset(self, indices: Sequence[int]) -> "Samples":
        """Some of the images, in that order."""
        part = copy(self)
        part._rows, part._cache = [self._rows[index] for index in indices], None
        part.records = [self.records[index] for index in indices]
        return part

    def file(self, index: int) -> bytes:
        """The image file as it was delivered."""
        with self._lock:
            return self._files[self._rows[index]]

    def pixels(self, index: int) -> np.ndarray:
        """The image's own pixels, uint8 [H, W, 3]."""
        return decode(self.file(index), value_range=self.value_range)

    def letterbox(self, index: int) -> Letterbox:
        """The image as the model sees it, and the way back to its own pixels."""
        return letterbox(self.pixels(index), self._size) if self._cache is None else self._cache[index]

    def cache(self) -> None:
        """Decode all images now, if they fit into CACHE_BYTES."""
        if self._cache is None and len(self) * self._size**2 * 3 <= CACHE_BYTES:
            self._cache = list(progress(ahead(self.letterbox, range(len(self))), len(self), "decode", "images"))

    def boxes(self, index: int, crowd: bool) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float [M, 4] in the image's own pixels and class ids int [M], of crowds or of single objects."""
        found = [box for box in self.records[index]["boxes"] or [] if box["crowd"] == crowd]
        sides = [[box["x1"], box["y1"], box["x2"], box["y2"]] for box in found]
        ids = [self.ids[box["name"]] for box in found]
        return np.array(sides, np.float64).reshape(-1, 4), np.array(ids, np.int64)

    def mask(self, index: int) -> np.ndarray:
        """The semantic mask uint8 [H, W] in the image's own pixels: class id + 1, 0 for background, VOID."""
        return read_mask((self.records[index]["mask"] or {})["bytes"])

    def labels(self, index: int) -> np.ndarray:
        """bool [C]: whether the image shows each class."""
        return np.isin(self.classes, self.records[index]["labels"] or [])

    def counts(self, index: int) -> np.ndarray:
        """int64 [C]: how many objects of each class the image shows."""
        found = {each["name"]: each["count"] for each in self.records[index]["counts"] or []}
        return np.array([found.get(name, 0) for name in self.classes], np.int64)

    def batches(self, order: Sequence[Sequence[int]], workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """The batches of indices that `order` lists, decoded ahead of their use. pin: in pinned memory.

        workers: processes that decode, where the images are not held in memory; 0: threads.
        """
        if workers and self._cache is None:
            return iter(DataLoader(self, None, sampler=order, num_workers=workers, pin_memory=pin))  # type: ignore[arg-type]
        return ahead((lambda indices: self[indices].pin_memory()) if pin else self.__getitem__, order)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        squares = [self.letterbox(index) for index in indices]
        pixels = torch.from_numpy(np.stack([square.pixels for square in squares]))
        each = [self._targets(index, square) for index, square in zip(indices, squares, strict=True)]
        stack = pad if self.task == "boxes" else default_collate
        return Batch(pixels.permute(0, 3, 1, 2), stack(each), indices, squares)

    def _targets(self, index: int, square: Letterbox) -> Targets:
        if self.task == "boxes":
            (singles, kinds), (crowds, crowd_kinds) = self.boxes(index, crowd=False), self.boxes(index, crowd=True)
            return {
                "boxes": torch.from_numpy(square.to_square(np.concatenate([singles, crowds]))).float(),
                "classes": torch.from_numpy(np.concatenate([kinds, crowd_kinds])),
                "crowd": torch.arange(len(singles) + len(crowds)) >= len(singles),
            }
        if self.task == "mask":
            mask = square.mask_to_square(self.mask(index), VOID).astype(np.int64)
            return {"mask": torch.from_numpy(np.where(mask == VOID, IGNORED, mask))}
        values = self.labels(index) if self.task == "labels" else self.counts(index)
        return {self.task: torch.from_numpy(values)}


def pad(targets: Sequence[Targets]) -> Targets:
    """Stack the targets of images with different numbers of boxes; class -1 marks the places left over."""
    most = max(1, *(len(each["classes"]) for each in targets))
    out = {
        "boxes": torch.zeros(len(targets), most, 4),
        "classes": torch.full((len(targets), most), -1),
        "crowd": torch.zeros(len(targets), most, dtype=torch.bool),
    }
    for row, each in enumerate(targets):
        for name, values in each.items():
            out[name][row, : len(values)] = values
    return out


def epoch_order(samples: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """All samples once, in an order that follows from (seed, epoch), in batches of nearly equal size, at most `batch`.

    Equal sizes, because the statistics of a last batch of one or two images would disturb batch normalisation; where
    one image would be alone, a batch has one more.
    """
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    steps = -(-samples // batch)
    if samples < 2 * steps and batch > 1:
        steps = max(1, samples // batch)
    return [part.tolist() for part in np.array_split(order, steps)]


def ahead(function: Callable[[T], U], items: Iterable[T], depth: int = 4) -> Iterator[U]:
    """`map(function, items)`, computed by WORKERS threads up to `depth` items ahead."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[U]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
