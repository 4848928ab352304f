"""Requests to MLflow servers, with the credentials and certificates that MLflow's own client uses."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jobs.tracking.databases import PROBE_TIMEOUT_S, load_mlflow
from jobs.tracking.uris import TrackingError, without_password, without_secrets

if TYPE_CHECKING:
    from requests import Response

__all__ = ["ask_server", "check_server"]


def check_server(uri: str) -> None:
    """Check within seconds that an MLflow server answers.

    The first request has no credentials, because most servers need none and the import of MLflow takes a second.

    Raises:
        TrackingError: if the server does not answer, or refuses the request also with the user's credentials.
    """
    import requests

    answer = None
    try:
        with suppress(requests.exceptions.SSLError):
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
    except requests.RequestException as error:
        raise _no_answer(uri, error) from None
    if answer is None or not answer.ok:
        answer = ask_server(uri, "/health", PROBE_TIMEOUT_S)
    if not answer.ok:
        raise TrackingError(
            f"the MLflow server at {without_password(uri)} answers with HTTP status {answer.status_code}",
            remedy="check the address, the server's option --allowed-hosts, and MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            code="store-refuses",
        )


def ask_server(uri: str, endpoint: str, timeout_s: float, method: str = "GET", **content: Any) -> Response:
    """Send one request to an MLflow server as MLflow's client does, and return the answer, whatever its status is.

    Args:
        uri: address of the server.
        endpoint: what follows the address, such as "/health".
        timeout_s: seconds to wait for the answer.
        method: the HTTP method.
        **content: arguments `params` and `json` of `requests.request`.

    Raises:
        TrackingError: if the server does not answer, or the user's credentials cannot be read.
    """
    load_mlflow()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        credentials = get_default_host_creds(uri)
        answer: Response = http_request(
            credentials, endpoint, method, max_retries=0, timeout=timeout_s, raise_on_status=False, **content
        )
    except Exception as error:  # of MLflow, which hides the error of `requests` in its context
        raise _no_answer(uri, error.__context__ or error) from None
    return answer


def _no_answer(uri: str, error: BaseException) -> TrackingError:
    """Return the error for a server that does not answer. It has no text of `requests`, which can quote a token."""
    import requests

    own = isinstance(error, requests.RequestException)
    told = type(error).__name__ if own else without_secrets(str(error).partition("\n")[0], uri)
    remedy = "start it, or correct --tracking-uri"
    if isinstance(error, requests.exceptions.SSLError):
        remedy = "name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
    return TrackingError(
        f"the MLflow server at {without_password(uri)} does not answer ({told})",
        remedy=remedy,
        code="store-unreachable",
    )
