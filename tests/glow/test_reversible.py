"""Steps that compute their activations again, compared with steps that store them."""

import pytest
import torch

from glow import FitConfig, Glow
from glow.config import Memory
from tests.glow.flows import random_images, small_glow

VARIANTS = {
    "1x1": {},
    "shuffle": {"permutation": "shuffle"},
    "reverse": {"permutation": "reverse"},
    "bounded": {"scale": "bounded"},
    "floored": {"scale": "floored"},
    "additive": {"coupling": "additive"},
    "spline": {"coupling": "spline"},
    "variational": {"dequantization": "variational"},
    "logit": {"input": "logit"},
    "checkerboard": {"checkerboard": 3},
    "residual": {"network": "residual", "checkerboard": 1, "dequantization": "variational"},
    "attention": {"network": "attention", "dequantization": "variational"},
    "no-actnorm": {"actnorm": "off", "permutation": "shuffle"},
    "conditional": {"num_classes": 3},
    "colour": {"image_shape": (3, 8, 8)},
}


def gradients(glow: Glow, memory: Memory) -> torch.Tensor:
    """Return the gradients of all parameters, in the order of the model."""
    shape = glow.config.image_shape
    noise = torch.rand(5, *shape, dtype=glow.dtype, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5) % 3 if glow.config.num_classes else None
    glow.set_memory(memory).zero_grad()
    glow.bits_per_dim(random_images(5, shape), labels, noise).sum().backward()
    return torch.cat([p.grad.flatten() for p in glow.parameters() if p.grad is not None])


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_gradients_are_those_of_kept_activations(changes):
    glow = small_glow(depth=6, **changes).double()
    stored, reversible = gradients(glow, "stored"), gradients(glow, "reversible")
    assert stored.abs().max() > 1e-3
    # Where a spline is flat, its inverse loses some of the 16 digits.
    lost = 1e-7 if changes.get("coupling") == "spline" else 1e-9
    torch.testing.assert_close(reversible, stored, atol=lost, rtol=lost)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_gradients_in_float32_lose_little(changes):
    glow = small_glow(sd=0.05, depth=6, **changes)
    stored, reversible = gradients(glow, "stored"), gradients(glow, "reversible")
    assert (reversible - stored).abs().max() < 1e-3 * stored.abs().max()


def test_likelihoods_do_not_change_and_nothing_is_kept_without_a_gradient():
    glow, images, noise = small_glow(), random_images(4), torch.rand(4, 1, 8, 8)
    expected = glow.log_prob(images, noise_BCHW=noise)
    glow.set_memory("reversible")
    torch.testing.assert_close(glow.log_prob(images, noise_BCHW=noise), expected, rtol=1e-6, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(glow.log_prob(images, noise_BCHW=noise), expected, rtol=1e-6, atol=1e-4)


def saved_bytes(glow: Glow, images: torch.Tensor) -> int:
    """Return the bytes that a forward pass keeps for the gradient, without the parameters."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = glow.bits_per_dim(images).sum()
    own = {parameter.untyped_storage().data_ptr() for parameter in glow.parameters()}
    loss.backward()
    return sum(size for where, size in kept.items() if where not in own)


def test_memory_does_not_grow_with_the_depth():
    grown = {}
    for memory in ("stored", "reversible"):
        of_images = []
        for depth in (2, 8):
            glow = small_glow(depth=depth).set_memory(memory)
            of_images.append(saved_bytes(glow, random_images(64)) - saved_bytes(glow, random_images(8)))
        grown[memory] = of_images[1] / of_images[0]
    assert grown["stored"] > 3
    assert grown["reversible"] < 1.05


def test_a_second_gradient_is_refused():
    glow = small_glow().set_memory("reversible")
    loss = glow.bits_per_dim(random_images(2)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="memory stored"):
        loss.backward()


def test_reversible_steps_are_not_compiled():
    with pytest.raises(ValueError, match=r"memory.*compile"):
        FitConfig(memory="reversible", compile=True)
