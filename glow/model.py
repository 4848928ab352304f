"""The Glow model: levels made of steps of flow, and the likelihoods and samples that they give.

Most users need `Glow` alone: it scores, samples, encodes and decodes images. Train a `Glow` with
`glow.training.trainer`.

Shapes: B images, C channels, H rows, W columns, D = C * H * W dimensions, L levels, K steps of flow per level or, in
the top prior, K classes.
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
from glow.layers import CouplingNetwork, Logit, NoiseFlow, TopPrior, Unchanged, gaussian_log_prob, network_kind
from glow.levels import FullResolution, Level

Precision = Literal["float32", "bf16"]
"""The type in which the coupling networks compute."""

LOGIT_ALPHA = 0.001
"""The alpha of `glow.layers.Logit`. On MNIST it saves 0.14 bits/dim against the 0.05 of Dinh et al. (2017), as
docs/models.md shows."""


@dataclass(frozen=True)
class LogProbTerms:
    r"""The log-dets, log-priors and standardized latents of B images under a Glow of L levels.

    Log-dets and log-priors are in nats. `Glow.log_prob_terms` says how `Glow.log_prob` follows from them.

    Attributes:
        input_log_det_B: (B,), log-det of the dequantization, plus those of the input layer (`Glow.input`) and of the
            checkerboard couplings (`Glow.checkerboard`).
        log_det_BL: (B, L), log-det of each level's steps, the finest level first.
        log_prior_BL: (B, L), log p(z) of each level's latent, the finest level first.
        standardized: per level :math:`\epsilon = (z - \mu) / \sigma`, (B, C, H, W), with the mean :math:`\mu` and
            the standard deviation :math:`\sigma` of the level's prior. For images that the model generates, these are
            independent standard normal numbers. A class-conditional model without labels uses the prior of the most
            probable class of each image.

    Examples:
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=8))
        >>> terms = model.log_prob_terms(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        >>> terms.log_prior_BL.shape, terms.log_det().shape
        (torch.Size([3, 2]), torch.Size([3]))
    """

    input_log_det_B: Tensor
    log_det_BL: Tensor
    log_prior_BL: Tensor
    standardized: Sequence[Tensor]

    def log_det(self) -> Tensor:
        """Return the log-det (B,) of the whole model: of the dequantization, the input and all levels."""
        return self.input_log_det_B + self.log_det_BL.sum(1)


class Glow(nn.Module):
    r"""The multi-scale flow of Kingma & Dhariwal (2018, "Glow: Generative Flow with Invertible 1x1 Convolutions").

    ``model(x)`` and ``model.inverse(latents)`` are the flow itself. ``model(x)`` maps real-valued images in [-0.5, 0.5]
    to one latent per level; the latents have the shapes `GlowConfig.latent_shapes`. ``model.inverse`` maps latents back
    to images. `log_prob` and `bits_per_dim` take uint8 images, and `sample` returns them. The log-density of a
    real-valued image x is exact, by the change of variables

    .. math:: \log p(x) = \sum_l \log p(z_l) + \log |\det \partial z / \partial x|

    `log_prob` turns uint8 images into real-valued ones by adding noise (`dequantize`).

    ``config.seed`` determines the weights of a new model. Before a new model is trained, it must be initialized from
    data; `glow.training.trainer.Trainer` does this.

    Args:
        config: the architecture.

    Attributes:
        config: the architecture.
        input: the layer between pixels and the first level: `glow.layers.Logit` or `glow.layers.Unchanged`.
        checkerboard: the couplings at full resolution, between `input` and the first level.
        top: the prior of the last latent.
        noise: the flow of the dequantization noise for variational dequantization, else None.

    Examples:
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=8))
        >>> images = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
        >>> model.bits_per_dim(images).shape
        torch.Size([2])
        >>> latents, log_det = model(images / 256 - 0.5)
        >>> [tuple(z.shape) for z in latents]
        [(2, 2, 4, 4), (2, 8, 2, 2)]
        >>> torch.allclose(model.inverse(latents), images / 256 - 0.5, atol=1e-4)
        True
        >>> model.sample(3, temperature=0.7).shape
        torch.Size([3, 1, 8, 8])
    """

    levels: Sequence[Level]
    """The L levels, the finest first."""
    initialized: Tensor
    """bool (), whether `initialize` has run; saved with the weights."""

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed the GPUs too
            generator = torch.Generator().manual_seed(config.seed)
            levels = [Level.make(level, config, generator) for level in range(config.levels)]
            self.register_module("levels", nn.ModuleList(levels))
            self.input = Logit(LOGIT_ALPHA) if config.input == "logit" else Unchanged()
            self.top = TopPrior(config.latent_shapes[-1][0], config.num_classes)
            variational = config.dequantization == "variational"
            channels, height, width = config.image_shape
            network = network_kind(config.network, (height // 2, width // 2), config.heads)
            self.noise = NoiseFlow(channels, config.width, network) if variational else None
            # Last, so that the other weights do not depend on it.
            self.checkerboard = FullResolution(config) if config.checkerboard else Unchanged()
        self.register_buffer("initialized", torch.tensor(False))
        # In this memory format convolutions over few channels and many pixels run faster, on CPUs and GPUs.
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.top.mean.device

    @property
    def trained_classes(self) -> Tensor:
        """The classes that the model was trained on, int64 (k,), ascending; empty for a model without classes.

        What the prior adds for a class is exactly 0 until a training step has an image of the class. Before any such
        step all classes count as trained.

        Examples:
            >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=8, num_classes=3))
            >>> model.trained_classes
            tensor([0, 1, 2])
            >>> with torch.no_grad():
            ...     model.top.classes.weight[1] = 0.1
            >>> model.trained_classes
            tensor([1])
        """
        if self.top.classes is None:
            return torch.empty(0, dtype=torch.int64)
        changed_K = self.top.classes.weight.detach().cpu().any(1)
        return (changed_K if changed_K.any() else ~changed_K).nonzero().flatten()

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights."""
        return self.top.mean.dtype

    def set_precision(self, precision: Precision) -> Glow:
        """Choose the type in which the coupling networks' convolutions compute, in place.

        Everything else, such as scales, log-dets and priors, stays in the type of the weights.

        Args:
            precision: ``"bf16"``, or ``"float32"``, which stands for the type of the weights.

        Returns:
            This model.
        """
        for module in self.modules():
            if isinstance(module, CouplingNetwork):
                module.compute_dtype = torch.bfloat16 if precision == "bf16" else None
        return self

    def set_memory(self, memory: Memory) -> Glow:
        """Choose how the gradient gets the activations of the steps of flow, in place.

        Args:
            memory: ``"stored"`` stores all activations. ``"reversible"`` computes them again from the output, so that
                memory does not grow with the depth (`glow.reversible`). `backward` can then run only once through each
                result, and there are no second derivatives.

        Returns:
            This model.
        """
        for module in self.modules():
            if isinstance(module, Level):
                module.reversible = memory == "reversible"
        return self

    def forward(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode real-valued images.

        Args:
            x_BCHW: float (B, C, H, W) in [-0.5, 0.5]; B may be 0.

        Returns:
            The latent of each level, the finest first, (B, *`GlowConfig.latent_shapes`); and the log-det (B,) in nats,
            which contains neither priors nor dequantization.
        """
        latents, _, log_dets_B = self._encode(x_BCHW)
        in_order = [z_BCHW.contiguous() for z_BCHW in latents]  # not the memory layout of `as_planes`
        return in_order, sum(log_dets_B[1:], log_dets_B[0])

    def inverse(self, latents: Sequence[Tensor]) -> Tensor:
        """Decode latents into real-valued images; this is the inverse of `forward`, up to rounding errors.

        Args:
            latents: one per level, the finest first, (B, *`GlowConfig.latent_shapes`).

        Returns:
            float (B, C, H, W). The latents of images give values in [-0.5, 0.5]; other latents can give values outside.
        """
        if len(latents[-1]) == 0:
            return self.inverse([_with_one_image(z_BCHW) for z_BCHW in latents])[:0]
        x_BCHW = latents[-1]
        for level, z_BCHW in zip(reversed(self.levels), [None, *reversed(latents[:-1])], strict=True):
            if z_BCHW is not None:
                assert level.split is not None
                x_BCHW = level.split.inverse(x_BCHW, z_BCHW)
            x_BCHW = level.inverse(x_BCHW)
        return self.input.inverse(self.checkerboard.inverse(x_BCHW))

    def check_shape(self, images_BCHW: Tensor) -> None:
        """Check that images have the shape that the model was made for.

        Args:
            images_BCHW: (B, C, H, W) of any type.

        Raises:
            ValueError: if (C, H, W) is not `GlowConfig.image_shape`.
        """
        shape = tuple(images_BCHW.shape[1:])
        if shape != self.config.image_shape:
            raise ValueError(f"this Glow takes images of shape {self.config.image_shape}, not {shape}")

    @torch.no_grad()
    def initialize(self, images_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> None:
        """Initialize every ActNorm from one batch, so that its outputs have mean 0 and variance 1 per channel.

        Kingma & Dhariwal (2018, section 3.1) describe this initialization. Call it once, before training. In a process
        group, every process calls it with its share of the batch, and all processes get the same parameters.

        Args:
            images_BCHW: uint8 (B, C, H, W).
            noise_BCHW: float (B, C, H, W) in [0, 1); random if None.

        Raises:
            RuntimeError: if the model is initialized already.
            ValueError: if there are no images, or if they are not uint8 or have another shape than
                `GlowConfig.image_shape`.
        """
        if self.initialized:
            raise RuntimeError("this Glow is initialized already, and a second time would undo its training")
        if len(images_BCHW) == 0:
            raise ValueError("an empty batch has no statistics to initialize a Glow from: pass at least one image")
        x_BCHW, _ = self.dequantize(images_BCHW, noise_BCHW)
        x_BCHW = self.checkerboard.initialize(self.input.initialize(x_BCHW))
        for level in self.levels:
            x_BCHW = level.initialize(x_BCHW)
            if level.split is not None:
                x_BCHW, _ = level.split(x_BCHW)
        self.initialized.fill_(True)

    def log_prob_terms(
        self, images_BCHW: Tensor, labels_B: Tensor | None = None, noise_BCHW: Tensor | None = None
    ) -> LogProbTerms:
        """Compute the terms of the log-likelihood: log-dets, log-priors and standardized latents.

        ``log_prob = terms.log_det() + terms.log_prior_BL.sum(1) - D log 2**bits``. The last term, with its sign, is the
        log of the volume of one bin: all real-valued images that quantize to the same uint8 image.

        Args:
            images_BCHW: uint8 (B, C, H, W).
            labels_B: as for `log_prob`.
            noise_BCHW: as for `log_prob`.

        Returns:
            The terms, in nats.

        Raises:
            ValueError: if the images are not uint8, or have another shape than `GlowConfig.image_shape`.
        """
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
        """Compute the log-likelihood of uint8 images, of which only the highest `GlowConfig.bits` bits count.

        The log-likelihood depends on the noise. Its mean over the noise is a lower bound on the log of the image's
        probability (Theis et al. 2016, section 3.1; for variational noise, Ho et al. 2019, section 3.1).

        Args:
            images_BCHW: uint8 (B, C, H, W); B may be 0.
            labels_B: int64 (B,), classes for log p(x | y). Without them a class-conditional model gives log p(x), the
                mixture of all classes with equal weights.
            noise_BCHW: float (B, C, H, W) in [0, 1), such as `glow.uniform_noise` makes; random if None, so that two
                calls differ.

        Returns:
            (B,), in nats.

        Raises:
            ValueError: if the images are not uint8, or have another shape than `GlowConfig.image_shape`.
        """
        terms = self.log_prob_terms(images_BCHW, labels_B, noise_BCHW)
        return terms.log_det() + terms.log_prior_BL.sum(1) - self.config.dimensions * math.log(self.config.bins)

    def bits_per_dim(
        self, images_BCHW: Tensor, labels_B: Tensor | None = None, noise_BCHW: Tensor | None = None
    ) -> Tensor:
        """Compute the negative log-likelihood of uint8 images in bits per dimension, -log2 p(x) / D.

        Args:
            images_BCHW: uint8 (B, C, H, W).
            labels_B: as for `log_prob`.
            noise_BCHW: as for `log_prob`.

        Returns:
            (B,). For comparison, a uniform distribution over all images has `GlowConfig.bits` bits per dimension.

        Raises:
            ValueError: if the images are not uint8, or have another shape than `GlowConfig.image_shape`.
        """
        return -self.log_prob(images_BCHW, labels_B, noise_BCHW) / (self.config.dimensions * math.log(2))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw images from the model.

        At every level the latent is mean + T * sd * eps, where mean and sd are those of the level's prior, and eps is
        standard normal. So at temperature 0 the latents are the means of the priors, not 0.

        Args:
            n: number of images.
            temperature: T, at least 0; 1 samples from the model's distribution.
            generator: draws eps and random labels on its own device, so that a CPU generator draws the same numbers for
                a model on any device. None for torch's global generator of the model's device.
            labels: int64 (n,), classes for a class-conditional model. If None, they are drawn from all classes;
                draw them from `trained_classes` for a model that was trained without some.

        Returns:
            uint8 (n, C, H, W), the result of `sample_real` in grey levels. The lowest 8 - `GlowConfig.bits` bits of
            every value are 0.

        Raises:
            ValueError: if `n` or `temperature` is negative, or if an unconditional model gets labels.
        """
        return quantize(self.sample_real(n, temperature, generator, labels), self.config.bits)

    @torch.no_grad()
    def sample_real(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw real-valued images from the model, in which values that are not finite can still be seen.

        Args:
            n: as for `sample`.
            temperature: as for `sample`.
            generator: as for `sample`.
            labels: as for `sample`.

        Returns:
            float (n, C, H, W), most values in [-0.5, 0.5]. `glow.dequantization.quantize` makes images of them, and
            `glow.dequantization.not_finite` says which of them overflowed.

        Raises:
            ValueError: as for `sample`.
        """
        if n < 0:
            raise ValueError(f"the number of samples must be at least 0, not {n}")
        if temperature < 0:
            raise ValueError(f"the temperature must be at least 0, not {temperature}")
        if self.config.num_classes is None and labels is not None:
            raise ValueError("this Glow is unconditional: train one with num_classes, or sample without labels")
        if n == 0:
            return torch.empty(0, *self.config.image_shape, dtype=self.dtype, device=self.device)
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
        return self.input.inverse(self.checkerboard.inverse(x_BCHW))

    def _encode(self, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the latents, the halves passed on by the splits, and the log-dets (B,) of input and levels."""
        if x_BCHW.shape[0] == 0:
            whole = self._encode(_with_one_image(x_BCHW))
            latents, kept, log_dets_B = ([part[:0] for part in parts] for parts in whole)
            return latents, kept, log_dets_B
        latents, kept = [], []
        x_BCHW, input_log_det_B = self.input(x_BCHW)
        x_BCHW, log_det_B = self.checkerboard(x_BCHW)
        log_dets_B = [input_log_det_B + log_det_B]
        for level in self.levels:
            x_BCHW, log_det_B = level(x_BCHW)
            log_dets_B.append(log_det_B)
            if level.split is not None:
                x_BCHW, z_BCHW = level.split(x_BCHW)
                kept.append(x_BCHW)
                latents.append(z_BCHW)
        return [*latents, x_BCHW], kept, log_dets_B

    def _top_log_prob(self, z_BCHW: Tensor, labels_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log p(z) of the top latent, (B,), and z standardized, under a mixture by its most probable class."""
        classes = self.config.num_classes
        if labels_B is not None or classes is None:
            return gaussian_log_prob(z_BCHW, *self.top.prior(labels_B))
        every = torch.arange(classes, device=z_BCHW.device)
        per_class_KB = torch.stack([gaussian_log_prob(z_BCHW, *self.top.prior(label[None]))[0] for label in every])
        _, standardized_BCHW = gaussian_log_prob(z_BCHW, *self.top.prior(per_class_KB.argmax(0)))
        return per_class_KB.logsumexp(0) - math.log(classes), standardized_BCHW

    def dequantize(self, images_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make uint8 images real-valued by adding noise, from the model's noise flow if it has one.

        Args:
            images_BCHW: uint8 (B, C, H, W).
            noise_BCHW: float (B, C, H, W) in [0, 1), uniform noise; random if None. A noise flow transforms it.

        Returns:
            float (B, C, H, W) in [-0.5, 0.5]; and the log-det (B,) in nats: 0 for uniform noise, -log q(u | image) for
            variational noise u.

        Raises:
            ValueError: if the images are not uint8, or have another shape than `GlowConfig.image_shape`.
        """
        self.check_shape(images_BCHW)
        if noise_BCHW is None:
            noise_BCHW = torch.rand(images_BCHW.shape, device=images_BCHW.device)
        noise_BCHW = noise_BCHW.to(self.dtype)
        bits = self.config.bits
        if self.noise is None:
            return dequantize(images_BCHW, noise_BCHW, bits), noise_BCHW.new_zeros(noise_BCHW.shape[0])
        if images_BCHW.shape[0] == 0:
            x_BCHW, log_det_B = self.dequantize(_with_one_image(images_BCHW), _with_one_image(noise_BCHW))
            return x_BCHW[:0], log_det_B[:0]
        middle_BCHW = dequantize(images_BCHW, torch.full_like(noise_BCHW, 0.5), bits)
        noise_BCHW, log_det_B = self.noise(middle_BCHW, noise_BCHW)
        return dequantize(images_BCHW, noise_BCHW, bits), log_det_B


def _with_one_image(empty_BCHW: Tensor) -> Tensor:
    """Replace an empty batch, which reshapes and matrix products refuse, by one image of zeros.

    Callers cut its results off again, so that all gradients are zeros.
    """
    return torch.cat([empty_BCHW, empty_BCHW.new_zeros(1, *empty_BCHW.shape[1:])])
