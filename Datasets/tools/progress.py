"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, unit: str, seconds: float = 10.0) -> Iterator[T]:
    """Pass `items` through and tell on stderr how far it is; without a terminal, at most one line in `seconds`."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit=f" {unit}")
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"{what}: {done} of {total} {unit}, {done / (last - start):.0f} a second", file=sys.stderr)
    unit = unit.removesuffix("s") if done == 1 else unit
    print(f"{what}: {done} {unit} in {time.monotonic() - start:.1f} s", file=sys.stderr)
