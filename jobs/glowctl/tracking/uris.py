"""Tracking URIs, which are the addresses of MLflow stores: which one applies, and how to show one without its password.

The errors of this package are defined here, because every other module of it needs them.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from glow.errors import UserError
from glowctl.system.environment import in_ray_job

SECRET = r"([?&][^=&]*(?:password|passwd|pwd|token|secret|key)[^=&]*=)[^&]*"
"""Matches a query parameter whose name suggests a secret; group 1 is everything before its value."""


SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL", re.IGNORECASE)
"""Matches the names of environment variables whose values are secrets."""

SECRET_LENGTH = 6
"""Least length of such a value: shorter ones, such as 1, are no secrets, and appear in any text."""

SECRET_VARIABLES = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
"""Environment variables whose values MLflow sends to a server, and which errors can quote."""


class TrackingError(UserError):
    """The error for an MLflow store that cannot be used, or that lacks what was asked for."""


class NoSuchRun(TrackingError):
    """The error for a run that the store does not have, although the store answers."""


def given_tracking_uri(given: str | None = None) -> str | None:
    """Return `given` or else $MLFLOW_TRACKING_URI, with the path of a SQLite file made absolute.

    Args:
        given: the value of --tracking-uri, or None.

    Returns:
        The URI, or None if neither is set.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    path = sqlite_path(uri) if uri else None
    return f"sqlite:///{path}" if path is not None else uri or None


def tracking_uri(given: str | None = None) -> str:
    """Return the URI of the store: `given`, or else $MLFLOW_TRACKING_URI, or else mlflow.db in the working folder.

    The path of a SQLite file is made absolute.

    Args:
        given: the value of --tracking-uri, or None.

    Raises:
        TrackingError: in a Ray job, if neither `given` nor $MLFLOW_TRACKING_URI is set, because Ray deletes the working
            folder of a job with the job.
    """
    uri = given_tracking_uri(given)
    if uri is None and in_ray_job():
        raise TrackingError(
            "a job on a cluster needs an MLflow store, and none is given",
            remedy="pass --tracking-uri, or set MLFLOW_TRACKING_URI where the Ray head is started",
            code="store-not-given",
        )
    return uri or given_tracking_uri("sqlite:///mlflow.db") or ""


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite store's file, or None for a store of another kind.

    Examples:
        >>> sqlite_path("sqlite:////data/mlflow.db").as_posix()
        '/data/mlflow.db'
    """
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).expanduser().absolute() if uri.startswith(prefix) else None


def without_password(uri: str) -> str:
    """Return the URI with every password and token in it replaced by ***.

    Examples:
        >>> without_password("postgresql://me:secret@host/db")
        'postgresql://me:***@host/db'
        >>> without_password("s3://bucket/runs?access_key=abc")
        's3://bucket/runs?access_key=***'
    """
    # The password ends at the last @, as database clients read it: it may contain a / or # that was not escaped.
    uri = re.sub(r"^([^:/?#]+://[^:/?#@]*):.*@", r"\1:***@", uri)
    return re.sub(SECRET, r"\1***", uri, flags=re.IGNORECASE)


def secrets_here() -> list[str]:
    """Return the values of this process's environment variables whose names tell of secrets."""
    named = (value for name, value in os.environ.items() if SECRET_NAME.search(name))
    return [value for value in named if len(value) >= SECRET_LENGTH]


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return a text with *** for every password in a URI, and for these secrets.

    Examples:
        >>> redacted("cannot read https://me:secret@host/x?token=abc as hunter2", ["hunter2"])
        'cannot read https://me:***@host/x?token=*** as ***'
    """
    text = re.sub(r"(\b[a-z][a-z0-9+.-]*://[^:/?#@\s]*):\S*@", r"\1:***@", text)
    text = re.sub(SECRET.replace("[^&]*", r"[^&\s]*"), r"\1***", text, flags=re.IGNORECASE)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def without_secrets(text: str, uri: str) -> str:
    """Return a text, such as an error message, with *** wherever it quotes the URI's password or MLflow's credentials.

    Examples:
        >>> without_secrets("login as me with s/t failed", "postgresql://me:s%2Ft@host/db")
        'login as me with *** failed'
    """
    shown = without_password(uri)
    text = text.replace(uri, shown)
    if found := re.match(r"^[^:/?#]+://[^:/?#@]*:(.+)@", uri):
        for password in {found[1], urllib.parse.unquote(found[1])}:
            text = text.replace(password, "***")
    for name in SECRET_VARIABLES:
        if secret := os.environ.get(name, "").strip():
            text = text.replace(secret, "***")
    return text
