"""What can be known of a cluster only on its machines: `glowctl --address` submits this as a job before the one that is
asked for, and `glowctl cluster status` shows what it finds.

It reads `check.json` (output and tracking_uri, as a spec has them), and prints an event `jobs.display.events.Checked`.
"""

from __future__ import annotations

import json
import platform
import secrets
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.display.displays import Wire
from jobs.display.events import Checked, Node
from jobs.errors import JobError
from jobs.outputs import open_storage, usable_output
from jobs.ray_runtime.connection import connected, set_environment
from jobs.tracking import TrackingError, check_store, tracking_uri, without_password

__all__ = ["CHECK_FILE", "main"]

CHECK_FILE = "check.json"
NODE_TIMEOUT_S = 30.0

PACKAGES = ("torch", "mlflow", "ray", "pydantic", "safetensors", "optuna", "scikit-learn", "scipy", "matplotlib")
"""Without which a job would fail on a machine; `pip install` of the project brings them all."""


def main() -> None:
    asked = json.loads(Path(CHECK_FILE).read_text())
    set_environment()
    with Wire() as show, connected() as ready:
        ready()
        show(examine(asked["output"], asked["tracking_uri"]))


def examine(given_output: str, given_uri: str | None) -> Checked:
    """Where this process and every machine of the cluster stand. Takes no more than `NODE_TIMEOUT_S`."""
    problems: list[str] = []
    uri: str | None = None
    output: str | None = None
    try:
        uri = tracking_uri(given_uri)
        check_store(uri)
    except TrackingError as error:
        problems.append(f"on the cluster, {error}")
    try:
        output = usable_output(given_output)
    except JobError as error:
        problems.append(f"on the cluster, {error}")
    nodes, found = _on_every_node(output)
    return Checked(
        nodes=nodes,
        tracking=without_password(uri) if uri else None,
        storage=output,
        problems=[*problems, *found],
    )


def _on_every_node(output: str | None) -> tuple[list[Node], list[str]]:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    marker = f".glow-check-{secrets.token_hex(8)}"
    problems = [] if output is None else look(output, marker, "make")
    asked = None if problems else output
    here = platform.node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    answers = [_looks(node["NodeID"], asked, marker) for node in alive]
    nodes = []
    deadline = time.monotonic() + NODE_TIMEOUT_S
    for node, answer in zip(alive, answers, strict=True):
        name, resources = node["NodeManagerHostname"], node["Resources"]
        nodes.append(Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0)))
        try:
            found = ray.get(answer, timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError:
            found = [f"did not answer in {NODE_TIMEOUT_S:.0f} s: it is too busy, or its Ray cannot start processes"]
        except RayError as error:
            found = [f"cannot run the code of this glowctl: {str(error).strip().splitlines()[-1]}"]
        problems += [f"machine {name}: {problem}" for problem in found]
    if asked is not None:
        problems += [f"machine {here}: {problem}" for problem in look(asked, marker, "remove")]
    return nodes, problems


def _looks(node: str, output: str | None, marker: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_look_here).options(num_cpus=0, scheduling_strategy=there, max_retries=1).remote(output, marker)


def _look_here(output: str | None, marker: str) -> list[str]:
    problems = [] if output is None else look(output, marker, "find")
    missing = [package for package in PACKAGES if not _installed(package)]
    if missing:
        problems.append(f"its Python lacks {', '.join(missing)}: install the project there")
    return problems


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def look(output: str, marker: str, what: str) -> list[str]:
    """Makes, finds or removes a marker in the storage; what is wrong with it, in sentences. To find it, a machine
    writes beside it too."""
    from pyarrow.fs import FileType

    try:
        files, root = open_storage(output)
        path = f"{root}/{marker}"
        if what == "remove":
            files.delete_file(path)
        elif what == "make":
            _write(files, path)
        elif files.get_file_info(path).type != FileType.File:
            return [
                f"it does not see in {output} what the head has written there: give --output storage that all share"
            ]
        else:
            own = f"{path}-{secrets.token_hex(4)}"
            _write(files, own)
            files.delete_file(own)
    except (OSError, ValueError) as error:
        return [f"the storage {output} cannot be written ({str(error).splitlines()[0]}): choose another with --output"]
    return []


def _write(files: Any, path: str) -> None:
    with files.open_output_stream(path) as stream:
        stream.write(b"glow")


if __name__ == "__main__":
    main()
