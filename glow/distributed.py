"""The few collective operations that training needs.

They use the process group of `torch.distributed` if one is initialized. Without one they behave as in a group of a
single process, so that callers need not check whether there is a group.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process in its group, from 0; 0 without a group.

    Examples:
        >>> rank()
        0
    """
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return the number of processes in the group; 1 without a group.

    Examples:
        >>> world_size()
        1
    """
    return dist.get_world_size() if _joined() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place.

    Every process of the group must call this function, with a tensor of the same shape and type.

    Args:
        x: a tensor on a device that the group's backend supports. It is overwritten by the sum.

    Returns:
        `x` itself, with the same sum in every process.

    Examples:
        >>> import torch
        >>> all_reduce_sum(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if world_size() > 1:
        dist.all_reduce(x)
    return x
