"""The interface of channel permutations: what a new one has to define, and that the flow leaves none out."""

from typing import Any, Literal, get_args

import pytest
import torch
from torch import nn

import glow.config
from glow import FitConfig, Glow, GlowConfig, fit, load_checkpoint, save_checkpoint
from glow.layers import PERMUTATIONS, ActNorm, Affine, AffineLayer, Squeeze, make_permutation, mixing, unmixing
from tests.glow.flows import gradients, jacobian, jacobian_log_det, perturb, random_images


class Reflection(AffineLayer):
    """I - 2 v v' / v'v with one learned vector v. It mixes all channels, and defines no inverse."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(channels, generator=generator))

    def factors(self):
        return (self.v,)

    @classmethod
    def affine_of(cls, factors):
        (v,) = factors
        unit = v / v.norm(dim=-1, keepdim=True)
        matrix = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device) - 2 * unit[..., None] * unit[..., None, :]
        return Affine(matrix, torch.zeros_like(v), torch.zeros_like(v[..., 0]))


class Stretch(AffineLayer):
    """A diagonal map with a learned scale and shift per channel. It defines no inverse."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + torch.rand(channels, generator=generator))
        self.shift = nn.Parameter(torch.randn(channels, generator=generator))

    def factors(self):
        return self.scale, self.shift

    @classmethod
    def affine_of(cls, factors):
        scale, shift = factors
        return Affine(scale, shift, scale.abs().log().sum(-1))


ALL = {**PERMUTATIONS, "reflection": Reflection, "stretch": Stretch}


@pytest.fixture(params=ALL)
def name(request, monkeypatch):
    """The name of a permutation that `GlowConfig` accepts: the library's, and two that a user might add."""
    monkeypatch.setattr(glow.config, "Permutation", Literal[tuple(ALL)])
    for added in ("reflection", "stretch"):
        monkeypatch.setitem(PERMUTATIONS, added, ALL[added])
    return request.param


def made(name: Any, channels: int = 4, seed: int = 0) -> AffineLayer:
    return perturb(make_permutation(name, channels, torch.Generator().manual_seed(seed)).double(), seed=seed)


def small(name: str, **changes: Any) -> Glow:
    values: dict[str, Any] = {"image_shape": (1, 4, 4), "levels": 2, "depth": 3, "width": 8, "permutation": name}
    return Glow(GlowConfig(**values | changes))


def test_the_table_has_every_permutation_of_the_config():
    assert tuple(PERMUTATIONS) == get_args(glow.config.Permutation)


def test_an_unknown_permutation_is_refused():
    with pytest.raises(ValueError, match=r"1x1.*shuffle.*reverse.*'swap'"):
        made("swap")


