"""Which images are flipped."""

import numpy as np
import pytest
import torch

from glow import FitConfig, GlowConfig, Trainer
from glow.augmentation import flip_half
from glow.model import Glow
from tests.glow.flows import random_images

N = 4000
LIMIT = 5 / N**0.5
"""Five standard deviations of the mean of N signs."""


def signs(trainer, epoch):
    """-1 for every image that is flipped in an epoch, 1 for every other."""
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
    """A run that is resumed by another version must go on as it began."""
    images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2).expand(8, 1, 2, 2)
    flipped = torch.tensor([[[1, 0], [3, 2]]], dtype=torch.uint8)
    got = [torch.equal(image, flipped) for image in flip_half(images, torch.arange(8), -1)]
    # By the formula of docs/training.md in unbounded integers: the top bit of mix(mix(mix(2^64 - 1) + i)) is 0.
    assert got == [False, True, False, True, False, False, False, True]
