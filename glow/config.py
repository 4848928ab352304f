"""Settings of a Glow and of its training, as plain data, and the learning rates that follow from them.

This module does not import torch, so that a command-line tool can check settings without that slow import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from glow.errors import LEVELS, SIDES_ADVICE

Permutation = Literal["1x1", "shuffle", "reverse"]
"""How a step of flow mixes the channels."""

Normalization = Literal["on", "off"]
"""Whether a step of flow begins with an ActNorm."""

Coupling = Literal["affine", "additive", "spline"]
"""The map of a coupling layer."""

Scale = Literal["sigmoid", "bounded", "floored"]
"""The function that makes the scale of an affine coupling from the output of its network."""

Network = Literal["plain", "residual", "attention"]
"""The network of a coupling."""

Dequantization = Literal["uniform", "variational"]
"""The distribution of the noise that makes uint8 images continuous."""

Input = Literal["linear", "logit"]
"""The transform of pixels before the first level."""

Optimizer = Literal["adam", "adamax"]
"""The optimizer (Kingma & Ba 2015)."""

Schedule = Literal["constant", "cosine"]
"""The course of the learning rate over the steps, apart from warm-up."""

FitPrecision = Literal["auto", "bf16", "float32"]
"""The precision of the coupling networks in training."""

Memory = Literal["stored", "reversible"]
"""Whether activations are stored for the gradient, or computed again from the output."""

GradientPrecision = Literal["float32", "bf16"]
"""The precision of the gradients that processes exchange."""


@dataclass(frozen=True)
class GlowConfig:
    """The architecture of a Glow (Kingma & Dhariwal 2018, section 3 and table 1).

    Attributes:
        image_shape: (channels, height, width) of the images; height and width must be divisible by 2**levels.
        levels: L, the number of scales; every level halves the height and the width.
        depth: K, the number of steps of flow per level.
        width: number of hidden channels of each coupling network.
        permutation: how a step mixes channels: a learned ``"1x1"`` convolution, a fixed random ``"shuffle"``,
            or ``"reverse"``.
        coupling: ``"affine"``; ``"additive"``, which preserves volume; or ``"spline"``, a rational-quadratic spline per
            number (`glow.layers.spline`).
        scale: the scale of an affine coupling. ``"sigmoid"`` is the paper's sigmoid(s + 2), in (0, 1). ``"floored"`` is
            e^-2 + (1 - e^-2) sigmoid(s + 2), in (e^-2, 1), so that the inverse of a coupling stretches by at most e^2.
            ``"bounded"`` is exp(2 tanh(s / 2)), in (e^-2, e^2); the training of deep models can diverge with it. Other
            couplings ignore this setting.
        network: the networks of couplings. ``"plain"`` has the paper's three convolutions, ``"residual"`` four, two of
            which are a residual block, and ``"attention"`` a block of a vision transformer (`glow.layers.networks`).
        actnorm: ``"on"``, or ``"off"`` for steps without the scale and the bias per channel (`glow.layers.ActNorm`).
        heads: number of attention heads of each network with attention, which must divide its width.
        num_classes: number of classes on which the top prior is conditioned; None for an unconditional model.
        seed: seed of all initial weights, rotations and shuffles. Two models of one config have equal initial weights.
        bits: number of high bits of each uint8 value that the model sees, from 1 to 8. Likelihoods are those of the
            images reduced to these bits; likelihoods under different numbers of bits cannot be compared.
        dequantization: the noise that is added to pixel values. ``"uniform"`` is uniform noise. ``"variational"`` is
            noise from a second flow, which sees the image and is trained with the model (`glow.layers.NoiseFlow`).
        input: the numbers that the first level sees: pixels in [-0.5, 0.5] (``"linear"``), or their logits
            (`glow.layers.Logit`).
        checkerboard: number of couplings at full resolution before the first level, whose networks have half of `width`
            (`glow.layers.CheckerboardCoupling`).

    Raises:
        ValueError: for an impossible value; the message contains it and what is allowed.

    Examples:
        >>> config = GlowConfig(image_shape=(3, 32, 32), levels=3, depth=8, width=128)
        >>> config.dimensions, config.latent_shapes
        (3072, [(6, 16, 16), (12, 8, 8), (48, 4, 4)])
        >>> GlowConfig(image_shape=(1, 28, 28), levels=2).latent_shapes
        [(2, 14, 14), (8, 7, 7)]
    """

    image_shape: tuple[int, int, int] = (1, 32, 32)
    levels: int = 3
    depth: int = 32
    width: int = 512
    permutation: Permutation = "1x1"
    coupling: Coupling = "affine"
    scale: Scale = "sigmoid"
    num_classes: int | None = None
    seed: int = 0
    bits: int = 8
    dequantization: Dequantization = "uniform"
    input: Input = "linear"
    checkerboard: int = 0
    network: Network = "plain"
    heads: int = 4
    actnorm: Normalization = "on"

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(int(side) for side in self.image_shape))
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be (channels, height, width), each at least 1, not {self.image_shape}")
        _check_least(self, levels=1, depth=1, width=1, checkerboard=0, heads=1)
        _check_choices(self)
        widths = [self.width, *([self.width // 2] if self.checkerboard else [])]  # of FullResolution
        if self.network == "attention" and any(width % self.heads for width in widths):
            raise ValueError(f"heads must divide the width of every network ({widths}), and {self.heads} does not")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 or None, not {self.num_classes}")
        if self.bits not in range(1, 9):
            raise ValueError(f"bits must be a whole number from 1 to 8, not {self.bits}")
        check_divides(self.image_shape, self.levels)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """The shape (C, H, W) of each level's latent, from the finest level to the top.

        Together the latents have as many numbers as an image.
        """
        channels, height, width = self.image_shape
        shapes = []
        for level in range(self.levels):
            channels, height, width = channels * 4, height // 2, width // 2
            if level < self.levels - 1:
                channels //= 2
            shapes.append((channels, height, width))
        return shapes

    @property
    def dimensions(self) -> int:
        """The number of values of an image, C * H * W."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def bins(self) -> int:
        """The number of different values of a pixel in one channel, 2**bits."""
        return 2**self.bits

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary from name to value, which JSON can store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GlowConfig:
        """Make the config that `to_dict` wrote.

        Args:
            values: fields by name. Those that are absent, as in files of older versions, get their defaults.

        Raises:
            ValueError: for a key that is not the name of a field, or an impossible value.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a GlowConfig has no field {', '.join(sorted(unknown))}")
        return cls(**values)


def check_divides(image_shape: tuple[int, int, int], levels: int) -> None:
    """Check that an image's sides can be halved once per level.

    Args:
        image_shape: (C, H, W).
        levels: L.

    Raises:
        ValueError: if 2**levels does not divide height and width. The message suggests levels or sides that fit.

    Examples:
        >>> check_divides((1, 28, 28), levels=2)
        >>> check_divides((1, 28, 28), levels=3)
        Traceback (most recent call last):
            ...
        ValueError: levels=3 halves the image 3 times, and 28x28 is not divisible by 8: use at most levels=2, or ...
    """
    _, height, width = image_shape
    divisor = 2**levels
    if height % divisor or width % divisor:
        most = min((side & -side).bit_length() - 1 for side in (height, width))
        fewer = f"use at most {LEVELS}{most}, or " if most else ""
        enough = math.ceil(max(height, width) / divisor) * divisor
        raise ValueError(
            f"{LEVELS}{levels} halves the image {levels} times, and {height}x{width} is not divisible by {divisor}: "
            f"{fewer}{SIDES_ADVICE} {divisor}, such as {enough}"
        )


@dataclass(frozen=True)
class FitConfig:
    """The settings of a training run.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images per step, over all processes together.
        learning_rate: the base learning rate, which is multiplied by the factors of warm-up and of the schedule.
        optimizer: ``"adam"`` or ``"adamax"`` (Kingma & Ba 2015). There is no weight decay: it would pull
            log-scales to 0.
        warmup_steps: number of steps over which the learning rate grows linearly from 0.
        schedule: the factor by which the learning rate is multiplied, apart from warm-up: ``"constant"`` is 1 at all
            steps, ``"cosine"`` falls from 1 at the first step to 0 after the last one.
        clip_norm: largest L2 norm of the gradient of bits/dim; a longer gradient is scaled down to it. None for no
            clipping.
        ema: decay per step of an exponential moving average of the weights, from 0 to 1, both excluded. The averaged
            model is then the one that is evaluated and saved. None for no average.
        precision: the precision of the coupling networks: ``"bf16"``, ``"float32"``, or ``"auto"``, which is bf16 if
            the hardware multiplies in bf16, else float32 (`glow.hardware.hardware_precision`).
        memory: ``"stored"`` keeps every activation for the gradient. ``"reversible"`` computes the activations again
            from the outputs of the steps of flow: memory then does not grow with the depth, and a training step takes
            about 1.4 times as long.
        compile: whether to use `torch.compile`, which takes a minute or more at the start. It is meant for GPUs; on
            CPUs steps are as fast without it.
        accumulate: number of parts into which each process splits its share of a batch. It computes the parts one after
            the other, to save memory.
        seed: seed of the order of the images, of their dequantization noise, and of flips and mutations.
        flip: whether to mirror each training image left to right with probability 1/2, drawn again in each epoch. Use
            it for data in which an image and its mirror image are equally likely, such as photographs.
        mutation: expected share of the values of each training image that are replaced by random values, from 0 to
            below 1. Each epoch replaces other values. A model that is trained with more than 0 is a background model
            (`glow.training.augmentation.mutate`).
        gradient_precision: the precision of the gradients that processes exchange. ``"bf16"`` halves the bytes of
            ``"float32"``, but rounds each process's share and the sum to 8 significant bits, so that the steps depend
            on the number of processes. With one process it changes nothing.

    Raises:
        ValueError: for an impossible value; the message contains it and what is allowed.

    Examples:
        >>> FitConfig(epochs=20, learning_rate=3e-4).optimizer
        'adam'
        >>> FitConfig(optimizer="sgd")
        Traceback (most recent call last):
            ...
        ValueError: optimizer must be one of adam, adamax, not 'sgd'
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    warmup_steps: int = 300
    schedule: Schedule = "cosine"
    clip_norm: float | None = 100.0
    ema: float | None = None
    precision: FitPrecision = "auto"
    memory: Memory = "stored"
    compile: bool = False
    accumulate: int = 1
    seed: int = 0
    flip: bool = False
    mutation: float = 0.0
    gradient_precision: GradientPrecision = "float32"

    def __post_init__(self) -> None:
        _check_least(self, epochs=1, batch_size=1, accumulate=1, warmup_steps=0)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0 or None, not {self.clip_norm}")
        if not 0 <= self.mutation < 1:
            raise ValueError(f"mutation must be from 0 to below 1, not {self.mutation}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1 or None, not {self.ema}")
        _check_choices(self)
        if self.compile and self.memory == "reversible":
            raise ValueError("memory reversible cannot be compiled: use memory stored, or leave compile out")


