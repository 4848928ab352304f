"""Numbers as text."""

from jobs.text import numbers


def test_numbers_that_follow_each_other_are_said_by_their_ends():
    assert numbers("epoch", [3]) == "epoch 3"
    assert numbers("epoch", [7, 2, 1, 3]) == "epochs 1 to 3, 7"
    assert numbers("epoch", [1, 3]) == "epochs 1, 3"
