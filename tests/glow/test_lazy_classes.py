import pytest
import torch

from glow.datasets import LazyDataset, open_dataset


@pytest.fixture
def five():
    labels = torch.tensor([0, 1, 2, 1, 0])
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    return LazyDataset.held(images, labels, ("cat", "dog", "7"))


@pytest.mark.parametrize(
    ("classes", "others", "left"),
    [(["cat"], False, [0, 4]), (["1"], False, [1, 3]), (["cat", "2"], True, [1, 3]), (["7"], False, [2])],
)
def test_images_of_some_classes_or_of_the_others_keep_their_labels(five, classes, others, left):
    chosen = five.of_classes(classes, others=others)
    assert chosen.images()[:, 0, 0, 0].tolist() == left
    assert chosen.labels.tolist() == five.labels[left].tolist()
    assert chosen.class_names == five.class_names


def test_the_two_halves_are_all_images():
    whole = open_dataset("digits", "test")
    halves = [whole.of_classes(["3", "8"], others=others) for others in (False, True)]
    assert sum(map(len, halves)) == len(whole)
    assert set(halves[0].labels.tolist()) == {3, 8}
    assert halves[0].fingerprint() != halves[1].fingerprint()


def test_a_class_that_there_is_not_is_named_with_those_that_there_are(five):
    with pytest.raises(ValueError, match="there is no class 'bird': use some of cat, dog, 7"):
        five.of_classes(["bird"])
    with pytest.raises(ValueError, match="without the classes cat, dog, 7 there is no image left"):
        five.of_classes(["cat", "dog", "7"], others=True)
