"""The command ``glowctl doctor``: print a table of the hardware, packages, store and data sets, with every problem."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glowctl.errors import JobError, in_flags
from glowctl.outputs import is_remote, open_storage, usable_output
from glowctl.ray_runtime.connection import LEAST_FREE_MB, room_for_ray
from glowctl.specs.training import TrainSpec
from glowctl.system.environment import storage
from glowctl.system.machine_metrics import memory_left
from glowctl.system.scratch import free_megabytes
from glowctl.tracking.store import check_store
from glowctl.tracking.uris import TrackingError, tracking_uri, without_password

GOOD, NOTE, BAD = "ok", "note", "wrong"

"""What the first column says: usable; usable with a restriction; a training would fail."""

LEAST_MEMORY_GIB = 4
"""Free memory in GiB below which a training may run out of it."""

NO_MEMORY_GIB = 1
"""Free memory in GiB below which no training can run: the driver, Ray and a worker together take more."""

LITTLE_DISK_MB = 1000
"""Free megabytes of a disk below which there may be no room for the checkpoints of a training."""


def examine(given_uri: str | None, data_root: str | None, console: Console | None = None) -> bool:
    """Check this machine and print the results as a table.

    Args:
        given_uri: value of --tracking-uri, if given.
        data_root: value of --data-root, if given.
        console: where to print; standard output by default.

    Returns:
        False if something must be repaired before a training can run.
    """
    rows = [*_machine(), _temporary(), _output(), *_packages(), _store(given_uri), *_data_sets(data_root)]
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for state, thing, what in rows:
        colour = {GOOD: "green", NOTE: "yellow", BAD: "red"}[state]
        table.add_row(Text(state, colour), Text(thing), Text(what))
    (console or Console()).print(table, highlight=False)
    return all(state != BAD for state, _, _ in rows)


Row = tuple[str, str, str]
"""State, thing, and what is known about it."""


def _machine() -> list[Row]:
    total, free = psutil.virtual_memory().total, memory_left()
    gib = 2**30
    little = free < LEAST_MEMORY_GIB * gib
    advice = f"; glowctl needs about {LEAST_MEMORY_GIB} GiB: close other programs" if little else ""
    memory = BAD if free < NO_MEMORY_GIB * gib else NOTE if little else GOOD
    return [
        (GOOD, "python", f"{platform.python_version()} on {platform.platform()}"),
        (GOOD, "cores", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"),
        (memory, "memory", f"{free / gib:.1f} of {total / gib:.1f} GiB free{advice}"),
        _disk("disk", str(Path.cwd())),
    ]


def _disk(what: str, place: str) -> Row:
    """Say how much room the disk of a folder has."""
    free = free_megabytes(place)
    if free < LEAST_FREE_MB:
        return BAD, what, f"only {free:.0f} MB free in {place}: free some space"
    return NOTE if free < LITTLE_DISK_MB else GOOD, what, f"{free / 1000:.1f} GB free in {place}"


def _temporary() -> Row:
    try:
        return _disk("temporary", room_for_ray())
    except JobError as error:
        return BAD, "temporary", str(error)


def _output() -> Row:
    """Check the folder or bucket that --output names by default, and leave no new folder behind."""
    output = TrainSpec.model_fields["output"].default
    is_new = not Path(storage() or "", output).exists()
    try:
        place = usable_output(output)
        if is_remote(place):
            files, path = open_storage(place)
            files.get_file_info(path)
            return GOOD, "output", f"{place} answers"
        row = _disk("output", place)
    except (JobError, OSError, ValueError) as error:
        return BAD, "output", str(error)
    if is_new:
        with suppress(OSError):  # another command uses it already
            Path(place).rmdir()
    return row


def _packages() -> list[Row]:
    import torch

    from glow.training.trainer import hardware_precision

    rows: list[Row] = []
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    precision = hardware_precision(devices[0] if devices else torch.device("cpu"))
    rows.append((GOOD, "torch", f"{torch.__version__}, coupling networks in {precision}"))
    for device in devices:
        properties = torch.cuda.get_device_properties(device)
        rows.append((GOOD, f"gpu {device.index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if not devices:
        built = (
            "no GPU that torch can use"
            if torch.version.cuda
            else "none, because this torch is built without GPU support"
        )
        rows.append((NOTE, "gpu", f"{built}; training runs on the CPU cores"))
    rows.append((GOOD, "ray", metadata.version("ray")))
    rows.append((GOOD, "mlflow", metadata.version("mlflow")))
    return rows


def _store(given_uri: str | None) -> Row:
    uri = tracking_uri(given_uri)
    try:
        check_store(uri)
    except TrackingError as error:
        return BAD, "tracking", str(error)
    path = Path(uri.removeprefix("sqlite:///"))
    new = uri.startswith("sqlite:///") and not path.exists()
    return GOOD, "tracking", f"{without_password(uri)} {'will be made by the first run' if new else 'answers'}"


def _data_sets(data_root: str | None) -> list[Row]:
    from glow import datasets
    from glow.datasets.names import place_of

    rows: list[Row] = [(GOOD, "data root", str(datasets.data_root(data_root)))]
    for name in datasets.dataset_names():
        if place_of(name) is not None:  # a pattern such as folder:PATH
            continue
        found = datasets.status(name, data_root)
        if found.state == "found":
            rows.append((GOOD, name, "found"))
        elif found.state.startswith("corrupt"):
            rows.append((BAD, name, f"{found.state}. {in_flags(found.advice)}"))
        else:
            rows.append((NOTE, name, f"{found.state}; the first training on it downloads it"))
    return rows
