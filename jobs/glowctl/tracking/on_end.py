"""`--on-end`: tell an address or a command how a run has ended.

The process that writes the final status of a run calls `tell_end` afterwards: the run's driver or, if it was killed,
the one that calls `glowctl.tracking.liveness.mark_dead`. So a run tells its end once.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glowctl.tracking import tag_names
from glowctl.tracking.pages import every_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("glowctl.on_end")

TIMEOUT_S = 5.0
"""Longest wait in seconds for an answer of an address."""

TRIES = 3
"""Number of times that an address is called, if it does not answer or answers that its server failed."""

COMMAND_TIMEOUT_S = 30.0
"""Seconds after which a command is killed."""

COSTS = ("core_seconds", "gpu_seconds", "price")
"""The metrics of a training or a trial with its cost."""


def tell_end(client: MlflowClient, run_id: str) -> None:
    """Tell the address or the command of a run's ``--on-end``, if it has one, how the run has ended.

    A failure is logged, and changes nothing about the run.

    Args:
        client: client of the store.
        run_id: the run, whose final status is written.
    """
    try:
        run = client.get_run(run_id)
        hook = run.data.tags.get(tag_names.ON_END)
        if hook is None:
            return
        tell(hook, end_of(client, run))
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        log.warning("--on-end was not told how the run ended (%s: %s)", type(error).__name__, said[0])


def tell(hook: str, facts: Mapping[str, Any]) -> None:
    """Send facts as JSON to an address, or to the standard input of a command.

    Args:
        hook: the address or the command.
        facts: the facts.

    Raises:
        Exception: if the address or the command does not take them in time.
    """
    content = json.dumps(facts)
    if hook.startswith(("http://", "https://")):
        _post(hook, content)
    else:
        _execute(hook, content)


def end_of(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Return how a run has ended, as `tell_end` tells it; docs/record.md describes the fields."""
    tags, info = run.data.tags, run.info
    return {
        "job": tags.get(tag_names.JOB, ""),
        "state": info.status.lower(),
        "run": info.run_name,
        "run_id": info.run_id,
        "cause": tags.get(tag_names.ERROR),
        "seconds": (info.end_time - info.start_time) / 1000,
        "result": {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")},
        "cost": _cost(client, run),
        "place": tags.get(tag_names.PLACE),
    }


def _cost(client: MlflowClient, run: Run) -> Mapping[str, float]:
    """Return the core and GPU seconds of a training, or of all trials of an ablation, as far as they are recorded."""
    of_run = {name: run.data.metrics[name] for name in COSTS if name in run.data.metrics}
    if of_run or run.data.tags.get(tag_names.JOB) != "ablate":
        return of_run
    nested = f"tags.`{tag_names.PARENT}` = '{run.info.run_id}'"
    trials = list(every_run(client, (run.info.experiment_id,), nested))
    known = {name: [trial.data.metrics[name] for trial in trials if name in trial.data.metrics] for name in COSTS}
    return {name: sum(costs) for name, costs in known.items() if costs}


def _post(address: str, content: str) -> None:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(TRIES - 1, backoff_factor=0.5, status_forcelist=range(500, 600), allowed_methods=None)
    with requests.Session() as session:
        session.mount(address, HTTPAdapter(max_retries=again))
        answer = session.post(address, data=content, headers={"Content-Type": "application/json"}, timeout=TIMEOUT_S)
        answer.raise_for_status()


def _execute(command: str, content: str) -> None:
    done = subprocess.run(
        shlex.split(command), input=content, text=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(": ".join([f"exit code {done.returncode}", *said]))
