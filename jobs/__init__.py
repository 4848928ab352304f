"""What runs on Ray and writes to MLflow: `cli` is where it begins. Each of its processes is set up here."""

import gc

from glow.memory import keep_freed_memory

__all__: list[str] = []

# Python looks for garbage every 700 new objects: a quarter of the time that torch, Ray and MLflow take to be imported.
gc.set_threshold(200_000)

keep_freed_memory()
