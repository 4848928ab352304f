import copy
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from glow import uniform_noise
from glow.latent_statistics import anderson_darling, second_moments, spectrum_variation
from glow.scoring import complexity, score
from tests.glow.flows import random_images, small_glow

MODELS: dict[str, dict[str, Any]] = {
    "affine": {"depth": 6},
    "bounded": {"depth": 6, "scale": "bounded", "sd": 0.05},
    "additive shuffle": {"coupling": "additive", "permutation": "shuffle"},
    "colour": {"image_shape": (3, 8, 8)},
    "one level": {"levels": 1},
    "three levels": {"levels": 3},
    "conditional": {"num_classes": 3},
    "floored, logit": {"scale": "floored", "input": "logit"},
    "spline, variational": {"coupling": "spline", "dequantization": "variational"},
    "checkerboard, residual": {"checkerboard": 2, "network": "residual"},
    "attention": {"network": "attention"},
}


@pytest.fixture(params=MODELS)
def glow(request):
    return small_glow(**MODELS[request.param])


def images_for(glow, n=23):
    return random_images(n, glow.config.image_shape)


def terms(table):
    """The columns of the log-det and of log p(z) of each level."""
    return table.filter(regex="^log_det$|^log_prior").to_numpy()


def test_a_table_has_these_columns_and_types(glow):
    table = score(glow, images_for(glow, 5))
    levels = [f"log_{part}_{level}" for part in ("prior", "det") for level in range(1, glow.config.levels + 1)]
    moments = [f"latent_{what}_{k}" for what in ("power", "rows", "columns") for k in range(1, glow.config.levels + 1)]
    latents = ["latent_anderson", "latent_spectrum", "latent_neighbours", *moments]
    likelihood = ["nll", "bits_per_dim", "log_det", *levels]
    assert list(table) == ["index", "label", *likelihood, *latents, "finite", "complexity"]
    kinds = {"index": "int64", "label": "int64", "finite": "bool"}
    assert {name: str(kind) for name, kind in table.dtypes.items()} == dict.fromkeys(table, "float64") | kinds
    assert table["finite"].all()


def test_float32_scores_are_those_of_a_float64_model(glow):
    images = images_for(glow)
    table, exact = score(glow, images), score(copy.deepcopy(glow).double(), images)
    assert not np.array_equal(table["nll"], exact["nll"])
    np.testing.assert_allclose(table["nll"], exact["nll"], rtol=1e-5)
    np.testing.assert_allclose(table["bits_per_dim"], exact["bits_per_dim"], rtol=1e-5)


def test_the_nll_is_the_sum_of_its_parts(glow):
    table = score(glow, images_for(glow))
    expected = glow.config.dimensions * math.log(256) - terms(table).sum(1)
    np.testing.assert_allclose(table["nll"], expected, rtol=1e-12)
    np.testing.assert_allclose(table["bits_per_dim"], table["nll"] / glow.config.dimensions / math.log(2), rtol=1e-12)


def test_scores_are_the_models_own_with_the_noise_of_each_index(glow):
    images, indices = images_for(glow, 7), torch.tensor([4, 900, 0, 5, 2**40, 7, 8])
    noise = uniform_noise(indices, glow.config.image_shape, seed=3)
    table = score(glow, images, indices_N=indices, seed=3, batch_size=4)
    with torch.no_grad():
        bits = glow.bits_per_dim(images, noise_BCHW=noise).double().numpy()
        expected = glow.log_prob_terms(images, noise_BCHW=noise)
    np.testing.assert_allclose(table["bits_per_dim"], bits, rtol=1e-5)
    likelihood = torch.cat([expected.log_det()[:, None], expected.log_prior_BL], 1)
    np.testing.assert_allclose(terms(table), likelihood.numpy(), rtol=1e-5, atol=1e-4)
    by_level = table.filter(regex="^log_det_").to_numpy()
    np.testing.assert_allclose(by_level, expected.log_det_BL.numpy(), rtol=1e-5, atol=1e-4)
    numbers = torch.cat([level.flatten(1) for level in expected.standardized], 1)
    # The statistic is a sum of D logs minus D, so that it contains the rounding of D float32 numbers.
    rounding = glow.config.dimensions * 1e-5
    np.testing.assert_allclose(table["latent_anderson"], anderson_darling(numbers), rtol=1e-4, atol=rounding)
    np.testing.assert_allclose(table["latent_spectrum"], spectrum_variation(numbers), rtol=1e-3)
    moments = second_moments(expected.standardized)
    np.testing.assert_allclose(table["latent_neighbours"], moments.portmanteau(), rtol=1e-3)
    np.testing.assert_allclose(table.filter(like="latent_power"), moments.power_BL, rtol=1e-4)
    np.testing.assert_allclose(table.filter(like="latent_rows"), moments.rows_BL, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 1000])
