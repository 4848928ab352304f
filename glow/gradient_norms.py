"""Squared norms of the gradient of an image's log-likelihood, for each layer of a model (Dauncey et al. 2024).

The gradient is taken with respect to the parameters. Images that are unlike the training images have other gradients
than the training images. The squared norm for one layer approximates the Fisher information metric, up to a constant
factor, if the layer's block of the Fisher information matrix is assumed to be a multiple of the identity.

Shapes: B images, C channels, H rows, W columns, G layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.model import Glow


def gradient_layers(model: nn.Module) -> list[str]:
    """Return the names of a model's layers in the order of its parameters.

    A flow step is one layer, with all the parameters of its ActNorm, its permutation and its coupling. The prior of
    each split, the top prior, and the network of the learned dequantization noise are also one layer each.

    Examples:
        >>> from glow.config import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=4))
        >>> gradient_layers(model)
        ['levels.0.steps.0', 'levels.0.steps.1', 'top']
    """
    return list(dict.fromkeys(_layer_of(name) for name, _ in model.named_parameters()))


def gradient_norms(model: Glow, images_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Compute the squared norm of d log p(x) / d theta for the parameters theta of each layer, one image at a time.

    The gradient of a single image takes a forward and a backward pass of that image alone.

    Args:
        model: the model; the attribute `grad` of its parameters is neither used nor changed.
        images_BCHW: uint8 (B, C, H, W).
        noise_BCHW: dequantization noise (B, C, H, W), such as `glow.uniform_noise` makes.

    Returns:
        float64 (B, G), one column per name of `gradient_layers`. The unit is nats squared per unit of the parameters
        squared. A layer that the likelihood does not depend on has 0.

    Raises:
        ValueError: if the images have another type or shape than the model's.

    Examples:
        >>> from glow import GlowConfig, uniform_noise
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=4))
        >>> images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
        >>> norms = gradient_norms(model, images, uniform_noise(torch.arange(3), (1, 8, 8)))
        >>> norms.shape == (3, len(gradient_layers(model))), bool((norms >= 0).all())
        (True, True)
    """
    layers = {name: index for index, name in enumerate(gradient_layers(model))}
    names, parameters = zip(*model.named_parameters(), strict=True)
    of_parameter = [layers[_layer_of(name)] for name in names]
    norms_BG = torch.zeros(len(images_BCHW), len(layers), dtype=torch.float64, device=images_BCHW.device)
    for i in range(len(images_BCHW)):
        with torch.enable_grad():
            log_prob = model.log_prob(images_BCHW[i : i + 1], noise_BCHW=noise_BCHW[i : i + 1]).sum()
        for layer, gradient in zip(
            of_parameter, torch.autograd.grad(log_prob, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                norms_BG[i, layer] += gradient.double().square().sum()
    return norms_BG


def _layer_of(parameter: str) -> str:
    """Return the layer of a parameter by its name: the flow step or the split that contains it, else its first part."""
    parts = parameter.split(".")
    if "steps" in parts:
        return ".".join(parts[: parts.index("steps") + 2])
    return ".".join(parts[: 3 if parts[0] == "levels" else 1])
