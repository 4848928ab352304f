"""The set-up of a process that computes with a model: in a training, a trial or an evaluation."""

from __future__ import annotations

import torch

from glow.hardware import forbid_tf32
from jobs.system.process_setup import set_up_process

__all__ = ["set_up_computing"]


def set_up_computing(threads: int) -> None:
    """Set this process up to compute with a model.

    Args:
        threads: number of threads that torch uses.
    """
    set_up_process()  # on a cluster, jobs.ray_runtime.worker_preload has not done it
    torch.set_num_threads(threads)
    forbid_tf32()