def test_scores_do_not_depend_on_the_batch_size(glow, batch_size):
    images = images_for(glow)
    pd.testing.assert_frame_equal(
        score(glow, images, batch_size=batch_size), score(glow, images), rtol=1e-6, atol=1e-4, check_exact=False
    )


def test_scores_do_not_depend_on_order_or_company(glow):
    images, labels = images_for(glow), torch.arange(23) % 3
    table = score(glow, images, labels)
    chosen = torch.randperm(23, generator=torch.Generator().manual_seed(0))[:11]
    some = score(glow, images[chosen], labels[chosen], indices_N=chosen, batch_size=4)
    expected = table.iloc[chosen.numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, rtol=1e-6, atol=1e-4)


def test_an_image_is_scored_with_the_noise_of_its_index_and_the_seed():
    glow, images, indices = small_glow().double(), random_images(1).expand(3, -1, -1, -1), torch.tensor([0, 1, 0])
    first, other_index, same_index = score(glow, images, indices_N=indices)["nll"]
    other_seed = score(glow, images, indices_N=indices, seed=1)["nll"][0]
    assert first == pytest.approx(same_index, rel=1e-12)
    assert first != pytest.approx(other_index, rel=1e-7)
    assert first != pytest.approx(other_seed, rel=1e-7)


def test_indices_count_from_0_and_labels_are_0_if_none_are_given():
    glow, images = small_glow(), random_images(5)
    table = score(glow, images)
    assert table["index"].tolist() == [0, 1, 2, 3, 4]
    assert table["label"].tolist() == [0] * 5
    labels = torch.tensor([2, 0, 1, 2, 2])
    assert score(glow, images, labels)["label"].tolist() == labels.tolist()


def test_a_conditional_model_is_asked_for_the_mixture_whatever_the_labels():
    glow, images = small_glow(num_classes=3), random_images(6)
    table = score(glow, images, torch.tensor([0, 1, 2, 0, 1, 2]))
    np.testing.assert_array_equal(table["nll"], score(glow, images)["nll"])
    noise = uniform_noise(torch.arange(6), (1, 8, 8))
    with torch.no_grad():
        of_class = torch.stack([glow.log_prob(images, torch.full((6,), label), noise) for label in range(3)])
    assert of_class.std(0).min() > 0
    np.testing.assert_allclose(table["nll"], math.log(3) - of_class.double().logsumexp(0), rtol=1e-5)


@pytest.mark.parametrize("network", ["plain", "residual", "attention"])
def test_bf16_moves_scores_by_0_02_bits_at_most(network):
    glow, images = small_glow(depth=6, network=network), random_images(64)
    exact, rounded = (score(glow, images, precision=precision) for precision in ("float32", "bf16"))
    difference = np.abs(exact["bits_per_dim"] - rounded["bits_per_dim"])
    assert 0 < difference.max() < 0.02
    # Each call sets the precision anew.
    np.testing.assert_array_equal(score(glow, images)["nll"], exact["nll"])


