"""The objective of training, as a module whose gradients are averaged over the processes of a group."""

# This file does not postpone annotations, because DistributedDataParallel compares those of a hook with types.

import inspect

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from glow.config import FitConfig
from glow.distributed import world_size
from glow.model import Glow


class BitsPerDim(nn.Module):
    """`Glow.bits_per_dim` as the forward of a module, the form that DistributedDataParallel and torch.compile need.

    Args:
        model: the Glow; it is not copied.

    Examples:
        >>> from glow import GlowConfig
        >>> objective = BitsPerDim(Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4)))
        >>> images, noise = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.full((3, 1, 4, 4), 0.5)
        >>> objective(images, None, noise).shape
        torch.Size([3])
    """

    def __init__(self, model: Glow) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, labels_B: Tensor | None, noise_BCHW: Tensor) -> Tensor:
        """Return the bits per dimension (B,) of uint8 images under noise in [0, 1)."""
        return self.model.bits_per_dim(images_BCHW, labels_B, noise_BCHW)


def make_objective(model: Glow, config: FitConfig, device: torch.device) -> nn.Module:
    """Make the objective of this process.

    Args:
        model: the Glow, on the device.
        config: the settings of the training; only `compile` and `gradient_precision` are used here.
        device: the device that trains.

    Returns:
        A `BitsPerDim`. In a group of several processes it is wrapped in DistributedDataParallel, which averages the
        gradients over the processes in every backward pass.

    Examples:
        >>> from glow import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> type(make_objective(model, FitConfig(), torch.device("cpu"))).__name__
        'BitsPerDim'
    """
    objective: nn.Module = BitsPerDim(model)
    if world_size() > 1:
        objective = _data_parallel(objective, config, device)
    if config.compile:
        objective.compile()
    return objective


def _data_parallel(objective: nn.Module, config: FitConfig, device: torch.device) -> DistributedDataParallel:
    parameters = inspect.signature(DistributedDataParallel).parameters
    # torch 2.13 has given this option another name, and warns of the old one. No buffer changes after the first batch.
    at_each_step = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    parallel = DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{at_each_step: False},  # type: ignore[arg-type]
    )
    if config.gradient_precision == "bf16":
        parallel.register_comm_hook(None, _average_in_bf16)
    return parallel


def _average_in_bf16(state: None, bucket: dist.GradBucket) -> Future[Tensor]:
    """Average gradients in bf16, as torch's `bf16_compress_hook` does.

    A torch that is built without NCCL refuses that hook, although gloo sums bf16.
    """
    gradient = bucket.buffer()
    share = gradient.bfloat16().div_(world_size())

    def decoded(reduced: Future[list[Tensor]]) -> Tensor:
        return gradient.copy_(reduced.value()[0])

    return dist.all_reduce(share, async_op=True).get_future().then(decoded)
