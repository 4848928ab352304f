"""The Ray of `jobs.ray_runtime.connection`, in a process of its own: started by
`jobs.ray_runtime.embedded_guard`, which ends it.

It starts beside the command, which has seconds of imports before it, and can be killed at any moment without a word to
that command's own process: what Ray starts dies with the process that started it.
"""

from __future__ import annotations

import sys

import ray


def main(folder: str, object_store_bytes: int) -> None:
    """Starts Ray with its files in `folder`, says its address, and waits to be killed"""
    ray.init(
        "local",
        object_store_memory=object_store_bytes,
        include_dashboard=True,  # without it placement groups of killed trials are never freed
        dashboard_host="127.0.0.1",
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
        log_to_driver=False,
        logging_level="error",
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.buffer.read()  # and for the guard's death, if somebody kills that


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
