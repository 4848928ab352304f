"""Corruptions of images: type, shape, severity, seeds and labels."""

import pytest
import torch

from glow.datasets import LazyDataset, load_dataset
from glow.datasets.corruptions import CORRUPTIONS, SEVERITIES, all_corrupted, corrupted
from glowctl.specs.evaluation import CORRUPTIONS as NAMES


def digits(shape=(1, 16, 16), n=40):
    images, labels = load_dataset("digits", "test", image_shape=(shape[0], 8, 8))
    large = torch.nn.functional.interpolate(images[:n].float(), shape[1:], mode="bilinear").round().to(torch.uint8)
    return LazyDataset.held(large, labels[:n])


def test_the_command_line_names_them_all():
    assert tuple(CORRUPTIONS) == NAMES
    assert all(len(strengths) == len(SEVERITIES) for _, strengths in CORRUPTIONS.values())


@pytest.mark.parametrize(
    "shape", [(1, 16, 16), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((3, 16, 16), (1, 7, 9)))]
)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_images_keep_type_and_shape_and_change_more_with_severity(corruption, shape):
    clean = digits(shape)
    changes = []
    for severity in SEVERITIES:
        images = corrupted(clean, corruption, severity).images()
        assert images.dtype == torch.uint8
        assert images.shape == (40, *shape)
        changes.append((images.float() - clean.images().float()).abs().mean().item())
    assert changes[0] > 0 or corruption == "pixelate"  # at severity 1 it does not change images of 7x9
    assert changes[-1] > changes[0]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_every_batch(corruption):
    images = corrupted(digits(), corruption, 3, seed=5)
    assert torch.equal(images.images(10, 13), images.images()[10:13])
    assert torch.equal(images.pick(torch.tensor([12, 10])), images.images()[[12, 10]])
    assert len(images.images(0, 0)) == 0
    assert images.fingerprint() == corrupted(digits(), corruption, 3, seed=5).fingerprint()


@pytest.mark.parametrize("corruption", ["noise", "rotate", "elastic"])
def test_what_is_drawn_follows_from_the_seed(corruption):
    one, other = (corrupted(digits(), corruption, 3, seed).images() for seed in (0, 1))
    assert not torch.equal(one, other)


def test_noise_has_the_standard_deviation_of_its_severity():
    grey = LazyDataset.held(torch.full((50, 1, 16, 16), 128, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
    for severity, sd in zip(SEVERITIES, CORRUPTIONS["noise"][1], strict=True):
        assert corrupted(grey, "noise", severity).images().double().std().item() / 255 == pytest.approx(sd, rel=0.05)


def test_all_kinds_make_one_data_set_whose_labels_count_them():
    clean = digits()
    every = all_corrupted(clean, ["blur", "noise"], (1, 3), 10)
    assert every.class_names == ("blur1", "blur3", "noise1", "noise3")
    assert every.labels.tolist() == [kind for kind in range(4) for _ in range(10)]
    assert every.images(0, 10).unique(dim=0).shape[0] == 10
    blurred = {image.numpy().tobytes() for image in corrupted(clean, "blur", 3).images()}
    assert all(image.numpy().tobytes() in blurred for image in every.images(10, 20))
    assert torch.equal(every.images(25, 32), torch.cat([every.images(25, 30), every.images(30, 32)]))
    assert len(all_corrupted(clean, ["blur"], (1,), 1000)) == 40


def test_images_are_drawn_from_the_whole_data_set_because_it_may_be_ordered_by_class():
    greys = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    ordered = LazyDataset.held(greys, torch.arange(200) // 20)
    drawn = all_corrupted(ordered, ["brightness", "contrast"], (1,), 20, seed=3)
    means = drawn.images().double().mean((1, 2, 3))
    assert (means[:20] > 150).any()
    assert (means[:20] < 100).any()
    assert torch.equal(all_corrupted(ordered, ["contrast"], (1,), 20, seed=3).images(), drawn.images(20, 40))


def test_unknown_corruptions_and_severities_are_refused():
    with pytest.raises(ValueError, match=r"'fog': .*noise, blur"):
        corrupted(digits(), "fog", 1)
    with pytest.raises(ValueError, match=r"severity .*1 to 5, not 6"):
        corrupted(digits(), "blur", 6)
