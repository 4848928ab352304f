"""Models and images that tests of flows share, and Jacobians by autograd."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from glow import Glow, GlowConfig

Perturbed = TypeVar("Perturbed", bound=nn.Module)


def perturb(module: Perturbed, sd: float = 0.1, seed: int = 0) -> Perturbed:
    """Move every parameter away from its initial value, since a flow that starts at zero is mostly the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(sd * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return module


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each parameter by its name; every parameter must have one."""
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute the Jacobian (D', D) of a map of batches (B, D) -> (B, D') at one point (D,), by autograd.

    One backward pass gives all rows: the batch contains D' copies of the point, and row i is the gradient of output i
    of copy i.
    """
    rows = function(x[None]).shape[1]
    copies = x.detach().repeat(rows, 1).requires_grad_()
    return torch.autograd.grad(function(copies).diagonal().sum(), copies)[0]


def jacobian_log_det(function: Callable[[Tensor], Tensor], image_CHW: Tensor) -> Tensor:
    """Compute log |det| of the Jacobian of a map of batches of images at one image, by autograd."""
    flat = jacobian(lambda x: function(x.view(-1, *image_CHW.shape)).flatten(1), image_CHW.flatten())
    return torch.linalg.slogdet(flat)[1]


def small_glow(sd: float = 0.1, **changes: Any) -> Glow:
    """Make a Glow of two levels with perturbed weights; `changes` are fields of its config."""
    values: dict[str, Any] = {"image_shape": (1, 8, 8), "levels": 2, "depth": 2, "width": 8} | changes
    return perturb(Glow(GlowConfig(**values)), sd)


def random_images(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def rounding_error(glow: Glow, latents: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Bound the error of the inverse that the rounding of its input causes, per image (B,).

    It is the largest of eps |J| |z| over the image's pixels, where J is the Jacobian of the inverse at the latents z.
    Processors round differently, but how much an input magnifies the rounding is a property of the map alone. Far
    outside the range of images, where a sigmoid is nearly zero, the bound reaches 1e-5 in float64.

    Args:
        glow: the model, in the type in which J is computed.
        latents: the latents of each level, (B, C, H, W).
        dtype: the type that rounds; that of the model if None.
    """
    sizes = [z[0].numel() for z in latents]

    def inverse(z_BD: Tensor) -> Tensor:
        parts = z_BD.split(sizes, 1)
        return glow.inverse([part.reshape(-1, *z.shape[1:]) for part, z in zip(parts, latents, strict=True)]).flatten(1)

    points = torch.cat([z.detach().flatten(1) for z in latents], 1)
    eps = torch.finfo(dtype or glow.dtype).eps
    return eps * torch.stack([(jacobian(inverse, z).abs() @ z.abs()).max() for z in points])
