"""Glow: levels of flow steps over the layers, and the likelihoods and samples that they give.

Shapes: B images, C channels, H height, W width, D = C * H * W dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from glow.config import GlowConfig, Memory
from glow.dequantization import dequantize, quantize
from glow.layers import (
    ActNorm,
    AffineLayer,
    CouplingLayer,
    CouplingNetwork,
    Layer,
    Logit,
    NoiseFlow,
    Split,
    Squeeze,
    TopPrior,
    Unchanged,
    as_planes,
    gaussian_log_prob,
    make_permutation,
    mix,
    mixing,
    unmixing,
)
from glow.reversible import reversible_steps

__all__ = ["Glow", "Precision"]

Precision = Literal["float32", "bf16"]

LOGIT_ALPHA = 0.001
"""See `glow.layers.Logit`. It saves 0.4 bits/dim of MNIST against the 0.05 of Dinh et al. (2017): docs/models.md."""


class Step(nn.Module):
    """One step of flow: ActNorm -> channel permutation -> coupling (Kingma & Dhariwal 2018, figure 2a).

    `Level` computes the first two of all its steps together.
    """

    def __init__(self, channels: int, config: GlowConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.permutation = make_permutation(config.permutation, channels, generator)
        self.coupling = CouplingLayer(channels, config.width, config.coupling, config.scale)

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        return self.coupling(self.permutation(self.actnorm.initialize(x_BCHW))[0])[0]


class Level(Layer):
    """One scale: squeeze, then K steps (Kingma & Dhariwal 2018, figure 2b): (B, C, H, W) -> (B, 4C, H/2, W/2).

    `split` is the split at its end, None at the top level. With `reversible` set its steps keep no activations for the
    gradient.
    """

    steps: Sequence[Step]

    def __init__(self, channels: int, config: GlowConfig, is_top: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        steps = [Step(4 * channels, config, generator) for _ in range(config.depth)]
        self.register_module("steps", nn.ModuleList(steps))
        self.split = None if is_top else Split(4 * channels)
        self.reversible = False

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x_BCHW, log_det_B = self.squeeze(x_BCHW)
        x_BCHW = as_planes(x_BCHW)
        matrices, offsets, log_det_K = mixing(self._stages())
        _, _, height, width = x_BCHW.shape
        log_det_B = log_det_B + height * width * log_det_K.sum()
        mixers = zip(matrices.unbind(), offsets.unbind(), strict=True)
        couplings = [step.coupling for step in self.steps]
        if self.reversible and torch.is_grad_enabled():
            unmixers = zip(*self._unmixing(x_BCHW.dtype), strict=True)
            return reversible_steps(x_BCHW, log_det_B, zip(couplings, mixers, unmixers, strict=True))
        for coupling, mixer in zip(couplings, mixers, strict=True):
            x_BCHW, step_log_det_B = coupling(mix(x_BCHW, *mixer))
            log_det_B = log_det_B + step_log_det_B
        return x_BCHW, log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        z_BCHW = as_planes(z_BCHW)
        matrices, offsets = self._unmixing(z_BCHW.dtype)
        for step, matrix, offset in zip(reversed(self.steps), matrices.flip(0), offsets.flip(0), strict=True):
            z_BCHW = mix(step.coupling.inverse(z_BCHW), matrix, offset)
        return self.squeeze.inverse(z_BCHW)

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.squeeze.initialize(x_BCHW)
        for step in self.steps:
            x_BCHW = step.initialize(x_BCHW)
        return x_BCHW

    def _stages(self) -> list[list[AffineLayer]]:
        return [[step.actnorm for step in self.steps], [step.permutation for step in self.steps]]

    def _unmixing(self, dtype: torch.dtype) -> list[Tensor]:
        return [part.to(dtype) for part in unmixing(self._stages())]


@dataclass(frozen=True)
class LogProbTerms:
    r"""What the log-likelihood of B images under a Glow of L levels is made of, in nats.

    Args:
        input_log_det_B: the log-det of the dequantisation and of the input's transform.
        log_det_BL: the log-det of each level's steps.
        log_prior_BL: log p(z) of each level, the top one last.
        standardized: for each level :math:`\epsilon = (z - \mu) / \sigma`, (B, C, H, W), under the level's prior.
            Of an image from the model these are independent standard normal numbers. A class-conditional model that is
            given no labels takes the prior of the most probable class.
    """

    input_log_det_B: Tensor
    log_det_BL: Tensor
    log_prior_BL: Tensor
    standardized: Sequence[Tensor]

    def log_det(self) -> Tensor:
        """The log-det (B,) of everything."""
        return self.input_log_det_B + self.log_det_BL.sum(1)


class Glow(nn.Module):
    r"""The multi-scale flow of Kingma & Dhariwal (2018), with an exact density for every image.

    ``model(x)`` and ``model.inverse(latents)`` are the flow itself, between real-valued images in [-0.5, 0.5] and one
    latent a level (`GlowConfig.latent_shapes`); `log_prob`, `bits_per_dim` and `sample` speak of uint8 images.
    All weights are drawn from ``config.seed``.
    """

    levels: Sequence[Level]
    initialized: Tensor

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator = torch.Generator().manual_seed(config.seed)
            channels = [config.image_shape[0] * 2**level for level in range(config.levels)]
            levels = [Level(c, config, level == config.levels - 1, generator) for level, c in enumerate(channels)]
            self.register_module("levels", nn.ModuleList(levels))
            self.input = Logit(LOGIT_ALPHA) if config.input == "logit" else Unchanged()
            self.top = TopPrior(4 * channels[-1], config.num_classes)
            variational = config.dequantization == "variational"
            self.noise = NoiseFlow(channels[0], config.width) if variational else None
        self.register_buffer("initialized", torch.tensor(False))
        # Convolutions over few channels and many pixels run faster so, on CPUs and GPUs.
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    @property
    def device(self) -> torch.device:
        return self.top.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.top.mean.dtype

    def set_precision(self, precision: Precision) -> Glow:
        """The type in which the coupling networks' convolutions run. All else stays in the type of the weights."""
        for module in self.modules():
            if isinstance(module, CouplingNetwork):
                module.compute_dtype = torch.bfloat16 if precision == "bf16" else None
        return self

    def set_memory(self, memory: Memory) -> Glow:
        """What a gradient takes: ``"stored"`` activations, or ``"reversible"`` steps, which make them again."""
        for level in self.levels:
            level.reversible = memory == "reversible"
        return self

    def forward(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images in [-0.5, 0.5] -> (one latent a level, log-det (B,) in nats). No prior is in the log-det."""
        latents, _, log_dets_B = self._encode(x_BCHW)
        return [z_BCHW.contiguous() for z_BCHW in latents], sum(log_dets_B[1:], log_dets_B[0])  # not planes

    def inverse(self, latents: Sequence[Tensor]) -> Tensor:
        """One latent a level -> images (B, C, H, W) in [-0.5, 0.5]; the exact inverse of `forward`."""
        if len(latents[-1]) == 0:
            return self.inverse([_with_one_image(z_BCHW) for z_BCHW in latents])[:0]
        x_BCHW = latents[-1]
        for level, z_BCHW in zip(reversed(self.levels), [None, *reversed(latents[:-1])], strict=True):
            if z_BCHW is not None:
                assert level.split is not None
                x_BCHW = level.split.inverse(x_BCHW, z_BCHW)
            x_BCHW = level.inverse(x_BCHW)
        return self.input.inverse(x_BCHW)

    @torch.no_grad()
    def initialize(self, images_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> None:
        """Data-dependent initialisation of every ActNorm from one batch of uint8 images, once.

        In several processes each gives its share of the batch, and all end with the same parameters.

        Raises:
            RuntimeError: if the model is initialised already.
            ValueError: for no images at all, or images of another type or shape than the model's.
        """
        if self.initialized:
            raise RuntimeError("this Glow is initialised already; doing so again would undo its training")
        if len(images_BCHW) == 0:
            raise ValueError("an empty batch has no statistics to initialise a Glow from: give it at least one image")
        x_BCHW, _ = self.dequantize(images_BCHW, noise_BCHW)
        x_BCHW = self.input.initialize(x_BCHW)
        for level in self.levels:
            x_BCHW = level.initialize(x_BCHW)
            if level.split is not None:
                x_BCHW, _ = level.split(x_BCHW)
        self.initialized.fill_(True)

    def log_prob_terms(
        self, images_BCHW: Tensor, labels_B: Tensor | None = None, noise_BCHW: Tensor | None = None
    ) -> LogProbTerms:
        """The parts that `log_prob` is the sum of, in nats of real-valued images."""
        x_BCHW, noise_log_det_B = self.dequantize(images_BCHW, noise_BCHW)
        latents, kept, (input_log_det_B, *log_dets_B) = self._encode(x_BCHW)
        scored = [
            gaussian_log_prob(z_BCHW, *level.split.prior(x_a))
            for level, z_BCHW, x_a in zip(self.levels, latents, kept, strict=False)
            if level.split is not None
        ]
        scored.append(self._top_log_prob(latents[-1], labels_B))
        log_priors_B, standardized = zip(*scored, strict=True)
        return LogProbTerms(
            noise_log_det_B + input_log_det_B, torch.stack(log_dets_B, 1), torch.stack(log_priors_B, 1), standardized
        )

    def log_prob(self, images_BCHW: Tensor, labels_B: Tensor | None = None, noise_BCHW: Tensor | None = None) -> Tensor:
        """Log-likelihood (B,) in nats of uint8 images under uniform dequantisation: a lower bound on the log of the
        probability mass (Theis et al. 2016, section 3.1), of the images reduced to the model's bits.

        Args:
            images_BCHW: uint8.
            labels_B: int64 classes, for a class-conditional model: log p(x | y). Without them such a model gives the
                mixture with equal class weights, log p(x).
            noise_BCHW: in [0, 1), such as `uniform_noise` gives; drawn afresh if None.

        An empty batch gives an empty tensor.

        Raises:
            ValueError: for images of another type or shape than the model's.
        """
        terms = self.log_prob_terms(images_BCHW, labels_B, noise_BCHW)
        return terms.log_det() + terms.log_prior_BL.sum(1) - self.config.dimensions * math.log(self.config.bins)

    def bits_per_dim(
        self, images_BCHW: Tensor, labels_B: Tensor | None = None, noise_BCHW: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihood (B,) in bits per dimension: -log2 p(x) / D."""
        return -self.log_prob(images_BCHW, labels_B, noise_BCHW) / (self.config.dimensions * math.log(2))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """`n` uint8 images (n, C, H, W), whose low 8 - bits bits are 0.

        The temperature multiplies the noise at every level, mean + sd * T * eps, not the latent itself, whose mean is
        learned. `labels` (n,) choose the classes of a class-conditional model; without them they are drawn.

        Noise is drawn on the generator's device: a generator of the CPU gives the same samples on every device. Without
        a generator it is drawn on the model's.

        Raises:
            ValueError: for a negative number or temperature, or labels given to an unconditional model.
        """
        if n < 0:
            raise ValueError(f"the number of samples must not be negative: {n}")
        if temperature < 0:
            raise ValueError(f"the temperature must not be negative: {temperature}")
        if self.config.num_classes is None and labels is not None:
            raise ValueError("this Glow has no classes: train it with num_classes, or sample without labels")
        if n == 0:
            return torch.empty(0, *self.config.image_shape, dtype=torch.uint8, device=self.device)
        where = generator.device if generator else self.device
        if self.config.num_classes is not None and labels is None:
            labels = torch.randint(self.config.num_classes, (n,), generator=generator, device=where)
        labels = None if labels is None else labels.to(self.device)

        def draw(mean: Tensor, log_sd: Tensor, shape: tuple[int, int, int]) -> Tensor:
            eps = torch.randn((n, *shape), generator=generator, device=where)
            return mean + log_sd.exp() * temperature * eps.to(self.device, self.dtype)

        shapes = self.config.latent_shapes
        x_BCHW = draw(*self.top.prior(labels), shapes[-1])
        for index in reversed(range(len(self.levels))):
            level = self.levels[index]
            if level.split is not None:
                x_BCHW = level.split.inverse(x_BCHW, draw(*level.split.prior(x_BCHW), shapes[index]))
            x_BCHW = level.inverse(x_BCHW)
        return quantize(self.input.inverse(x_BCHW), self.config.bits)

    def _encode(self, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The latents, the halves that went on at each split, and the log-dets (B,) of the input and of each level."""
        if len(x_BCHW) == 0:
            whole = self._encode(_with_one_image(x_BCHW))
            latents, kept, log_dets_B = ([part[:0] for part in parts] for parts in whole)
            return latents, kept, log_dets_B
        latents, kept = [], []
        x_BCHW, log_det_B = self.input(x_BCHW)
        log_dets_B = [log_det_B]
        for level in self.levels:
            x_BCHW, log_det_B = level(x_BCHW)
            log_dets_B.append(log_det_B)
            if level.split is not None:
                x_BCHW, z_BCHW = level.split(x_BCHW)
                kept.append(x_BCHW)
                latents.append(z_BCHW)
        return [*latents, x_BCHW], kept, log_dets_B

    def _top_log_prob(self, z_BCHW: Tensor, labels_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """log p(z) of the top level, (B,), and z standardised; of a mixture by its most probable class."""
        classes = self.config.num_classes
        if labels_B is not None or classes is None:
            return gaussian_log_prob(z_BCHW, *self.top.prior(labels_B))
        every = torch.arange(classes, device=z_BCHW.device)
        per_class_KB = torch.stack([gaussian_log_prob(z_BCHW, *self.top.prior(label[None]))[0] for label in every])
        _, standardized_BCHW = gaussian_log_prob(z_BCHW, *self.top.prior(per_class_KB.argmax(0)))
        return per_class_KB.logsumexp(0) - math.log(classes), standardized_BCHW

    def dequantize(self, images_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images -> (real-valued ones in [-0.5, 0.5], the log-det (B,) of the noise that was added: 0 for uniform
        noise, -log q(u | image) for variational)."""
        if tuple(images_BCHW.shape[1:]) != self.config.image_shape:
            shape = tuple(images_BCHW.shape[1:])
            raise ValueError(f"this Glow models images of shape {self.config.image_shape}, not {shape}")
        if noise_BCHW is None:
            noise_BCHW = torch.rand(images_BCHW.shape, device=images_BCHW.device)
        noise_BCHW = noise_BCHW.to(self.dtype)
        bits = self.config.bits
        if self.noise is None:
            return dequantize(images_BCHW, noise_BCHW, bits), noise_BCHW.new_zeros(len(noise_BCHW))
        if len(images_BCHW) == 0:
            x_BCHW, log_det_B = self.dequantize(_with_one_image(images_BCHW), _with_one_image(noise_BCHW))
            return x_BCHW[:0], log_det_B[:0]
        middle_BCHW = dequantize(images_BCHW, torch.full_like(noise_BCHW, 0.5), bits)
        noise_BCHW, log_det_B = self.noise(middle_BCHW, noise_BCHW)
        return dequantize(images_BCHW, noise_BCHW, bits), log_det_B


def _with_one_image(empty_BCHW: Tensor) -> Tensor:
    """A batch of one image of zeros in place of an empty one, which reshapes and matrix products do not take. What
    comes out of it is cut off again, so that its gradients are zeros."""
    return torch.cat([empty_BCHW, empty_BCHW.new_zeros(1, *empty_BCHW.shape[1:])])
