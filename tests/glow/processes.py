"""Run a function in several real processes that form one gloo group."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_processes(world_size: int, function: Callable[..., Any], arguments: tuple, folder: Path) -> list[Any]:
    """Return the results of `function(*arguments)` in all processes, by rank."""
    mp.spawn(_join, (world_size, function, arguments, str(folder)), nprocs=world_size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def _join(rank: int, world_size: int, function: Callable[..., Any], arguments: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    # The result is on disk. A normal exit aborts the process once in hundreds of runs: a thread of gloo releases its
    # last tensor while the interpreter shuts down.
    os._exit(0)
