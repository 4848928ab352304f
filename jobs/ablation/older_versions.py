"""Resume ablations of an older glowctl: the files that Ray Tune saved for them name modules that have moved since."""

from __future__ import annotations

import sys
from importlib import import_module

import jobs.specs
from jobs.specs.training import TrainSpec

__all__ = ["know_moved_modules"]

MOVED = {
    "jobs.ablate": "jobs.ablation.tuner",
    "jobs.ablation_spec": "jobs.specs.ablation",
    "jobs.resources": "jobs.ray_runtime.resources",
    "jobs.search": "jobs.ablation.search",
    "jobs.trial": "jobs.ablation.trial",
}
"""Modules of glowctl 0.1 whose classes are in the pickles of an experiment -> their present modules."""


def know_moved_modules() -> None:
    """Register the module names of glowctl 0.1, so that this process can read the pickles that contain them."""
    for old, new in MOVED.items():
        sys.modules.setdefault(old, import_module(new))
    jobs.specs.TrainSpec = TrainSpec  # type: ignore[attr-defined]  # glowctl 0.1 had it in jobs.specs
