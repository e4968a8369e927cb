"""The search finds what comparing every pair finds, whatever the hashes and the bits are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from Data_processing.curating.duplicates import first_of_component, near_duplicates


def compared(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """By all pairs: whether each hash has an earlier one within `bits`; the first it is connected with."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2) <= bits
    return np.tril(near, -1).any(axis=1), first_of_component(len(hashes), *np.nonzero(near))


def agree(hashes: np.ndarray, bits: int) -> None:
    """Assert that the search agrees with comparing every pair."""
    links = near_duplicates(hashes, bits)
    has_earlier, label = compared(hashes, bits)
    assert np.array_equal(links.earlier >= 0, has_earlier)
    assert np.array_equal(links.label, label)
    later = np.flatnonzero(links.earlier >= 0)
    earlier = links.earlier[later]
    assert np.all(earlier < later)
    assert np.all(np.bitwise_count(hashes[earlier] ^ hashes[later]).sum(axis=1) <= bits)


def crowds(seed: int, centres: int, members: int, spread: float, varying: int) -> np.ndarray:
    """Distinct hashes around some centres, in random order; of their bits only the first `varying` vary at all."""
    rng = np.random.default_rng(seed)
    around = rng.random((centres, 1, 256)) < 0.5
    bits = around ^ (rng.random((centres, members, 256)) < rng.uniform(0, spread, (1, members, 1)))
    bits[..., varying:] = True
    return rng.permutation(np.unique(np.packbits(bits.reshape(-1, 256), axis=1), axis=0))


CROWDS = {
    "seed": st.integers(0, 2**32),
    "centres": st.integers(1, 30),
    "members": st.integers(1, 12),
    "spread": st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.2, 0.5]),
    "varying": st.sampled_from([4, 30, 100, 256]),
}


@settings(max_examples=150, deadline=None)
@given(bits=st.one_of(st.just(24), st.integers(0, 60), st.integers(0, 256)), **CROWDS)
def test_the_search_agrees_with_comparing_every_pair(bits, **crowd):
    agree(crowds(**crowd), bits)


def test_a_pair_at_exactly_the_bits_is_near_wherever_the_bits_lie():
    rng = np.random.default_rng(0)
    base = rng.random((500, 256)) < 0.5
    far = base.copy()
    for row, limit in zip(far, [24, 25] * 250, strict=True):
        row[rng.choice(256, limit, replace=False)] ^= True
    hashes = np.packbits(np.concatenate([base, far]), axis=1)
    found = near_duplicates(hashes, 24).earlier
    assert np.array_equal(found[500:], np.where(np.arange(500) % 2, -1, np.arange(500)))


def test_a_burst_of_frames_that_look_alike_makes_no_list_of_pairs():
    burst = crowds(0, 1, 30_000, 0.05, 256)
    links = near_duplicates(burst, 24)
    assert (links.earlier >= 0).mean() > 0.9
    assert len(links.earlier) == len(burst)


def test_no_hashes_and_one_hash():
    assert len(near_duplicates(np.empty((0, 32), np.uint8), 24).label) == 0
    assert near_duplicates(np.zeros((1, 32), np.uint8), 24).earlier.tolist() == [-1]
