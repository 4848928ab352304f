"""The images that training flips, and the numbers that it mutates."""

import numpy as np
import pytest
import torch

from glow import FitConfig, GlowConfig, Trainer
from glow.model import Glow
from glow.training.augmentation import flip_half, mutate
from tests.glow.flows import random_images

N = 4000
LIMIT = 5 / N**0.5
"""Five standard deviations of the mean of N signs."""


def signs(trainer, epoch):
    """Return -1 for each image that is flipped in an epoch, and 1 for each other."""
    batch = trainer.images.take(torch.arange(N))
    x = trainer._augmented(batch, epoch)
    flipped = (x == batch.images_BCHW.flip(3)).flatten(1).all(1)
    assert torch.equal(x[~flipped], batch.images_BCHW[~flipped])
    return 1 - 2 * flipped.double().numpy()


@pytest.fixture
def trainer():
    model = Glow(GlowConfig(image_shape=(3, 2, 4), levels=1, depth=1, width=1))
    return Trainer(model, random_images(N, (3, 2, 4)), config=FitConfig(flip=True, seed=3))


def test_half_of_the_images_are_flipped_independently_of_each_other_and_of_other_epochs(trainer):
    first, second = signs(trainer, 0), signs(trainer, 1)
    for independent in (first, second, first * second, first[1:] * first[:-1]):
        assert abs(independent.mean()) < LIMIT


def test_flips_are_independent_of_the_noise(trainer):
    noise = 2 * trainer._noise(torch.arange(N), 0).flatten(1).double().numpy() - 1
    assert abs(np.corrcoef(signs(trainer, 0), noise[:, 0])[0, 1]) < LIMIT


def test_another_seed_flips_others(trainer):
    other = Trainer(trainer.model, random_images(N, (3, 2, 4)), config=FitConfig(flip=True, seed=4))
    assert abs((signs(trainer, 0) * signs(other, 0)).mean()) < LIMIT


def test_an_image_is_flipped_or_not_in_any_batch_and_order():
    images, some = random_images(100), torch.tensor([42, 7, 99])
    whole = flip_half(images, torch.arange(100), 5)
    assert torch.equal(flip_half(images[some], some, 5), whole[some])


def test_flips_are_pinned_and_go_from_left_to_right():
    """A run that another version resumes must continue as it began."""
    images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2).expand(8, 1, 2, 2)
    flipped = torch.tensor([[[1, 0], [3, 2]]], dtype=torch.uint8)
    got = [torch.equal(image, flipped) for image in flip_half(images, torch.arange(8), -1)]
    # By the formula of docs/format.md in unbounded integers: the top bit of mix(mix(mix(2^64 - 1) + i)) is 0.
    assert got == [False, True, False, True, False, False, False, True]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_so_many_numbers_are_replaced_by_any_value_as_likely(rate):
    grey = torch.full((300, 3, 8, 8), 128, dtype=torch.uint8)
    found = mutate(grey, torch.arange(300), rate, 3)
    assert found.dtype == torch.uint8
    changed = found[found != 128].double()
    n = grey.numel()
    expected = rate * 255 / 256  # a value may be replaced by itself
    assert abs(len(changed) / n - expected) < 5 * (expected * (1 - expected) / n) ** 0.5
    assert abs(changed.mean() - 127.5) < 5 * 73.9 / len(changed) ** 0.5
    assert {changed.min().item(), changed.max().item()} == {0, 255}


def test_what_is_replaced_follows_from_index_and_seed_alone():
    images, indices = random_images(6, (1, 4, 4)), torch.tensor([9, 4, 2, 0, 7, 1])
    whole = mutate(images, indices, 0.3, 5)
    assert torch.equal(mutate(images[2:4], indices[2:4], 0.3, 5), whole[2:4])
    assert not torch.equal(mutate(images, indices, 0.3, 6), whole)
    assert mutate(images, indices, 0.0, 5) is images


def test_an_epoch_trains_on_mutated_images_that_are_others_in_the_next_and_scores_none():
    model = Glow(GlowConfig(image_shape=(3, 2, 4), levels=1, depth=1, width=1))
    trainer = Trainer(model, random_images(N, (3, 2, 4)), config=FitConfig(mutation=0.2, flip=True, seed=3))
    batch = trainer.images.take(torch.arange(N))
    first, second = (trainer._augmented(batch, epoch) for epoch in (0, 1))
    unflipped = Trainer(model, batch.images_BCHW, config=FitConfig(flip=True, seed=3))._augmented(batch, 0)
    share = (first != unflipped).double().mean().item()
    assert share == pytest.approx(0.2, abs=0.01)
    assert not torch.equal(first, second)


def test_a_rate_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"mutation.*not 1"):
        FitConfig(mutation=1.0)
