"""The batches of an epoch, for images in memory and mapped ones."""

import errno

import numpy as np
import pytest
import torch

from glow.datasets import LazyDataset
from glow.training.batches import BLOCK, WINDOW, BlockOrder, HeldImages, MappedImages

CPU = torch.device("cpu")
SIZES = [1, 2, BLOCK, BLOCK + 1, 3 * BLOCK - 1, BLOCK * WINDOW, BLOCK * WINDOW + 7, 3 * BLOCK * WINDOW + 300]


def mapped(n: int) -> LazyDataset:
    """Make n images of one pixel, whose value is their position modulo 251."""
    images = torch.arange(n).remainder(251).to(torch.uint8).view(n, 1, 1, 1)
    return LazyDataset(torch.arange(n), ("a",), (1, 1, 1), lambda positions: images[positions], mapped=True)


@pytest.mark.parametrize("n", SIZES)
def test_every_image_comes_once(n):
    order = BlockOrder(n, stream=5)[0:n]
    assert torch.equal(order.sort().values, torch.arange(n))


@pytest.mark.parametrize("n", SIZES)
def test_an_order_is_the_same_in_whatever_pieces_it_is_asked_for(n):
    whole = BlockOrder(n, stream=5)[0:n]
    order = BlockOrder(n, stream=5)
    for size in (7, 1000, n):
        starts = range(0, n, size) if size > 100 else range(0, min(n, 2000), size)
        for start in reversed(starts):
            assert torch.equal(order[start : start + size], whole[start : start + size])


def test_orders_differ_between_epochs():
    orders = [BlockOrder(5000, stream)[0:5000] for stream in range(1, 4)]
    assert all((one != other).float().mean() > 0.99 for one in orders for other in orders if one is not other)


def test_images_of_a_window_are_shuffled_together_and_come_of_few_places():
    """A window reads `WINDOW` runs of the disk, and neighbours in the order are no neighbours on the disk."""
    n = 40 * BLOCK * WINDOW
    window = BlockOrder(n, stream=5)[0 : BLOCK * WINDOW]
    blocks, counts = (window // BLOCK).unique(return_counts=True)
    assert len(blocks) == WINDOW
    assert (counts == BLOCK).all()
    steps = window.diff().abs()
    assert (steps == 1).float().mean() < 0.01
    # The blocks come from the whole data set: their mean position is within 5 standard errors of its middle.
    spread = n / np.sqrt(12 * WINDOW)
    assert abs(window.double().mean().item() - n / 2) < 5 * spread


def test_small_data_sets_are_shuffled_as_one():
    """Every image is equally likely to come first: a chi-squared test of 600 orders over 6 groups of 100 images."""
    firsts = torch.tensor([int(BlockOrder(600, stream)[0:1]) // 100 for stream in range(600)])
    counts = firsts.bincount(minlength=6)
    assert ((counts - 100) ** 2 / 100).sum() < 27  # the 0.99995 quantile of chi-squared with 5 degrees of freedom


def test_held_and_mapped_images_are_taken_alike():
    dataset = mapped(1000)
    held = HeldImages(dataset.images(), dataset.labels, CPU)
    read = MappedImages(dataset, labelled=True, device=CPU)
    shares = [torch.tensor([5, 900, 31]), torch.tensor([0]), torch.tensor([999, 1, 2, 3])]
    for one, other in zip(held.batches(shares), read.batches(iter(shares)), strict=True):
        assert one.labels_B is not None
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert next(iter(MappedImages(dataset, labelled=False, device=CPU).batches(shares))).labels_B is None


def test_what_goes_wrong_while_images_are_read_ahead_is_raised():
    def fails(positions: torch.Tensor) -> torch.Tensor:
        raise OSError(errno.EIO, "gone")

    dataset = LazyDataset(torch.zeros(9, dtype=torch.int64), ("a",), (1, 1, 1), fails, mapped=True)
    with pytest.raises(OSError, match="gone") as failed:
        list(MappedImages(dataset, labelled=False, device=CPU).batches([torch.tensor([1])]))
    assert failed.value.errno == errno.EIO


def test_a_batch_is_cut_into_parts():
    batch = HeldImages(mapped(10).images(), torch.arange(10), CPU).take(torch.arange(7))
    parts = batch.parts(3)
    assert [len(part.indices_B) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.images_BCHW for part in parts]), batch.images_BCHW)
    assert torch.equal(torch.cat([part.labels_B for part in parts if part.labels_B is not None]), torch.arange(7))
    assert all(part.labels_B is None for part in batch._replace(labels_B=None).parts(3))
