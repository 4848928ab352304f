"""The environment of this process: whether it is the job of a Ray cluster, and what the cluster's owner has set up.

docs/cluster.md describes the variables for owners of clusters.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from glowctl.errors import JobError, SpecError

if TYPE_CHECKING:
    from glowctl.text import JsonObject

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets for the entry point of a job only."""

BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""The file in which `ray up` leaves the configuration of the cluster on its head."""


def check_file_names() -> None:
    """Check that the names of the working folder and of the temporary folder can be encoded for other processes.

    Raises:
        JobError: if a name is not UTF-8, or is not ASCII although Python reads file names as ASCII.
    """
    for what, name in (("working folder", os.getcwd()), ("folder for temporary files", tempfile.gettempdir())):
        try:
            name.encode()
        except UnicodeEncodeError:
            if sys.getfilesystemencoding() == "utf-8":
                raise JobError(
                    f"the name of the {what}, {name!a}, is not UTF-8",
                    remedy="rename the folder, or choose another (TMPDIR names that for temporary files)",
                    code="file-names-not-utf-8",
                ) from None
            raise JobError(
                f"the name of the {what}, {name!a}, is not ASCII, but this Python reads file names as ASCII",
                remedy="set the variable LC_ALL=C.UTF-8, and remove PYTHONUTF8=0 if it is set",
                code="file-names-not-ascii",
            ) from None


def in_ray_job() -> bool:
    """Return whether this process is the driver of a Ray job."""
    return JOB_CONFIG in os.environ


def job_metadata() -> dict[str, str]:
    """Return the metadata with which the job was submitted; empty if this process is not a job."""
    found: dict[str, str] = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata", {})
    return found


def ray_job_id() -> str | None:
    """Return the id of this job in Ray's Jobs API; None if this process is not a job."""
    return job_metadata().get("job_submission_id")


def storage() -> str | None:
    """Return $GLOW_STORAGE, the folder or bucket that a relative ``--output`` is inside; None if it is not set."""
    return os.environ.get("GLOW_STORAGE") or None


def node_types() -> tuple[dict[str, JsonObject], int | None]:
    """Return the types of machine that the cluster's autoscaler can add.

    They come from $GLOW_NODE_TYPES or, in a Ray job without this variable, from the file that `ray up` has left on the
    head node. Without both, there are no types.

    Returns:
        A dictionary and a number. The dictionary has the types by name, each with its settings as in the configuration
        of `ray up` (resources, max_workers). It leaves out the type of the head node in that file. The number
        is the largest number of machines of all types together, without the head node; it is None if unknown.

    Raises:
        JobError: if $GLOW_NODE_TYPES is not JSON.
    """
    given = os.environ.get("GLOW_NODE_TYPES")
    if given:
        try:
            return dict(json.loads(given)), None
        except ValueError as error:
            raise JobError(
                f"the variable GLOW_NODE_TYPES of the cluster is not JSON ({error})",
                remedy="correct it on the head of the cluster",
                code="variable-not-json",
            ) from None
    file = Path(BOOTSTRAP).expanduser()
    if not in_ray_job() or not file.is_file():
        return {}, None
    import yaml

    config = yaml.safe_load(file.read_text())
    head = config.get("head_node_type")
    types = {name: kind for name, kind in config.get("available_node_types", {}).items() if name != head}
    return types, config.get("max_workers")


def address_of(given: str | None) -> str | None:
    """Return the HTTP address of the cluster that a command should use: `given`, else $RAY_ADDRESS.

    Returns:
        The address without a slash at the end. None means that the command needs no address: it uses an embedded Ray
        (for "local", or if neither is set) or, in a job of a cluster, the cluster that runs the job.

    Raises:
        SpecError: if the address does not start with http:// or https://.
    """
    address = given or (None if in_ray_job() else os.environ.get("RAY_ADDRESS"))
    if not address or address == "local":
        return None
    if not address.startswith(("http://", "https://")):
        where = "--address" if given else "$RAY_ADDRESS"
        raise SpecError(
            f"{where} {address} is not the address of a Ray dashboard",
            remedy="give an HTTP address such as http://localhost:8265, or local for a private Ray on this machine",
            code="ray-address",
        )
    return address.rstrip("/")
