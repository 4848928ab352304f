import math
import subprocess
import sys

import pytest
import torch
from torch.distributions import Normal, StudentT

from glow import Glow, GlowConfig, uniform_noise
from glow.dequantization import dequantize, reduced
from glow.layers import FixedPermutation
from glow.layers.base import Layer
from glow.model import LogProbTerms
from tests.glow.flows import gradients, jacobian_log_det, perturb, random_images, rounding_error, small_glow

VARIANTS = [
    {"permutation": permutation, "coupling": coupling, "scale": scale}
    for permutation in ("1x1", "shuffle", "reverse")
    for coupling, scale in (("affine", "sigmoid"), ("affine", "bounded"), ("additive", "sigmoid"))
] + [
    {"scale": "floored", "input": "logit"},
    {"coupling": "spline", "dequantization": "variational"},
    {"checkerboard": 3, "scale": "bounded"},
    {"network": "residual", "dequantization": "variational"},
    {"network": "attention", "dequantization": "variational", "checkerboard": 2},
    {"actnorm": "off", "permutation": "reverse", "checkerboard": 1},
]


def variant_id(variant):
    return "-".join(map(str, variant.values()))


@pytest.fixture(params=VARIANTS, ids=variant_id)
def glow(request):
    """A Glow of two levels over tiny colour images, so that the Jacobian is small."""
    return small_glow(image_shape=(3, 4, 4), **request.param).double()


def test_log_det_is_that_of_the_autograd_jacobian(glow):
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64) - 0.5
    latents, log_det = glow(x)
    assert [tuple(z.shape[1:]) for z in latents] == glow.config.latent_shapes
    assert sum(z[0].numel() for z in latents) == glow.config.dimensions

    def flat(v):
        return torch.cat([z.flatten(1) for z in glow(v)[0]], 1)

    for image, expected in zip(x, log_det, strict=True):
        torch.testing.assert_close(jacobian_log_det(flat, image), expected, atol=1e-8, rtol=1e-8)


INPUTS = {
    "random": torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5,
    "black": torch.full((1, 3, 4, 4), -0.5),
    "white": torch.full((1, 3, 4, 4), 0.5),
    "checkerboard": ((torch.arange(16).view(1, 1, 4, 4) % 2) - 0.5).expand(1, 3, 4, 4),
    "far outside": torch.full((1, 3, 4, 4), 20.0),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inverse_undoes_forward_on_any_input(glow, kind):
    """20 such errors are allowed: forward and inverse have eight layers each, and the largest seen is 2.4."""
    if kind == "far outside" and glow.config.input == "logit":
        pytest.skip("a logit exists only inside the range of pixels")
    x = INPUTS[kind].double()
    latents, _ = glow(x)
    error = (glow.inverse(latents) - x).abs().flatten(1).amax(1)
    assert (error <= 20 * rounding_error(glow, latents)).all()


def test_bounded_scale_inverts_in_float32_on_inputs_far_from_training():
    glow = small_glow(sd=0.05, scale="bounded", depth=8)
    for images in (
        random_images(4),
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        torch.full((4, 1, 8, 8), 255).byte(),
    ):
        x = dequantize(images, torch.zeros(images.shape))
        assert (glow.inverse(glow(x)[0]) - x).abs().max() < 0.5 / 256


def test_log_prob_of_an_untrained_glow_is_a_closed_form():
    """An untrained flow with additive couplings only rearranges pixels.

    So every dimension is standard normal, and log p follows from the dequantized pixels alone.
    """
    glow = Glow(
        GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=8, permutation="shuffle", coupling="additive")
    )
    images, noise = random_images(5), torch.rand(5, 1, 8, 8)
    x = (images.double() + noise.double()) / 256 - 0.5
    expected = Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1) - 64 * math.log(256)
    torch.testing.assert_close(glow.log_prob(images, noise_BCHW=noise).double(), expected, rtol=1e-6, atol=0)
    bits = -expected / (64 * math.log(2))
    torch.testing.assert_close(glow.bits_per_dim(images, noise_BCHW=noise).double(), bits, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_uniform_density_takes_as_many_bits_as_the_images_have(monkeypatch, bits):
    """If the density is 1 on the whole cube, so that log p(x) = 0, every image of N bits takes N bits per dimension."""
    glow = small_glow(bits=bits)

    def nothing(images, *_):
        of_levels = torch.zeros(len(images), 2)
        return LogProbTerms(torch.zeros(len(images)), of_levels, of_levels, [])

    monkeypatch.setattr(glow, "log_prob_terms", nothing)
    torch.testing.assert_close(glow.bits_per_dim(random_images(3)), torch.full((3,), float(bits)))


@pytest.mark.parametrize("bits", [1, 5, 7])
def test_a_model_of_fewer_bits_sees_no_others(bits):
    glow, whole = small_glow(bits=bits), small_glow()
    images, noise = random_images(5), torch.rand(5, 1, 8, 8)
    log_prob = glow.log_prob(images, noise_BCHW=noise)
    assert torch.equal(glow.log_prob(reduced(images, bits), noise_BCHW=noise), log_prob)
    x = ((images.double() / 2 ** (8 - bits)).floor() + noise.double()) / 2**bits - 0.5
    # The same density at the same point, by the model of 8 bits with the noise that leads to this point.
    as_8_bits = (x + 0.5) * 256 - images.double()
    expected = whole.double().log_prob(images, noise_BCHW=as_8_bits) + 64 * (8 - bits) * math.log(2)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=0)
    assert not torch.allclose(log_prob.double(), whole.log_prob(images, noise_BCHW=noise.double()), rtol=1e-3)


