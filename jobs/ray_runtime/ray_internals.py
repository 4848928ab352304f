"""Private names of Ray, all of which are optional: they only shorten the start of an embedded Ray by about two seconds.

If a version of Ray lacks one of them, `ray.init` starts Ray in its usual way.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["start_fewer_processes"]

NODE = "ray._private.node"
"""The module whose class `Node` starts the processes of Ray, one method per process."""


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
