"""What the device at hand can do, asked of the device and of this version of torch."""

from __future__ import annotations

import torch
from torch import nn

from glow.model import Precision

__all__ = ["hardware_precision", "skips_when_told"]


def hardware_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies in it, else float32 (emulated bf16 is slower than float32)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "float32"


def _cpu_multiplies_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.13 has it
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def skips_when_told(optimizer: type[torch.optim.Optimizer], device: torch.device) -> bool:
    """Whether the fused optimizer leaves a step out that it is told to, tried on a single number.

    torch does not document `found_inf`. A version that reads another name would take steps on gradients that are not
    finite, and so the one that cannot be told is not used.
    """
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.ones_like(weight)
    trial = optimizer([weight], fused=True)  # type: ignore[call-arg]
    trial.found_inf = torch.ones((), device=device)  # type: ignore[attr-defined]
    trial.step()
    return not weight.any()
