import math
from typing import Any

import pytest
import torch

from glow import Glow
from glow.dequantization import dequantize, quantize, reduced
from glow.interpolation import MARGIN, _between, _with_noise, interpolate
from tests.glow.flows import random_images, small_glow

MODELS: dict[str, dict[str, Any]] = {
    "sigmoid": {"scale": "sigmoid"},
    "bounded": {"scale": "bounded"},
    "deep bounded": {"scale": "bounded", "depth": 6, "sd": 0.05},
    "additive": {"coupling": "additive"},
    "shuffle": {"permutation": "shuffle"},
    "colour, three levels": {"image_shape": (3, 8, 8), "levels": 3},
    "conditional": {"num_classes": 3},
    "5 bits": {"bits": 5},
    "floored, logit": {"scale": "floored", "input": "logit", "sd": 0.05},
    "spline, variational": {"coupling": "spline", "dequantization": "variational", "sd": 0.05},
}


@pytest.fixture(params=MODELS)
def glow(request):
    return small_glow(**MODELS[request.param])


def pairs(glow: Glow, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    shape = glow.config.image_shape
    return random_images(n, shape, seed=1), random_images(n, shape, seed=2)


@torch.no_grad()
def latents(glow, images):
    return glow(_with_noise(glow, images))[0]


@torch.no_grad()
def test_both_images_of_every_pair_have_the_noise_of_the_model_and_it_stays_off_the_ends_of_the_bins(glow):
    images = reduced(random_images(3, glow.config.image_shape), glow.config.bits)
    images[1] = images[0]
    x = _with_noise(glow, images)
    assert torch.equal(x[0], x[1])
    assert torch.equal(quantize(x, glow.config.bits), images)
    noise = (x - dequantize(images, torch.zeros_like(x), glow.config.bits)) * glow.config.bins
    rounding = 1e-4  # of a value up to 0.5 in float32, in grey levels
    assert (noise > MARGIN - rounding).all()
    assert (noise < 1 - MARGIN + rounding).all()
    assert noise.std() > 0.1
    variational = glow.config.dequantization == "variational"
    assert torch.allclose(noise[0], noise[2], atol=rounding) != variational  # only a noise flow looks at the image


@pytest.mark.parametrize("mode", ["linear", "slerp"])
@pytest.mark.parametrize(
    "steps", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.slow)]
)
def test_the_ends_are_the_real_images(glow, mode, steps):
    start, end = pairs(glow)
    got = interpolate(glow, start, end, steps, mode)
    assert got.images.shape == (4, steps, *glow.config.image_shape)
    assert got.images.dtype == torch.uint8
    assert torch.equal(got.images[:, 0], reduced(start, glow.config.bits))
    assert torch.equal(got.images[:, -1], reduced(end, glow.config.bits))
    assert (got.end_error < MARGIN).all()
    assert got.non_finite == 0


def test_black_and_white_images_are_ends_too(glow):
    shape = (1, *glow.config.image_shape)
    black, white = torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 255, dtype=torch.uint8)
    got = interpolate(glow, black, white, 3)
    assert torch.equal(got.images[:, [0, 2]], reduced(torch.stack([black, white], 1), glow.config.bits))


def test_the_end_error_is_that_of_the_inverse(glow):
    start, end = pairs(glow)
    got = interpolate(glow, start, end, 4).end_error
    with torch.no_grad():
        wrong = [(glow.inverse(latents(glow, images)) - _with_noise(glow, images)).abs() for images in (start, end)]
    expected = glow.config.bins * torch.stack(wrong).transpose(0, 1).flatten(1).amax(1)
    assert got.shape == (4,)
    assert (got > 0).all()
    torch.testing.assert_close(got, expected)
    assert (interpolate(glow.double(), start, end, 2).end_error < 1e-6).all()


def test_ends_that_are_not_the_real_images_are_told_of():
    """The weights are so large that float32 cannot invert the flow."""
    glow = small_glow(scale="bounded", depth=6)
    start, end = pairs(glow, 32)
    got = interpolate(glow, start, end, 2)
    real = (got.images == torch.stack([start, end], 1)).flatten(1).all(1)
    assert real.any()
    assert not real.all()
    assert (got.end_error[~real] >= MARGIN).all()


def with_inverse(monkeypatch, glow, change):
    """Let `change` spoil what the flow decodes; it receives the images and the number of the step."""
    whole, calls = glow.inverse, iter(range(99))
    monkeypatch.setattr(glow, "inverse", lambda latents: change(whole(latents), next(calls)))


