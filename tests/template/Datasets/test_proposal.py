"""What is proposed to train with follows from the annotations."""

import pytest

from Datasets.format.proposal import propose


@pytest.mark.parametrize(
    ("images", "sides", "objects", "size", "epochs", "batch"),
    [
        (124, [640], [0.5, 0.9], 256, 25, 4),  # few photographs, of large objects
        (205, [640], [0.06] * 9, 352, 15, 4),  # small ones need pixels
        (205, [320], [0.06] * 9, 320, 15, 4),  # but no more than there are
        (2000, [640], [], 256, 8, 16),
        (9, [90], [0.5], 96, 60, 4),
    ],
)
def test_size_epochs_and_batch_follow_from_images_and_objects(images, sides, objects, size, epochs, batch):
    found = propose(images, sides, objects, ["cat"])
    assert (found.size, found.epochs, found.batch) == (size, epochs, batch)
    assert found.learning_rate == pytest.approx(0.003 * (batch / 4) ** 0.5)


@pytest.mark.parametrize("name", ["a", "7", "left_hand", "turn-right", "traffic sign", "Digit", "zero"])
def test_what_a_mirror_changes_is_not_flipped(name):
    assert not propose(100, [640], [], ["cat", name]).flip


@pytest.mark.parametrize("name", ["raccoon", "Platelets", "designer", "bright"])
def test_other_objects_are_flipped(name):
    assert propose(100, [640], [], ["cat", name]).flip
