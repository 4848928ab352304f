"""What a Glow is made of, as plain data: no torch here, so that a command line can import it at no cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from glow.errors import SIDES_ADVICE

__all__ = [
    "Coupling",
    "Dequantization",
    "FitConfig",
    "FitPrecision",
    "GlowConfig",
    "GradientPrecision",
    "Input",
    "Memory",
    "Optimizer",
    "Permutation",
    "Scale",
    "Schedule",
    "check_divides",
]

Permutation = Literal["1x1", "shuffle", "reverse"]
Coupling = Literal["affine", "additive", "spline"]
Scale = Literal["sigmoid", "bounded", "floored"]
Dequantization = Literal["uniform", "variational"]
Input = Literal["linear", "logit"]
Optimizer = Literal["adam", "adamax"]
Schedule = Literal["constant", "cosine"]
FitPrecision = Literal["auto", "bf16", "float32"]
Memory = Literal["stored", "reversible"]
GradientPrecision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class GlowConfig:
    """The architecture of a Glow (Kingma & Dhariwal 2018, section 3 and table 1).

    Args:
        image_shape: (channels, height, width) of the images; height and width must be divisible by 2**levels.
        levels: L, the number of scales; every level halves the sides.
        depth: K, the number of flow steps a level.
        width: hidden channels of each coupling network.
        permutation: how a step mixes channels: a learned ``"1x1"`` convolution, a fixed random ``"shuffle"``,
            or ``"reverse"``.
        coupling: ``"affine"`` or ``"additive"`` (volume preserving).
        scale: the scale of an affine coupling: ``"sigmoid"``, the paper's sigmoid(s + 2), in (0, 1); or
            ``"bounded"``, exp(2 tanh(s / 2)), in (e^-2, e^2), whose inverse cannot explode.
        num_classes: classes that the top prior is conditioned on; None for an unconditional model.
        seed: draws every initial weight, rotation and shuffle. Models of one config are equal.
        bits: of each uint8 value the model sees this many, the highest; likelihoods are those of the image so reduced,
            and cannot be compared with those of another number of bits.
        dequantization: the noise that is added to an image's whole numbers: ``"uniform"``, or ``"variational"``, drawn
            by a flow that sees the image and is trained with the rest (`glow.layers.NoiseFlow`).
        input: what the first level sees: pixels in [-0.5, 0.5] (``"linear"``), or their logits (`glow.layers.Logit`).

    Raises:
        ValueError: for a value that no Glow can have, naming it and what is allowed.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(int(side) for side in self.image_shape))
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape is (channels, height, width), each at least 1, not {self.image_shape}")
        for name in ("levels", "depth", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, choices in (
            ("permutation", Permutation),
            ("coupling", Coupling),
            ("scale", Scale),
            ("dequantization", Dequantization),
            ("input", Input),
        ):
            _check_choice(name, getattr(self, name), choices)
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 or None, not {self.num_classes}")
        if self.bits not in range(1, 9):
            raise ValueError(f"bits must be a whole number from 1 to 8, not {self.bits}")
        check_divides(self.image_shape, self.levels)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of the latent that each level leaves, from the finest to the top; together as many
        numbers as an image has."""
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
        """Numbers in an image, C * H * W."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def bins(self) -> int:
        """Values that a pixel of one channel can have, 2**bits."""
        return 2**self.bits

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GlowConfig:
        """The config that `to_dict` wrote. Raises ValueError for a key that no GlowConfig has."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not a Glow config: unknown {', '.join(sorted(unknown))}")
        return cls(**values)


def check_divides(image_shape: tuple[int, int, int], levels: int) -> None:
    """Raises ValueError if an image's sides cannot be halved `levels` times."""
    _, height, width = image_shape
    divisor = 2**levels
    if height % divisor or width % divisor:
        most = min((side & -side).bit_length() - 1 for side in (height, width))
        fewer = f"use at most {most} levels, or " if most else ""
        enough = math.ceil(max(height, width) / divisor) * divisor
        raise ValueError(
            f"{levels} levels halve the image {levels} times, and {height}x{width} is not divisible by {divisor}: "
            f"{fewer}{SIDES_ADVICE} {divisor}, such as {enough}"
        )


@dataclass(frozen=True)
class FitConfig:
    """How a Glow is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all processes together.
        learning_rate: the peak, after warm-up.
        optimizer: ``"adam"`` or ``"adamax"`` (Kingma & Ba 2015). No weight decay: it would pull log-scales to 1.
        warmup_steps: steps over which the learning rate grows linearly from 0.
        schedule: ``"constant"``, or ``"cosine"`` decay to 0 at the last step.
        clip_norm: gradients of a larger norm (of bits/dim) are scaled down to this one; None for no clipping.
        ema: decay of an exponential moving average of the weights, which is then what is evaluated and saved; None
            for the weights themselves.
        precision: of the coupling networks' convolutions: ``"bf16"``, ``"float32"``, or ``"auto"``, bf16 where the
            hardware computes in it.
        memory: ``"stored"`` keeps every activation for the gradient. ``"reversible"`` makes them again from the steps'
            outputs, so that memory does not grow with the depth, for about 1.4 times the time.
        compile: use torch.compile (a minute or more at the start). Meant for GPUs: on CPUs steps are as fast without.
        accumulate: parts that each process computes its share of a batch in, to save memory.
        seed: of the order of the images, of their dequantisation noise and of flips.
        flip: mirror images left to right, half of them in each epoch, while training. For data whose mirror images are
            as likely, such as photographs.
        mutation: the share of the numbers of each training image that is replaced by random ones, anew in each epoch,
            which makes a background model (`glow.augmentation.mutate`).
        gradient_precision: of the gradients that processes send each other: ``"bf16"`` is half the bytes of
            ``"float32"``. Each process's share and the sum are then rounded to 8 bits, so that another number of
            processes takes other steps. It changes nothing in one process.

    Raises:
        ValueError: for a value that cannot be, naming it and what is allowed.
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
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, not {self.warmup_steps}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0 or None, not {self.clip_norm}")
        if not 0 <= self.mutation < 1:
            raise ValueError(f"mutation must be from 0 to below 1, not {self.mutation}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1 or None, not {self.ema}")
        for name, choices in (
            ("optimizer", Optimizer),
            ("schedule", Schedule),
            ("precision", FitPrecision),
            ("memory", Memory),
            ("gradient_precision", GradientPrecision),
        ):
            _check_choice(name, getattr(self, name), choices)
        if self.compile and self.memory == "reversible":
            raise ValueError("reversible steps cannot be compiled: use memory stored, or no compile")


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")
