"""The settings that the driver of a training gives to its workers.

This module needs no torch, because Ray Train's controller receives the settings too (`jobs.training.controller`).
"""

from __future__ import annotations

from dataclasses import dataclass

import ray

from glow.config import GlowConfig
from jobs.specs.training import TrainSpec
from jobs.training.messages import Outbox

__all__ = ["WorkerSettings"]


@dataclass(frozen=True)
class WorkerSettings:
    """The settings that every worker of a training receives.

    Attributes:
        spec: the settings of the training, without the tracking URI, which may hold a password.
        config: the configuration of the model.
        data: the result of `jobs.training.ray_trainer.put_data`; empty if each worker maps the images itself.
        outbox: the queue to the driver.
        threads: number of torch's threads.
        on_cluster: whether the machines belong to a cluster, which may take one away after a notice.
    """

    spec: TrainSpec
    config: GlowConfig
    data: list[ray.ObjectRef]
    outbox: Outbox
    threads: int
    on_cluster: bool = False
