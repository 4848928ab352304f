"""What training minimises, as a module: over the processes of a group, whose gradients it averages."""

# Annotations are not postponed here: DistributedDataParallel compares those of a hook with its own.

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from glow.config import FitConfig
from glow.distributed import world_size
from glow.model import Glow

__all__ = ["BitsPerDim", "make_objective"]


class BitsPerDim(nn.Module):
    """`Glow.bits_per_dim` as a forward, which is what DistributedDataParallel and torch.compile see."""

    def __init__(self, model: Glow) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, labels_B: Tensor | None, noise_BCHW: Tensor) -> Tensor:
        return self.model.bits_per_dim(images_BCHW, labels_B, noise_BCHW)


def make_objective(model: Glow, config: FitConfig, device: torch.device) -> nn.Module:
    """`BitsPerDim`, in a process group under DistributedDataParallel."""
    objective: nn.Module = BitsPerDim(model)
    if world_size() > 1:
        objective = _data_parallel(objective, config, device)
    if config.compile:
        objective.compile()
    return objective


def _data_parallel(objective: nn.Module, config: FitConfig, device: torch.device) -> DistributedDataParallel:
    parallel = DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,
    )
    if config.gradient_precision == "bf16":
        parallel.register_comm_hook(None, _average_in_bf16)
    return parallel


def _average_in_bf16(state: None, bucket: dist.GradBucket) -> Future[Tensor]:
    """torch's `bf16_compress_hook`, which torch refuses where it is built without NCCL, although gloo sums bf16."""
    gradient = bucket.buffer()
    share = gradient.bfloat16().div_(world_size())

    def decoded(reduced: Future[list[Tensor]]) -> Tensor:
        return gradient.copy_(reduced.value()[0])

    return dist.all_reduce(share, async_op=True).get_future().then(decoded)