def test_samples_of_a_model_of_fewer_bits_have_no_others():
    images = small_glow(bits=3).sample(50, generator=torch.Generator().manual_seed(0))
    assert images.dtype == torch.uint8
    values = images.unique().tolist()
    assert set(values) <= set(range(0, 256, 32))
    assert len(values) > 4
    eight = small_glow().sample(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, reduced(eight, 3))


def test_log_prob_terms_add_up_to_log_prob(glow):
    images, noise = random_images(3, (3, 4, 4)), torch.rand(3, 3, 4, 4)
    terms = glow.log_prob_terms(images, noise_BCHW=noise)
    assert terms.log_prior_BL.shape == terms.log_det_BL.shape == (3, 2)
    total = terms.log_det() + terms.log_prior_BL.sum(1) - 48 * math.log(256)
    torch.testing.assert_close(glow.log_prob(images, noise_BCHW=noise), total)


def test_standardized_latents_are_those_of_each_levels_prior(glow):
    images, noise = random_images(3, (3, 4, 4)), torch.rand(3, 3, 4, 4)
    terms = glow.log_prob_terms(images, noise_BCHW=noise)
    x = glow.checkerboard(glow.input(glow.dequantize(images, noise)[0])[0])[0]
    y, log_det = glow.levels[0](x)
    x_a, z = glow.levels[0].split(y)
    mean, log_sd = glow.levels[0].split.prior(x_a)
    torch.testing.assert_close(terms.log_det_BL[:, 0], log_det)
    torch.testing.assert_close(terms.standardized[0], (z - mean) / log_sd.exp())
    top, (mean, log_sd) = glow(glow.dequantize(images, noise)[0])[0][1], glow.top.prior(None)
    torch.testing.assert_close(terms.standardized[1], (top - mean) / log_sd.exp())


def test_without_labels_the_top_is_standardized_by_the_most_probable_class():
    glow = small_glow(num_classes=3)
    images, noise = random_images(20), torch.rand(20, 1, 8, 8)
    by_class = [glow.log_prob_terms(images, torch.full((20,), label), noise) for label in range(3)]
    best = torch.stack([terms.log_prior_BL[:, -1] for terms in by_class]).argmax(0)
    assert len(set(best.tolist())) > 1
    found = glow.log_prob_terms(images, noise_BCHW=noise).standardized[-1]
    expected = torch.stack([by_class[label].standardized[-1][row] for row, label in enumerate(best.tolist())])
    torch.testing.assert_close(found, expected)


def test_density_integrates_to_one():
    """The integral over all images of 2x2 pixels, by importance sampling from a wide Student t."""
    glow = perturb(Glow(GlowConfig(image_shape=(1, 2, 2), levels=1, depth=3, width=8)), 0.2).double()
    torch.manual_seed(0)
    proposal = StudentT(torch.tensor(3.0, dtype=torch.float64), 0.0, 3.0)
    x = proposal.sample((200_000, 1, 2, 2))
    with torch.no_grad():
        latents, log_det = glow(x)
        log_density = log_det + glow._top_log_prob(latents[0], None)[0]
    ratio = (log_density - proposal.log_prob(x).flatten(1).sum(1)).exp()
    error = ratio.std() / len(x) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 4 * error


def test_what_goes_out_lies_in_memory_as_it_is_read():
    glow = small_glow(image_shape=(3, 8, 8))
    latents, _ = glow(torch.rand(2, 3, 8, 8) - 0.5)
    for tensor in (*latents, glow.inverse(latents), glow.sample(2)):
        assert tensor.is_contiguous()


