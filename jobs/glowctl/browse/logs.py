"""`glowctl logs` for a run: its log, from the folder of the run or, if the folder is gone, from MLflow."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from glowctl.errors import FAILURE, JobError
from glowctl.outputs import open_storage, place_named
from glowctl.system.verbosity import unheeded
from glowctl.tracking import tag_names
from glowctl.tracking.liveness import LOG_FILES, mark_dead
from glowctl.tracking.runs import experiment_names, named_run, read_artifact
from glowctl.tracking.store import client_of
from glowctl.tracking.uris import TrackingError, tracking_uri

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two looks for new lines."""


def show_log(name: str, given_uri: str | None, follow: bool) -> int:
    """Print the log of a run to standard output.

    Args:
        name: name of the run, the first letters of its id, or the path or URI of its folder.
        given_uri: the MLflow store; None for the default.
        follow: whether to print new lines until the run has ended.

    Returns:
        The exit code: 1 if a run that was followed did not finish, else 0.

    Raises:
        NoSuchRun: if there is no such run and no such folder.
        TrackingError: if the store does not answer.
        JobError: if the run has no log.
    """
    uri = tracking_uri(given_uri)
    run, place = _found(name, uri)
    texts = [_text(file, place, uri, run) for file in LOG_FILES]
    if texts == [""] * len(texts):
        raise JobError(
            f"run {name!r} has no log, in {place or 'a folder'} or in MLflow",
            remedy="see the run with glowctl show",
            code="no-log",
        )
    _print("".join(texts))
    if run is None or not follow:
        return 0
    shown = texts[-1]
    while True:
        status = _status(uri, run)
        shown = _print_new(shown, [_text(file, place, uri, run) for file in LOG_FILES])
        if status != "RUNNING":
            return 0 if status == "FINISHED" else FAILURE
        time.sleep(POLL_S)


def _found(name: str, uri: str) -> tuple[Run | None, str]:
    """Return the run in MLflow, and its folder or bucket; None for a folder that MLflow knows nothing of."""
    try:
        run = named_run(uri, list(experiment_names(uri)), name)
        return run, run.data.tags.get(tag_names.PLACE, "")
    except TrackingError as unknown:
        with unheeded(log, f"{name} is no folder", JobError):
            place = place_named(name)
            if any(_read(place, file) for file in LOG_FILES):
                return None, place
        raise unknown


def _text(file: str, place: str, uri: str, run: Run | None) -> str:
    """Return the content of a file of the log; empty if there is none."""
    text = _read(place, file) if place else None
    if text is None and run is not None:
        text = read_artifact(uri, run.info.run_id, file)
    return (text or b"").decode(errors="replace")


def _read(place: str, file: str) -> bytes | None:
    with unheeded(log, f"{place} has no {file}", OSError, ValueError):
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{file}") as stream:
            return bytes(stream.read())
    return None


def _status(uri: str, run: Run) -> str:
    """Return the status of a run in MLflow, after a run whose process has died is marked."""
    client = client_of(uri)
    mark_dead(client, run.info.experiment_id)
    return str(client.get_run(run.info.run_id).info.status)


def _print_new(shown: str, texts: list[str]) -> str:
    """Print what was written after `shown`, and return the newest file; the file of `shown` may have become full."""
    *full, newest = texts
    if not newest.startswith(shown):
        for text in full:
            if text.startswith(shown):
                _print(text[len(shown) :])
        shown = ""
    _print(newest[len(shown) :])
    return newest


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
