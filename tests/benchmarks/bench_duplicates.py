"""Time and memory to find the near duplicates among generated perceptual hashes, a tenth of them planted:

python -m tests.benchmarks.bench_duplicates
"""

import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from Data_processing.curating.duplicates import Links, compare_alike, near_duplicates
from tests.benchmarks.measuring import Figure

SIZES = (10_000, 100_000, 1_000_000)
BITS = 24
COMPARED = 100_000  # up to here every pair is compared as well


def generate(number: int) -> np.ndarray:
    """uint8 [number, 32]: random hashes, a tenth of which differ from another in 10 % of their bits or fewer."""
    rng = np.random.default_rng(number)
    hashes = rng.integers(0, 256, (number, 32), dtype=np.uint8)
    planted = number // 10
    bits = np.unpackbits(hashes[rng.integers(0, number - planted, planted)], axis=1)
    flipped = rng.random(bits.shape, np.float32) < rng.uniform(0, 0.1, (planted, 1))
    hashes[number - planted :] = np.packbits(bits ^ flipped, axis=1)
    return np.unique(hashes, axis=0)


def measure(number: int) -> Figure:
    """Of `number` hashes."""
    hashes = generate(number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    links = near_duplicates(hashes, BITS)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    near = int((links.earlier >= 0).sum())
    details = f"{seconds:.1f} s, peak {peak // 1024} MB ({before // 1024} before), {near:,} near"
    against = ratio = ""
    if number <= COMPARED:
        every = Links(len(hashes))
        start = time.perf_counter()
        compare_alike(np.zeros(len(hashes), np.int64), hashes.view(np.uint64), BITS, every)
        against, ratio = "comparing every pair", f"{(time.perf_counter() - start) / seconds:.0f} times as fast"
        assert np.array_equal(every.label, links.label)
        assert np.array_equal(every.earlier >= 0, links.earlier >= 0)
    return Figure(f"near duplicates among {number:,} hashes", against, ratio, "", details)


def figures(largest: int = SIZES[-1]) -> Iterator[Figure]:
    """Measure every size up to the largest, each in a process with a peak of its own."""
    for size in sorted({*(size for size in SIZES if size < largest), largest}):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield process.submit(measure, size).result()


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