def test_scores_do_not_depend_on_the_batch():
    glow, images, indices = small_glow(), random_images(12), torch.arange(12)
    noise = uniform_noise(indices, (1, 8, 8), seed=5)
    together = glow.log_prob(images, noise_BCHW=noise)
    for index in indices:
        one = glow.log_prob(images[index][None], noise_BCHW=uniform_noise(index[None], (1, 8, 8), seed=5))
        torch.testing.assert_close(one[0], together[index], rtol=1e-6, atol=1e-4)


def test_initialize_reaches_every_layer(monkeypatch):
    """A new permutation or coupling may set parameters from the first batch too."""
    reached = []
    original = Layer.initialize

    def recorded(layer, x_BCHW):
        reached.append(type(layer).__name__)
        return original(layer, x_BCHW)

    monkeypatch.setattr(Layer, "initialize", recorded)
    glow = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=2, width=4, permutation="shuffle"))
    glow.initialize(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    steps = ["FixedPermutation", "CouplingLayer"] * 2  # ActNorm has its own
    assert reached == ["Unchanged", "Unchanged", "Squeeze", *steps]


def test_initialize_normalises_every_actnorm_once():
    glow = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=8))
    images, noise = random_images(64), torch.rand(64, 1, 8, 8)
    glow.initialize(images, noise)
    assert bool(glow.initialized)
    x = glow.levels[0].squeeze(dequantize(images, noise))[0]
    actnorm = glow.levels[0].steps[0].actnorm
    assert actnorm is not None
    z = actnorm(x)[0]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    with pytest.raises(RuntimeError, match="initialized"):
        glow.initialize(images, noise)