def test_the_callers_images_labels_and_weights_are_not_changed():
    glow, images, labels, indices = small_glow(), random_images(5), torch.arange(5), torch.arange(5) + 3
    before = [tensor.clone() for tensor in (images, labels, indices, *glow.state_dict().values())]
    score(glow, images, labels, indices_N=indices, batch_size=2)
    after = [images, labels, indices, *glow.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in glow.parameters())


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("part", ["log-det", "prior"])
def test_images_whose_scores_are_not_finite_are_marked_and_kept(monkeypatch, bad, part):
    glow, images = small_glow(), random_images(6)
    images[[1, 4]] = 255
    clean = score(glow, images)
    whole = glow.log_prob_terms

    def broken(images_BCHW, **noise):
        found = whole(images_BCHW, **noise)
        white = (images_BCHW == 255).flatten(1).all(1)
        (found.log_det_BL if part == "log-det" else found.log_prior_BL)[white, 1] = bad
        return found

    monkeypatch.setattr(glow, "log_prob_terms", broken)
    table = score(glow, images, batch_size=4)
    assert table["finite"].tolist() == [True, False, True, True, False, True]
    assert not np.isfinite(table["nll"][[1, 4]]).any()
    assert not np.isfinite(table["bits_per_dim"][[1, 4]]).any()
    others = [0, 2, 3, 5]
    pd.testing.assert_frame_equal(table.iloc[others], clean.iloc[others], rtol=1e-6, atol=1e-4)


def test_a_model_that_overflows_gives_scores_that_are_not_finite_without_a_warning():
    table = score(small_glow(sd=1e30), random_images(3))
    assert len(table) == 3
    assert not table["finite"].any()


def test_no_images_give_an_empty_table_of_the_same_columns_and_types(glow):
    empty, table = score(glow, images_for(glow, 0)), score(glow, images_for(glow, 2))
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, table.dtypes)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_images(2, (3, 8, 8)), r"1, 8, 8.*3, 8, 8"),
        (random_images(2).float(), "uint8"),
    ],
)
def test_images_that_are_not_the_models_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        score(small_glow(), images)


def smooth(channels, size=32):
    y, x, channel = torch.arange(size)[:, None], torch.arange(size), torch.arange(channels)[:, None, None]
    return (127 + 60 * (x / 5 + channel).sin() + 60 * (y / 7).cos()).byte()[None]


@pytest.mark.parametrize("channels", [1, 3])
def test_complexity_orders_images_from_constant_to_noise(channels):
    black = torch.zeros(1, channels, 32, 32, dtype=torch.uint8)
    noise = random_images(1, (channels, 32, 32))
    bits = complexity(torch.cat([black, black + 200, smooth(channels), noise]))
    assert bits[0] == 0
    assert 0 <= bits[1] < 0.1 * bits[2]
    assert bits[2] < 0.8 * bits[3]
    # Noise cannot be compressed: it takes 8 bits per pixel, one filter byte per row, and little more.
    assert 0.97 < bits[3] / (8 * noise.numel()) < 1.1


def test_images_of_more_channels_than_a_png_has_are_scored():
    model = small_glow(image_shape=(6, 8, 8))
    images = torch.cat([torch.zeros(1, 6, 8, 8, dtype=torch.uint8), random_images(1, (6, 8, 8))])
    black, noise = score(model, images)["complexity"]
    assert black == 0
    assert noise > 0.9 * 8 * 6 * 8 * 8


def test_complexity_is_an_images_own_and_what_a_table_says():
    images = torch.cat([random_images(3, (3, 8, 8)), smooth(3, 8)])
    bits = complexity(images)
    np.testing.assert_array_equal(complexity(images.flip(0)), bits[::-1])
    np.testing.assert_array_equal([complexity(image[None])[0] for image in images], bits)
    np.testing.assert_array_equal(score(small_glow(image_shape=(3, 8, 8)), images)["complexity"], bits)


def test_scores_of_a_model_of_fewer_bits_are_of_what_it_sees():
    glow, images = small_glow(image_shape=(3, 8, 8), bits=4), random_images(5, (3, 8, 8))
    table = score(glow, images)
    bits = glow.bits_per_dim(images, noise_BCHW=uniform_noise(torch.arange(5), (3, 8, 8)))
    np.testing.assert_allclose(table["bits_per_dim"], bits.detach(), rtol=1e-6)
    clipped = (images // 16) * 16
    np.testing.assert_array_equal(table["complexity"], complexity(clipped))
    pd.testing.assert_frame_equal(score(glow, clipped), table)
    assert (table["complexity"] < complexity(images)).all()


def test_the_complexity_of_no_images_is_empty():
    assert complexity(random_images(0)).shape == (0,)