def _check_least(config: GlowConfig | FitConfig, **least: int) -> None:
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise ValueError(f"{name} must be at least {smallest}, not {getattr(config, name)}")


def _check_choices(config: GlowConfig | FitConfig) -> None:
    """Check every field whose type lists its values."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")


def learning_rate_at(config: FitConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    With W warm-up steps, the warm-up is min(1, (step + 1) / W). The cosine schedule is (1 + cos(pi step / steps)) / 2.

    Args:
        config: the settings of the training.
        step: number of finished steps.
        steps: number of steps of the whole training.

    Examples:
        >>> config = FitConfig(learning_rate=0.01, warmup_steps=4, schedule="constant")
        >>> [learning_rate_at(config, step, steps=6) for step in range(6)]
        [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]
    """
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps or 1))
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate


def highest_learning_rate(config: FitConfig, steps: int) -> float:
    """Return the highest learning rate of a training, which is below `FitConfig.learning_rate` if steps are few.

    Args:
        config: the settings of the training.
        steps: number of steps of the whole training, at least 1.

    Examples:
        >>> highest_learning_rate(FitConfig(learning_rate=0.01, warmup_steps=300, schedule="constant"), steps=150)
        0.005
    """
    # After the warm-up no schedule raises the rate.
    return max(learning_rate_at(config, step, steps) for step in range(min(max(1, config.warmup_steps), steps)))
