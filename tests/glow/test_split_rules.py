"""The rules that assign the images of each class to splits (`glow.datasets.splits`)."""

import hashlib

import pytest
import torch

from glow.datasets.splits import _by_class, deal, first_of_each_class, hold_out


def members_class_by_class(labels):
    """The indices of each class, by one comparison of all labels per class, as in earlier versions."""
    return [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]


def held_out(labels):
    return [index for of in members_class_by_class(labels) for index in of.tolist()[len(of) - len(of) // 10 :]]


def dealt(labels, split):
    chosen = []
    for of in members_class_by_class(labels):
        order = sorted(of.tolist(), key=lambda index: hashlib.sha256(str(index).encode()).digest())
        test, validation = len(of) // 5, len(of) // 10
        bounds = {"test": (0, test), "validation": (test, test + validation), "train": (test + validation, len(of))}
        chosen += order[slice(*bounds[split])]
    return sorted(chosen)


@pytest.mark.parametrize("classes", [1, 2, 7, 100, 3000])
def test_splits_are_those_of_earlier_versions(classes):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (2000,), generator=generator)
    assert [of.tolist() for of in _by_class(labels)] == [of.tolist() for of in members_class_by_class(labels)]
    assert hold_out(labels, "validation").tolist() == sorted(held_out(labels))
    for split in ("train", "validation", "test"):
        assert deal(labels, split).tolist() == dealt(labels, split)


def test_the_first_of_each_class_are_those_of_earlier_versions():
    labels = torch.randint(10, (500,), generator=torch.Generator().manual_seed(0))
    expected = torch.cat([of[:20] for of in members_class_by_class(labels)]).sort().values
    assert torch.equal(first_of_each_class(labels, 20, "abcdefghij", "train"), expected)
