"""Time and memory to find the near duplicates among generated perceptual hashes, a tenth of them planted:

python -m tests.benchmarks.bench_duplicates
"""

import multiprocessing
import resource
import time

import numpy as np

from Data_processing.near_duplicates import Links, compare_all, near_duplicates

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


def measure(number: int) -> None:
    """Print a line about `number` hashes."""
    hashes = generate(number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    links = near_duplicates(hashes, BITS)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    near = int((links.earlier >= 0).sum())
    line = f"{number:>9} hashes: {seconds:6.1f} s, peak {peak // 1024} MB ({before // 1024} before), {near} near"
    if number <= COMPARED:
        every = Links(len(hashes))
        start = time.perf_counter()
        compare_all(np.ascontiguousarray(hashes.view(np.uint64).T), BITS, every)
        line += f"; {(time.perf_counter() - start) / seconds:.0f} times as fast as comparing every pair"
        assert np.array_equal(every.label, links.label)
        assert np.array_equal(every.earlier >= 0, links.earlier >= 0)
    print(line, flush=True)


if __name__ == "__main__":
    for size in (10_000, 100_000, 1_000_000):
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(size,))  # a peak of its own
        process.start()
        process.join()
