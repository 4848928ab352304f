"""The images of some classes of a data set, and those of the others."""

import pytest
import torch

from glow.datasets import LazyDataset


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


def test_an_unknown_class_is_refused_with_the_known_ones(five):
    with pytest.raises(ValueError, match=r"'bird': .*cat, dog, 7"):
        five.of_classes(["bird"])
    with pytest.raises(ValueError, match=r"without .*cat, dog, 7"):
        five.of_classes(["cat", "dog", "7"], others=True)
    with pytest.raises(ValueError, match=r" of .*\bdog\b"):
        five.of_classes(["cat"]).of_classes(["dog"])
