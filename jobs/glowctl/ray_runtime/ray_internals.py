"""Private names of Ray, all of which are optional: they only save time and processes.

If a version of Ray lacks one of them, Ray starts and trains in its usual way.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

NODE = "ray._private.node"
"""The module whose class `Node` starts the processes of Ray, one method per process."""

COORDINATOR = "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator"
"""The module of the actor to which Ray Train reports the machines that it needs."""


def start_coordinator() -> None:
    """Start the coordinator without waiting for it, so that its imports and those of the command run side by side.

    Otherwise Ray Train starts it when a training begins, and waits.
    """
    with suppress(ImportError, AttributeError):
        importlib.import_module(COORDINATOR).get_or_create_autoscaling_coordinator()


def start_fewer_processes() -> None:
    """Let this process start a Ray without the processes that an embedded Ray does not need.

    These are the monitor of the autoscaler and, if there is no dashboard, the API server, which then only reports usage
    statistics.
    """
    try:
        node: Any = importlib.import_module(NODE).Node
        start_api_server, _ = node.start_api_server, node.start_monitor
    except (ImportError, AttributeError):
        return

    def start_with_dashboard(self: Any, *arguments: Any, **options: Any) -> None:
        if options.get("include_dashboard", True):
            start_api_server(self, *arguments, **options)

    node.start_api_server = start_with_dashboard
    node.start_monitor = lambda self, *arguments, **options: None


UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Callbacks of Ray Train that each start a process of 200 MB which a training does not need.

The first serves data sets of Ray Data, which are not used here. The second frees the machines of a controller that dies
before its driver, but here the driver ends with its controller. It asks Ray's dashboard whether the controller lives,
so that every training with an embedded Ray, which has no dashboard, would end 12 s later.
"""


def start_fewer_train_processes(trainer: Any) -> None:
    """Let a trainer of Ray Train start its workers without the callbacks `UNUSED`."""
    make = getattr(trainer, "_create_default_callbacks", None)
    if make is not None:
        trainer._create_default_callbacks = lambda: [each for each in make() if type(each).__name__ not in UNUSED]
