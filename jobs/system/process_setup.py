"""Settings of a process that glowctl owns: its command, and each of its workers."""

from __future__ import annotations

import gc

from glow.memory import keep_freed_memory
from jobs.system.verbosity import set_up_logging

__all__ = ["set_up_process"]

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""By itself Python looks for garbage every 700 new objects, which is a quarter of the time that torch, Ray and MLflow
take to be imported."""


def set_up_process() -> None:
    """Makes imports faster, keeps freed memory for the next tensor, and logs if $GLOW_VERBOSE is set, in this process.

    Call it before heavy imports and before threads are made. A second call changes nothing.
    """
    set_up_logging()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    keep_freed_memory()
