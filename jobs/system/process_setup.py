"""Settings of a process that glowctl owns: its command, and each of its workers."""

from __future__ import annotations

import gc

from glow.memory import keep_freed_memory

__all__ = ["set_up_process"]

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""By itself Python looks for garbage every 700 new objects, which is a quarter of the time that torch, Ray and MLflow
take to be imported."""


def set_up_process() -> None:
    """Makes imports faster and keeps freed memory for the next tensor, in all of this process.

    Call it before heavy imports and before threads are made. A second call changes nothing.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    keep_freed_memory()
