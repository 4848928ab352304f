"""What the environment says of where this process runs: by itself, or as a job of a Ray cluster, and what that
cluster's owner has set up (docs/cluster.md)."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobError, SpecError

if TYPE_CHECKING:
    from jobs.text import JsonObject

__all__ = ["address_of", "check_file_names", "in_ray_job", "job_metadata", "node_types", "ray_job_id", "storage"]

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # which Ray sets for the entry point of a job, and for nothing else
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` leaves its file on the head


def check_file_names() -> None:
    """Raises JobError where this Python cannot tell others the names of the folders that it works in."""
    try:
        for name in (os.getcwd(), tempfile.gettempdir()):
            name.encode()
    except UnicodeEncodeError:
        raise JobError(
            "the name of this folder, or of that for temporary files, is not ASCII, and Python was told to read ASCII "
            "alone: set LC_ALL=C.UTF-8, and not PYTHONUTF8=0"
        ) from None


def in_ray_job() -> bool:
    """Whether this process is the driver of a Ray job."""
    return JOB_CONFIG in os.environ


def job_metadata() -> dict[str, str]:
    """What the job was submitted with; empty outside of one."""
    found: dict[str, str] = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata", {})
    return found


def ray_job_id() -> str | None:
    """What the Jobs API calls this job."""
    return job_metadata().get("job_submission_id")


def storage() -> str | None:
    """$GLOW_STORAGE, the folder or bucket that relative outputs lie under."""
    return os.environ.get("GLOW_STORAGE") or None


def node_types() -> tuple[dict[str, JsonObject], int | None]:
    """The kinds of machine that the cluster's autoscaler may add, as `ray up` writes them (resources, max_workers), and
    the most machines of all kinds together: from $GLOW_NODE_TYPES, or what `ray up` left on this head.

    Raises JobError for a variable that cannot be read.
    """
    given = os.environ.get("GLOW_NODE_TYPES")
    if given:
        try:
            return dict(json.loads(given)), None
        except ValueError as error:
            raise JobError(f"the cluster's GLOW_NODE_TYPES is not JSON ({error}): correct it on the head") from None
    file = Path(BOOTSTRAP).expanduser()
    if not in_ray_job() or not file.is_file():
        return {}, None
    import yaml

    config = yaml.safe_load(file.read_text())
    head = config.get("head_node_type")
    types = {name: kind for name, kind in config.get("available_node_types", {}).items() if name != head}
    return types, config.get("max_workers")


def address_of(given: str | None) -> str | None:
    """The http address of a cluster: `given`, else $RAY_ADDRESS; None for a Ray of one's own ("local", or neither), or
    for the cluster that this process is a job of already.

    Raises SpecError for an address of another kind.
    """
    address = given or (None if in_ray_job() else os.environ.get("RAY_ADDRESS"))
    if not address or address == "local":
        return None
    if not address.startswith(("http://", "https://")):
        where = "--address" if given else "$RAY_ADDRESS"
        raise SpecError(
            f"{where} is the address of a Ray dashboard such as http://localhost:8265, or local for a Ray of this "
            f"machine's own, not {address!r}"
        )
    return address.rstrip("/")
