"""The set-up of the process of a command and of each of its workers: garbage collection, memory and logging."""

from __future__ import annotations

import gc

from glow.memory import keep_freed_memory
from glowctl.system.verbosity import set_up_logging

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""Number of new objects after which Python collects garbage.

Python's default, 700, costs a quarter of the time that the imports of torch, Ray and MLflow take.
"""


def set_up_process() -> None:
    """Set this process up for faster imports and reuse of freed memory, and for logging if $GLOW_VERBOSE is set.

    Call it before heavy imports and before threads start. A second call changes nothing.
    """
    set_up_logging()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    keep_freed_memory()


def set_up_computing(threads: int) -> None:
    """Set this process up to compute with a model: in a training, a trial or an evaluation.

    Args:
        threads: number of threads that torch uses.
    """
    import torch

    from glow.hardware import forbid_tf32

    set_up_process()
    torch.set_num_threads(threads)
    forbid_tf32()
