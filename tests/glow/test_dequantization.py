import numpy as np
import pytest
import torch
from scipy import stats

from glow.dequantization import _mix, dequantize, quantize, reduced, uniform_noise

SHAPE = (1, 8, 8)


def test_every_pixel_value_survives_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    for noise in (
        torch.zeros(4, 1, 8, 8),
        torch.full((4, 1, 8, 8), 0.999),
        uniform_noise(torch.arange(4), SHAPE),
    ):
        assert torch.equal(quantize(dequantize(images, noise)), images)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_round_trip_at_fewer_bits_clears_the_low_ones(bits):
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    expected = torch.tensor([k - k % 2 ** (8 - bits) for k in range(256)], dtype=torch.uint8).view(4, 1, 8, 8)
    assert torch.equal(reduced(images, bits), expected)
    for noise in (torch.zeros(4, 1, 8, 8), torch.full((4, 1, 8, 8), 0.999), uniform_noise(torch.arange(4), SHAPE)):
        x = dequantize(images, noise, bits)
        assert torch.equal(quantize(x, bits), expected)
        formula = ((images.double() / 2 ** (8 - bits)).floor() + noise.double()) / 2**bits - 0.5
        torch.testing.assert_close(x.double(), formula, atol=2**-24, rtol=0)  # two roundings, 2**-25 at most
        assert -0.5 <= x.min() < x.max() <= 0.5


def test_8_bits_are_computed_as_ever():
    """Equality to the last bit, with the order of operations that made the scores of older versions."""
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    noise = uniform_noise(torch.arange(4), SHAPE)
    x = (images.float() + noise) / 256 - 0.5
    assert torch.equal(dequantize(images, noise), x)
    assert torch.equal(quantize(x), ((x + 0.5) * 256).floor().byte())


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_the_callers_images_are_not_changed(bits):
    images = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
    dequantize(images, torch.rand(2, 1, 8, 8), bits)
    reduced(images, bits)
    assert (images == 7).all()


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        dequantize(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2))


def test_quantize_clips_what_lies_outside_and_maps_nan_to_black():
    x = torch.tensor([-9.0, 9.0, float("nan"), float("inf"), -float("inf")])
    assert quantize(x).tolist() == [0, 255, 0, 255, 0]
    assert quantize(x, bits=5).tolist() == [0, 248, 0, 248, 0]


def test_noise_is_an_images_own_in_any_batch_and_order():
    whole = uniform_noise(torch.arange(100), SHAPE, seed=3)
    some = torch.tensor([42, 7, 99])
    assert torch.equal(uniform_noise(some, SHAPE, seed=3), whole[some])


def test_the_generator_is_splitmix64():
    """The first outputs of SplitMix64 from state 0, as its authors published them."""
    golden = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
    words = [word % 2**64 for word in _mix(torch.arange(3) * golden).tolist()]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_noise_is_pinned():
    """The scores of one version must equal those of the next."""
    pinned = uniform_noise(torch.tensor([0, 1]), (1, 1, 2), seed=0).flatten().tolist()
    assert pinned == pytest.approx([0.13870937, 0.97110206, 0.58035922, 0.16438818], abs=1e-7)


def test_noise_is_uniform_and_independent_over_pixels_images_and_seeds():
    noise = uniform_noise(torch.arange(2000), SHAPE, seed=1).double().numpy().reshape(2000, 64)
    assert 0 <= noise.min() <= noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-3
    other_seed = uniform_noise(torch.arange(2000), SHAPE, seed=2).double().numpy().reshape(2000, 64)
    limit = 5 / np.sqrt(noise.size)
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1]), (noise, other_seed)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < limit
