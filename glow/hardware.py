"""What a device can do with the installed version of torch.

Training calls these functions to choose the fastest precision, and to decide whether it uses the fused optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from glow.model import Precision


def hardware_precision(device: torch.device) -> Precision:
    """Return the fastest precision for the coupling networks on a device.

    This is bf16 if the hardware multiplies in bf16 (GPUs since NVIDIA's Ampere; CPUs with AVX-512 BF16), else float32:
    emulated bf16 is slower than float32.

    Args:
        device: the device; devices that are neither a CPU nor a CUDA GPU get float32.

    Returns:
        ``"bf16"`` or ``"float32"``.

    Examples:
        >>> hardware_precision(torch.device("cpu")) in ("bf16", "float32")
        True
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "float32"


def _cpu_multiplies_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # since torch 2.13; older versions have only the private function
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def forbid_tf32() -> None:
    """Make the convolutions of this process compute in float32 on NVIDIA GPUs, as float32 tensors promise.

    Since Ampere, these GPUs by default round the operands of a convolution to TF32, which has a mantissa of 10 bits.
    Torch already computes matrix products in float32 by default.

    Examples:
        >>> forbid_tf32()
        >>> torch.backends.cudnn.allow_tf32
        False
    """
    with warnings.catch_warnings():  # torch 2.9 and 2.10 warn about this name, which later versions do not
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = False


@contextmanager
def without_tf32() -> Iterator[None]:
    """Make convolutions and matrix products compute in float32 on NVIDIA GPUs inside a block, whatever the caller set.

    After the block, the settings of the caller are as before. The name of these settings depends on the version of
    torch: it refuses to read the older one of a program that has set the newer one.

    Examples:
        >>> with without_tf32():
        ...     z = torch.ones(2, 2) @ torch.ones(2, 2)
    """
    name, value = ("fp32_precision", "ieee") if hasattr(torch.backends.cudnn, "conv") else ("allow_tf32", False)
    places = (getattr(torch.backends.cudnn, "conv", torch.backends.cudnn), torch.backends.cuda.matmul)
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, value)
        yield
    finally:
        for place, setting in zip(places, before, strict=True):
            setattr(place, name, setting)


def skips_when_told(optimizer: type[torch.optim.Optimizer], device: torch.device) -> bool:
    """Return whether a fused optimizer skips the step if its attribute `found_inf` is 1.

    The function tests this with one step of one weight. `torch.amp.GradScaler` sets this attribute, but torch does not
    document it. If a version of torch reads an attribute of another name, the optimizer would also take steps with
    gradients that are not finite. So training uses the fused optimizer only if this function returns True.

    Args:
        optimizer: a class of optimizers with an argument `fused`, such as `torch.optim.Adam`.
        device: where the weight is.

    Returns:
        True if the weight did not move.

    Examples:
        >>> skips_when_told(torch.optim.Adam, torch.device("cpu"))
        True
    """
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.ones_like(weight)
    trial = optimizer([weight], fused=True)  # type: ignore[call-arg]
    trial.found_inf = torch.ones((), device=device)  # type: ignore[attr-defined]
    trial.step()
    return not weight.any()
