"""Check from inside a cluster that its storage, tracking server, Python packages and machines can run a job.

``glowctl --address`` submits this program as a job before the requested one, and ``glowctl cluster status`` shows its
result. It reads ``check.json`` (`output` and `tracking_uri`, as in a spec), and prints one event,
`glowctl.display.events.Checked`.
"""

from __future__ import annotations

import json
import platform
import secrets
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from glowctl.cluster.idle import seconds_left_here
from glowctl.display.displays import Wire
from glowctl.display.events import Checked, Node
from glowctl.errors import JobError
from glowctl.outputs import open_storage, usable_output
from glowctl.ray_runtime.connection import connected, set_environment
from glowctl.tracking.store import check_store
from glowctl.tracking.uris import TrackingError, tracking_uri, without_password

CHECK_FILE = "check.json"
"""File with what to check, in the job's working folder."""

NODE_TIMEOUT_S = 30.0
"""Longest wait in seconds for the answers of all machines together."""

PACKAGES = ("torch", "mlflow", "ray", "pydantic", "safetensors", "optuna", "scikit-learn", "scipy", "matplotlib")
"""Packages without which a job would fail on a machine. Installing the project installs them all."""


def main() -> None:
    """Run the checks and print their result."""
    asked = json.loads(Path(CHECK_FILE).read_text())
    set_environment()
    with Wire() as show, connected() as ready:
        ready()
        show(examine(asked["output"], asked["tracking_uri"]))


def examine(given_output: str, given_uri: str | None) -> Checked:
    """Check the cluster from this process and on every machine.

    Args:
        given_output: value of --output.
        given_uri: value of --tracking-uri; None for the $MLFLOW_TRACKING_URI with which the cluster's head was started.

    Returns:
        The machines, the tracking server, the storage, and one sentence per problem.
    """
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
        seconds_left=seconds_left_here(),
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
            found = [
                f"it did not answer within {NODE_TIMEOUT_S:.0f} s, because it is too busy or its Ray cannot start "
                "processes: restart Ray there, or remove the machine"
            ]
        except RayError as error:
            found = [
                f"it cannot run the code of this glowctl ({str(error).strip().splitlines()[-1]}): install the project "
                "there"
            ]
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
        problems.append(f"its Python has no {', '.join(missing)}: install the project there")
    return problems


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def look(output: str, marker: str, what: str) -> list[str]:
    """Make, find or remove a marker file in the storage.

    The head makes the marker file, and every machine must find it, which shows that they share the storage. A machine
    that finds the marker also writes a file of its own and removes that file, which shows that it can write there.

    Args:
        output: folder or bucket.
        marker: name of the marker file.
        what: "make", "find" or "remove".

    Returns:
        One sentence per problem.
    """
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
                f"it does not see in {output} what the head wrote there: give --output a bucket, or a folder that all "
                "machines share"
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