@pytest.mark.parametrize(("step", "pair"), [(0, 0), (0, 1), (2, 1)])
def test_an_inexact_inverse_is_told_of(monkeypatch, step, pair):
    glow = small_glow()
    start, end = pairs(glow, 2)

    def change(x, call):
        if call == step:
            x[pair, 0, 5, 3] -= 3 / 256
        return x

    with_inverse(monkeypatch, glow, change)
    got = interpolate(glow, start, end, 3)
    assert got.end_error[pair] == pytest.approx(3, abs=0.05)
    assert got.end_error[1 - pair] < 0.05
    assert not torch.equal(got.images[pair, step], (start, end)[step // 2][pair])


def test_what_lies_between_the_ends_is_no_error(monkeypatch):
    glow = small_glow()
    with_inverse(monkeypatch, glow, lambda x, call: x + (call == 1))
    assert (interpolate(glow, *pairs(glow), 3).end_error < 0.05).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("step", "error"), [(0, True), (1, False), (2, True)])
def test_images_with_a_pixel_that_is_not_finite_are_counted(monkeypatch, bad, step, error):
    glow = small_glow()

    def change(x, call):
        if call == step:
            x[:3, 0, 0, :2] = bad
        return x

    with_inverse(monkeypatch, glow, change)
    got = interpolate(glow, *pairs(glow), 3)
    assert got.non_finite == 3
    assert got.end_error.isinf().tolist() == [error] * 3 + [False]
    assert (got.images[:3, step, 0, 0, :2] == (255 if bad == math.inf else 0)).all()


def test_linear_steps_decode_weighted_means_of_the_latents(glow):
    glow = glow.double()
    start, end = pairs(glow)
    got = interpolate(glow, start, end, 5).images
    z_0, z_1 = latents(glow, start), latents(glow, end)
    for step, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        mean = [a * (1 - t) + b * t for a, b in zip(z_0, z_1, strict=True)]
        with torch.no_grad():
            assert torch.equal(got[:, step], quantize(glow.inverse(mean), glow.config.bits))
    assert not torch.equal(got[:, 2], (start.double() * 0.5 + end.double() * 0.5).floor().byte())


def test_slerp_decodes_the_arc_in_each_level(glow):
    glow = glow.double()
    start, end = pairs(glow, 3)
    between = []
    for z_0, z_1 in zip(latents(glow, start), latents(glow, end), strict=True):
        point = torch.empty_like(z_0)
        for pair in range(3):
            a, b = z_0[pair].flatten(), z_1[pair].flatten()
            angle = math.acos(a @ b / (a.norm() * b.norm()))
            point[pair] = (math.sin(0.7 * angle) * z_0[pair] + math.sin(0.3 * angle) * z_1[pair]) / math.sin(angle)
        between.append(point)
    got = interpolate(glow, start, end, 11, "slerp").images
    with torch.no_grad():
        assert torch.equal(got[:, 3], quantize(glow.inverse(between), glow.config.bits))
    assert not torch.equal(got, interpolate(glow, start, end, 11).images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.1, 1.0, math.pi / 2, 3.0])
def test_slerp_of_latents_of_one_norm_keeps_it_and_turns_evenly(angle, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 48, generator=generator, dtype=torch.float64)
    y -= (x @ y) / (x @ x) * x
    y *= x.norm() / y.norm()
    z_0, z_1 = (v.to(dtype).view(1, 3, 4, 4) for v in (x, math.cos(angle) * x + math.sin(angle) * y))
    for t in (0.1, 0.5, 0.8):
        got = _between(z_0, z_1, t, "slerp").double().flatten()
        torch.testing.assert_close(got.norm(), x.norm(), rtol=1e-5, atol=0)
        expected = math.cos(t * angle) * x + math.sin(t * angle) * y
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_linear_steps_leave_the_norm_that_slerp_keeps():
    z_0, z_1 = torch.randn(2, 1, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    z_1 = z_1 * z_0.norm() / z_1.norm()
    ratio = {mode: float(_between(z_0, z_1, 0.5, mode).norm() / z_0.norm()) for mode in ("linear", "slerp")}
    assert ratio["linear"] == pytest.approx(2**-0.5, abs=0.05)
    assert ratio["slerp"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", ["linear", "slerp"])
@pytest.mark.parametrize("double", [False, True])
def test_between_an_image_and_itself_nothing_changes(glow, mode, double):
    glow = glow.double() if double else glow
    start, _ = pairs(glow)
    got = interpolate(glow, start, start, 6, mode)
    assert torch.equal(got.images, reduced(start, glow.config.bits)[:, None].expand_as(got.images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_opposite_or_no_latents_goes_no_further_out(dtype):
    z = torch.randn(2, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for z_1 in (-z, torch.zeros_like(z)):
        assert _between(z, z_1, 0.3, "slerp").norm() < 1.01 * z.norm()


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_pairs_do_not_depend_on_each_other(mode):
    glow = small_glow().double()
    start, end = pairs(glow)
    together = interpolate(glow, start, end, 5, mode).images
    for pair in range(4):
        alone = interpolate(glow, start[pair][None], end[pair][None], 5, mode).images
        assert torch.equal(alone[0], together[pair])


def test_the_way_back_is_the_way_there_in_reverse():
    glow = small_glow().double()
    start, end = pairs(glow)
    for mode in ("linear", "slerp"):
        there, back = interpolate(glow, start, end, 6, mode).images, interpolate(glow, end, start, 6, mode).images
        assert (there.int() - back.flip(1).int()).abs().max() <= 1


def test_the_callers_images_are_not_changed():
    glow = small_glow()
    start, end = pairs(glow)
    before = start.clone(), end.clone()
    interpolate(glow, start, end, 3, "slerp")
    assert torch.equal(start, before[0])
    assert torch.equal(end, before[1])


@pytest.mark.parametrize(
    ("start", "end", "changes", "message"),
    [
        (random_images(2), random_images(2), {"steps": 1}, "steps .*2, not 1"),
        (random_images(2), random_images(2), {"mode": "cubic"}, "linear .*slerp, not 'cubic'"),
        (random_images(2, (3, 8, 8)), random_images(2), {}, r"\(1, 8, 8\), not \(3, 8, 8\)"),
        (random_images(2), random_images(2, (1, 16, 8)), {}, r"\(1, 8, 8\), not \(1, 16, 8\)"),
        (random_images(2), random_images(3), {}, "2 .*3 .*pair"),
        (random_images(2).float(), random_images(2).float(), {}, "uint8"),
        (random_images(2), random_images(2).float(), {}, "uint8"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(start, end, changes, message):
    with pytest.raises(ValueError, match=message):
        interpolate(small_glow(), start, end, **changes)