def test_log_det_and_inverse_are_those_of_the_jacobian(name):
    layer = made(name)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, log_det = layer(x)
    torch.testing.assert_close(log_det[0], jacobian_log_det(lambda v: layer(v)[0], x[0]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(layer.inverse(z), x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("other", ["actnorm", "squeezed"])
def test_the_affine_map_is_what_the_layer_computes(name, other):
    """This holds for ActNorm, too. At a single position the Jacobian is the matrix."""
    layer = made(name) if other == "squeezed" else perturb(ActNorm(4).double())
    matrix, offset, log_det = layer.affine().dense()
    zero = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    of_position = jacobian(lambda x: layer(x[..., None, None])[0].flatten(1), zero.flatten())
    torch.testing.assert_close(matrix.double(), of_position)
    torch.testing.assert_close(offset.double(), layer(zero)[0].flatten())
    torch.testing.assert_close(log_det.double(), layer(zero)[1][0])
    back, back_offset, back_log_det = layer.inverse_affine().dense()
    torch.testing.assert_close(back @ matrix.double(), torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(back @ offset.double() + back_offset, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(back_log_det, -log_det.double())


def test_steps_of_several_kinds_are_all_in_the_map():
    """Layers of different classes in one stage are all applied, each in its own step."""
    layers = [made("1x1"), made("shuffle"), perturb(ActNorm(4).double()), Stretch(4, torch.Generator()).double()]
    actnorms = [perturb(ActNorm(4).double(), seed=seed) for seed in range(4)]
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    matrices, offsets, log_dets = mixing([actnorms, layers])
    back, back_offsets = unmixing([actnorms, layers])
    for index, (actnorm, layer) in enumerate(zip(actnorms, layers, strict=True)):
        normed, first_log_det = actnorm(x)
        expected, log_det = layer(normed)
        z = torch.einsum("ij,bjhw->bihw", matrices[index], x) + offsets[index][:, None, None]
        torch.testing.assert_close(z, expected)
        torch.testing.assert_close((6 * log_dets[index]).expand(2), first_log_det + log_det)
        again = torch.einsum("ij,bjhw->bihw", back[index], z) + back_offsets[index][:, None, None]
        torch.testing.assert_close(again, x)


def test_stages_in_any_order_are_one_map():
    """Products of diagonal maps are computed differently from those of full matrices."""
    stages: list[list[AffineLayer]] = [
        [perturb(ActNorm(4).double(), seed=1)],
        [made("1x1")],
        [perturb(ActNorm(4).double(), seed=2)],
    ]
    for first, second in ((0, 1), (1, 0), (0, 2), (1, 1)):
        x = torch.randn(1, 4, 1, 1, dtype=torch.float64)
        chosen = [stages[first], stages[second]]
        matrices, offsets, _ = mixing(chosen)
        expected = chosen[1][0](chosen[0][0](x)[0])[0].flatten()
        torch.testing.assert_close(matrices[0] @ x.flatten() + offsets[0], expected)
        back, back_offsets = unmixing(chosen)
        torch.testing.assert_close(back[0] @ expected + back_offsets[0], x.flatten())


def test_a_glow_of_it_is_invertible_and_its_density_exact(name):
    glow = perturb(small(name)).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64) - 0.5
    latents, log_det = glow(x)
    torch.testing.assert_close(glow.inverse(latents), x, atol=1e-9, rtol=1e-9)
    expected = jacobian_log_det(lambda v: torch.cat([z.flatten(1) for z in glow(v)[0]], 1), x[0])
    torch.testing.assert_close(log_det[0], expected, atol=1e-9, rtol=1e-9)


def test_a_glow_of_it_trains_samples_and_is_saved(name, tmp_path):
    glow, images = small(name), random_images(8, (1, 4, 4))
    fit(glow, images, config=FitConfig(epochs=1, batch_size=4, precision="float32"))
    learned = dict(glow.named_parameters())
    for step in glow.levels[0].steps:
        for parameter in step.permutation.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
            assert any(parameter is other for other in learned.values())
    assert glow.sample(2).shape == (2, 1, 4, 4)
    save_checkpoint(glow, tmp_path)
    noise = torch.rand(8, 1, 4, 4)
    torch.testing.assert_close(
        load_checkpoint(tmp_path).log_prob(images, None, noise), glow.log_prob(images, None, noise)
    )


def test_reversible_steps_give_its_gradients(name):
    glow = perturb(small(name)).double()
    found = []
    for memory in ("stored", "reversible"):
        glow.set_memory(memory).zero_grad()
        glow.bits_per_dim(random_images(2, (1, 4, 4)), None, torch.zeros(2, 1, 4, 4)).sum().backward()
        found.append(torch.cat([gradient.flatten() for gradient in gradients(glow).values()]))
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


def test_a_layer_that_is_not_affine_cannot_take_a_permutations_place(monkeypatch):
    monkeypatch.setitem(PERMUTATIONS, "reverse", lambda channels, generator: Squeeze())
    with pytest.raises(TypeError, match=r"'reverse'.*Squeeze.*AffineLayer"):
        small("reverse")


def test_a_layer_without_a_map_cannot_be_made():
    class Nothing(AffineLayer):
        def factors(self):
            return ()

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


def test_checkpoints_have_the_names_that_they_always_had():
    """With other names, saved models could no longer be loaded."""
    ends = {"1x1": {"permutation", "sign_s", "lower", "upper", "log_s"}, "shuffle": {"order"}, "reverse": {"order"}}
    for name, expected in ends.items():
        state = small(name).state_dict()
        found = {key.rsplit(".", 1)[1] for key in state if key.startswith("levels.0.steps.2.permutation.")}
        assert found == expected
        assert {"levels.1.steps.0.actnorm.bias", "levels.1.steps.0.actnorm.log_scale"} <= set(state)
