"""The few collective operations that training needs. In a single process they do nothing."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce_sum", "rank", "world_size"]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    return dist.get_world_size() if _joined() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, in place, on every process."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x