def test_scoring_and_inverting_never_initialise():
    glow = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=8))
    before = {name: tensor.clone() for name, tensor in glow.state_dict().items()}
    glow.eval()
    glow.log_prob(random_images(2))
    glow.sample(2)
    glow.train()
    glow.log_prob(random_images(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in glow.state_dict().items())


def shuffles(glow: Glow) -> list[list[int]]:
    """Return the order of the channels in each step of the first level."""
    permutations = [step.permutation for step in glow.levels[0].steps]
    return [layer.order.tolist() for layer in permutations if isinstance(layer, FixedPermutation)]


def test_steps_have_shuffles_of_their_own_that_are_saved():
    glow = Glow(GlowConfig(image_shape=(4, 8, 8), levels=1, depth=6, width=4, permutation="shuffle"))
    orders = shuffles(glow)
    assert len(set(map(tuple, orders))) == 6
    assert sum("permutation.order" in name for name in glow.state_dict()) == 6
    other = Glow(GlowConfig(image_shape=(4, 8, 8), levels=1, depth=6, width=4, permutation="shuffle", seed=1))
    assert orders != shuffles(other)


@pytest.mark.slow
def test_weights_follow_from_the_seed_in_any_process():
    program = """
import hashlib
from glow import Glow, GlowConfig
for permutation in ("1x1", "shuffle"):
    glow = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=8, permutation=permutation))
    print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in glow.state_dict().values())).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": salt, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for salt in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


def test_making_a_model_seeds_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    with pytest.raises(pytest.fail.Exception):
        torch.manual_seed(0)
    Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=4))


def test_making_a_model_leaves_the_callers_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=4))
    assert torch.equal(torch.rand(1), expected)


def test_samples_are_uint8_repeatable_and_at_temperature_zero_the_mean():
    glow = small_glow()
    draws = [glow.sample(3, 0.7, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert draws[0].shape == (3, 1, 8, 8)
    assert draws[0].dtype == torch.uint8
    assert torch.equal(*draws)
    cold = glow.sample(3, 0.0)
    assert torch.equal(cold[0], cold[1])
    with pytest.raises(ValueError, match=r"temperature .*-1\.0"):
        glow.sample(1, -1.0)


def test_temperature_scales_the_noise_around_the_learned_means():
    """In one level whose steps mix nothing, with mean 0.2 and sd 0.1, samples have sd 0.1 T around 0.2."""
    glow = Glow(
        GlowConfig(image_shape=(1, 2, 2), levels=1, depth=1, width=4, permutation="reverse", coupling="additive")
    )
    with torch.no_grad():
        glow.top.mean.fill_(0.2)
        glow.top.log_sd.fill_(math.log(0.1))
    pixels = glow.sample(4000, 0.5, torch.Generator().manual_seed(0)).double()
    assert pixels.mean().item() == pytest.approx((0.2 + 0.5) * 256 - 0.5, abs=0.5)
    assert pixels.std().item() == pytest.approx(0.1 * 0.5 * 256, rel=0.03)


def test_a_conditional_model_mixes_its_classes_when_no_label_is_given():
    glow = small_glow(num_classes=3)
    images, noise = random_images(4), torch.rand(4, 1, 8, 8)
    per_class = torch.stack([glow.log_prob(images, torch.full((4,), label), noise) for label in range(3)])
    assert (per_class[0] - per_class[1]).abs().min() > 0
    torch.testing.assert_close(glow.log_prob(images, noise_BCHW=noise), per_class.logsumexp(0) - math.log(3))
    assert glow.sample(2, labels=torch.tensor([0, 2])).shape == (2, 1, 8, 8)
    assert glow.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="num_classes"):
        small_glow().sample(2, labels=torch.tensor([0, 1]))


def test_bf16_scores_stay_close():
    glow, images, noise = small_glow(), random_images(8), torch.rand(8, 1, 8, 8)
    exact = glow.bits_per_dim(images, noise_BCHW=noise)
    rounded = glow.set_precision("bf16").bits_per_dim(images, noise_BCHW=noise)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)


def test_float32_scores_are_those_of_float64():
    glow, images, noise = small_glow(depth=6), random_images(16), uniform_noise(torch.arange(16), (1, 8, 8))
    single = glow.log_prob(images, noise_BCHW=noise).double()
    torch.testing.assert_close(single, glow.double().log_prob(images, noise_BCHW=noise), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"permutation": "swap"}, "1x1, shuffle, reverse"),
        ({"coupling": "quadratic"}, "affine, additive"),
        ({"scale": "exp"}, "sigmoid, bounded"),
        ({"bits": 0}, "bits .*1 to 8, not 0"),
        ({"bits": 9}, "bits .*1 to 8, not 9"),
        ({"depth": 0}, "depth .*1, not 0"),
        ({"num_classes": 0}, "num_classes"),
        ({"image_shape": (1, 28, 28)}, "levels=3 .*28x28.* 8: .*levels=2"),
        ({"image_shape": (1, 7, 9)}, "7x9.* 8: load .*image_shape.* 8, such as 16"),
        ({"image_shape": (28, 28)}, "channels, height, width"),
    ],
)
def test_impossible_configs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GlowConfig(**values)


EMPTY = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_images(2, (3, 8, 8)), r"\(1, 8, 8\), not \(3, 8, 8\)"),
        (EMPTY.expand(0, 3, 8, 8), r"\(1, 8, 8\), not \(3, 8, 8\)"),
        (EMPTY.float(), "uint8"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        small_glow().log_prob(images)


@pytest.mark.parametrize("memory", ["stored", "reversible"])
@pytest.mark.parametrize(
    "changes", [{}, {"permutation": "shuffle", "coupling": "additive"}, {"num_classes": 3}], ids=str
)
def test_an_empty_batch_gives_empty_tensors(changes, memory):
    glow = small_glow(**changes).set_memory(memory)
    assert glow.log_prob(EMPTY).shape == glow.bits_per_dim(EMPTY).shape == (0,)
    terms = glow.log_prob_terms(EMPTY)
    assert (terms.log_det().shape, terms.log_prior_BL.shape) == ((0,), (0, 2))
    assert [tuple(eps.shape) for eps in terms.standardized] == [(0, *shape) for shape in glow.config.latent_shapes]
    latents, _ = glow(torch.zeros(0, 1, 8, 8))
    assert [tuple(z.shape) for z in latents] == [(0, *shape) for shape in glow.config.latent_shapes]
    assert glow.inverse(latents).shape == (0, 1, 8, 8)
    assert (glow.sample(0).shape, glow.sample(0).dtype) == ((0, 1, 8, 8), torch.uint8)
    if glow.config.num_classes:
        assert glow.log_prob(EMPTY, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_an_empty_batch_has_gradients_of_zero():
    glow = small_glow()
    glow.bits_per_dim(EMPTY).sum().backward()
    assert not any(gradient.any() for gradient in gradients(glow).values())


def test_an_empty_batch_initialises_nothing():
    glow = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=4))
    with pytest.raises(ValueError, match="empty batch"):
        glow.initialize(EMPTY)
    assert not glow.initialized


def test_a_negative_number_of_samples_is_refused():
    with pytest.raises(ValueError, match=r"samples .*-1"):
        small_glow().sample(-1)
