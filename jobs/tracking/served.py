"""Requests that `glowctl show` and `glowctl ui` send to the REST API of an MLflow server.

They find out which store the server serves, whether it has a run, and which page to open. Arguments named
`address` are the address of the server, such as http://127.0.0.1:5000.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
import urllib.parse
import zlib
from typing import TYPE_CHECKING, Any

from jobs.system.verbosity import unheeded
from jobs.tracking import tag_names
from jobs.tracking.servers import ask_server
from jobs.tracking.store import TrackingError, client_of, sentences

if TYPE_CHECKING:
    from requests import Response

    from jobs.text import JsonObject

__all__ = ["VIEW", "answers", "is_mlflow", "knows_run", "landing_page", "run_page", "serves"]

log = logging.getLogger(__name__)


TIMEOUT_S = 5.0
"""Seconds to wait for an answer."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine."""

PROBE_TAG = tag_names.UI_PROBE
VIEW = "glowresults"
"""Key of the saved view of the table of runs that `landing_page` creates."""

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
COLUMNS = (
    "metrics.`test/bits_per_dim`",
    "metrics.`validation/best_bits_per_dim`",
    "params.`permutation`",
    "params.`depth`",
    "params.`width`",
    "params.`seed`",
)
"""Columns of the table of runs in that view. MLflow's own table shows no metrics."""

WIDTHS = {"attributes.`Run Name`": 345, "runDateAndNestInfo": 135, "duration": 75, COLUMNS[0]: 115, COLUMNS[1]: 115}
"""Widths of columns in pixels. By default the UI cuts the names of runs after about 20 letters."""

CLASSIC = "workflowType=machine_learning"
"""Query parameter that selects the view for models.

Without it, a browser that is new to MLflow shows the view for language models, whatever the experiment's kind is.
"""


def answers(address: str) -> bool:
    """Return whether a server at this address reports that it is healthy."""
    import requests

    try:
        return _request(address, "/health").ok
    except (requests.RequestException, TrackingError):
        return False


def is_mlflow(address: str) -> bool:
    """Return whether the server at this address answers MLflow's REST API."""
    return _ask(address, "experiments/search", {"max_results": 1}) is not None


def knows_run(address: str, run_id: str) -> bool:
    """Return whether the server at this address has a run with this id."""
    return _ask(address, "runs/get", {"run_id": run_id}) is not None


def serves(address: str, uri: str) -> bool:
    """Return whether the server at this address serves this store.

    A random tag is written to the store's first experiment, looked for through the server, and removed.

    Args:
        address: the server.
        uri: the store.

    Raises:
        TrackingError: if the store fails.
    """
    with sentences(uri):
        client, mark = client_of(uri), secrets.token_hex(8)
        found = client.search_experiments(max_results=1)
        if not found:
            return False
        client.set_experiment_tag(found[0].experiment_id, PROBE_TAG, mark)
        try:
            seen = _ask(address, "experiments/get", {"experiment_id": found[0].experiment_id})
        finally:
            client.delete_experiment_tag(found[0].experiment_id, PROBE_TAG)
    return seen is not None and {"key": PROBE_TAG, "value": mark} in seen["experiment"].get("tags", [])


def landing_page(address: str) -> str:
    """Return the address of the page that `glowctl ui` opens: a table of the runs of one experiment.

    It is the experiment with the newest run. The page uses a saved view, which adds columns for results to the table;
    the view is created if the experiment lacks it. If there are no runs, the page is the list of experiments.
    """
    page = f"{_without_user(address)}/#/experiments"
    known = (_ask(address, "experiments/search", {"max_results": 1000}) or {}).get("experiments", [])
    ids = [experiment["experiment_id"] for experiment in known]
    newest = {"experiment_ids": ids, "max_results": 1, "order_by": ["attributes.start_time DESC"]}
    runs = (_ask(address, "runs/search", post=newest) or {}).get("runs", []) if ids else []
    if not runs:
        return f"{page}?{CLASSIC}"
    experiment = runs[0]["info"]["experiment_id"]
    view = f"&viewStateShareKey={VIEW}" if _has_view(address, experiment, known) else ""
    return f"{page}/{experiment}/runs?{CLASSIC}{view}"


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, without user and password."""
    return f"{_without_user(address)}/#/experiments/{experiment_id}/runs/{run_id}?{CLASSIC}"


def _without_user(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _has_view(address: str, experiment: str, known: list[JsonObject]) -> bool:
    """Return whether the experiment has the view of `COLUMNS` now, which is created if it lacks it."""
    tags = next(found.get("tags", []) for found in known if found["experiment_id"] == experiment)
    if any(tag["key"] == VIEW_TAG for tag in tags):
        return True
    given = {"experiment_id": experiment, "key": VIEW_TAG, "value": _view()}
    return _ask(address, "experiments/set-experiment-tag", post=given) is not None


def _view() -> str:
    """Return the view in the format in which the UI itself stores a view that a user saves."""
    order = [*WIDTHS, *(column for column in COLUMNS if column not in WIDTHS)]
    state = json.dumps({"selectedColumns": COLUMNS, "columnOrder": order, "columnWidths": WIDTHS})
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(state.encode())).decode()
    return json.dumps({"name": "glow results", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})


def _request(address: str, endpoint: str, method: str = "GET", **content: Any) -> Response:
    """Send a request with the user's credentials, or, on this machine, without them and without proxies.

    A program of another user may have the port on this machine, and no proxy could reach it.
    """
    import requests

    if urllib.parse.urlsplit(address).hostname not in LOOPBACK:
        return ask_server(address, endpoint, TIMEOUT_S, method, **content)
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, f"{address}{endpoint}", timeout=TIMEOUT_S, **content)


def _ask(address: str, what: str, get: JsonObject | None = None, post: JsonObject | None = None) -> JsonObject | None:
    """Return the answer of MLflow's REST API to a GET request, or to a POST if `post` is given; None on errors."""
    import requests

    endpoint = f"/api/2.0/mlflow/{what}"
    failed = f"{_without_user(address)}{endpoint} does not answer"
    with unheeded(log, failed, requests.RequestException, ValueError, TrackingError):
        if post is None:
            answer = _request(address, endpoint, params=get)
        else:
            answer = _request(address, endpoint, "POST", json=post)
        told = answer.json() if answer.ok else None
        return told if isinstance(told, dict) else None
    return None
