"""Equal images within a split and between splits."""

import torch

from glow.datasets import LazyDataset
from glow.datasets.duplicates import PIECE, duplicates


def split(images):
    return LazyDataset.held(images, torch.zeros(len(images), dtype=torch.int64))


def test_copies_are_found_whichever_piece_they_are_read_in():
    train = torch.randint(0, 256, (PIECE + 100, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train[PIECE + 50] = train[3]
    test = torch.cat([train[7:9], train[7:8] ^ 1, train[PIECE + 50 :][:1]])
    found = duplicates({"train": split(train), "test": split(test)})
    assert found.to_dict("index") == {
        "train": {"again": 1, "in train": 0, "in test": 4},  # the copy and its original are both in the test images
        "test": {"again": 0, "in train": 3, "in test": 0},
    }
