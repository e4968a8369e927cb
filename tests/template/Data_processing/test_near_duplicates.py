"""The search finds what comparing every pair finds, whatever the hashes and the bits are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import Data_processing.curating.near_duplicates as module
from Data_processing.curating.near_duplicates import choose_parts, first_of_component, near_duplicates


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


@pytest.fixture
def searching(monkeypatch):
    """No number of hashes is few enough to compare every pair at once, and every batch is small."""
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(module, "BATCH", 50)
    monkeypatch.setattr(module, "BLOCK", 16)


CROWDS = {
    "seed": st.integers(0, 2**32),
    "centres": st.integers(1, 30),
    "members": st.integers(1, 12),
    "spread": st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.2, 0.5]),
    "varying": st.sampled_from([4, 30, 100, 256]),
}


@pytest.mark.parametrize("budget", ["as it is", "unlimited", "none"])
def test_the_search_agrees_with_comparing_every_pair(searching, monkeypatch, budget):
    if budget == "unlimited":
        monkeypatch.setattr(module, "BUDGET", 1e9)
    if budget == "none":
        monkeypatch.setattr(module, "BUDGET", 0)

    @settings(max_examples=80, deadline=None)
    @given(bits=st.one_of(st.just(24), st.integers(0, 60), st.integers(0, 256)), **CROWDS)
    def check(bits, **crowd):
        agree(crowds(**crowd), bits)

    check()


@given(bits=st.integers(0, 256), seed=st.integers(0, 99))
def test_parts_are_disjoint_and_their_tolerances_leave_no_pair_out(bits, seed):
    parts = choose_parts(np.random.default_rng(seed).integers(0, 256, (50, 32), dtype=np.uint8), bits)
    places = [place for chosen, _ in parts for place in chosen]
    assert len(places) == len(set(places))
    assert not parts or sum(tolerance + 1 for _, tolerance in parts) == bits + 1
    assert parts or bits > 60


def test_a_pair_at_exactly_the_bits_is_near_wherever_the_bits_lie(searching):
    rng = np.random.default_rng(0)
    base = rng.random((500, 256)) < 0.5
    far = base.copy()
    for row, limit in zip(far, [24, 25] * 250, strict=True):
        row[rng.choice(256, limit, replace=False)] ^= True
    hashes = np.packbits(np.concatenate([base, far]), axis=1)
    found = near_duplicates(hashes, 24).earlier
    assert np.array_equal(found[500:], np.where(np.arange(500) % 2, -1, np.arange(500)))


def test_a_pair_that_agrees_in_one_part_only_is_found_among_crowds(searching, monkeypatch):
    rng = np.random.default_rng(0)
    parts = choose_parts(rng.integers(0, 256, (1000, 32), dtype=np.uint8), 24)
    monkeypatch.setattr(module, "choose_parts", lambda hashes, bits: parts)
    monkeypatch.setattr(module, "BUDGET", 1e9)
    crowds = []
    for number in [n for n, (_, tolerance) in enumerate(parts) if tolerance] * 4:
        one = rng.random(256) < 0.5
        other = one.copy()
        for part, (places, tolerance) in enumerate(parts):  # one bit too many in every part but that of `number`
            other[rng.permutation(places)[: tolerance if part == number else tolerance + 1]] ^= True
        members = np.repeat([one, other], 8, axis=0)
        flipped = np.flatnonzero(one != other)
        inside = np.intersect1d(flipped, parts[number][0])
        for member in members[1::2]:  # half of each crowd lies on the other side of the bit that may differ
            member[inside] ^= True
        unused = np.setdiff1d(parts[number - 1][0], flipped)
        for index in [*range(1, 8), *range(9, 16)]:
            members[index, rng.choice(unused, 2, replace=False)] ^= True
        crowds.append(members)
    agree(rng.permutation(np.unique(np.packbits(np.concatenate(crowds), axis=1), axis=0)), 24)


def test_a_burst_of_frames_that_look_alike_makes_no_list_of_pairs():
    burst = crowds(0, 1, 30_000, 0.05, 256)
    links = near_duplicates(burst, 24)
    assert (links.earlier >= 0).mean() > 0.9
    assert len(links.earlier) == len(burst)


def test_no_hashes_and_one_hash():
    assert len(near_duplicates(np.empty((0, 32), np.uint8), 24).label) == 0
    assert near_duplicates(np.zeros((1, 32), np.uint8), 24).earlier.tolist() == [-1]
