"""What a tracking URI says, and how it is shown."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from glow.errors import UserError
from jobs.system.environment import in_ray_job

__all__ = [
    "NoSuchRun",
    "TrackingError",
    "given_tracking_uri",
    "sqlite_path",
    "tracking_uri",
    "without_password",
    "without_secrets",
]

SECRET = r"([?&][^=&]*(?:password|passwd|pwd|token|secret|key)[^=&]*=)[^&]*"


class TrackingError(UserError):
    """The MLflow store cannot be used, or holds no such run; one sentence for the user."""


class NoSuchRun(TrackingError):
    """The store answers, and does not know the run."""


def given_tracking_uri(given: str | None = None) -> str | None:
    """`given`, else $MLFLOW_TRACKING_URI; SQLite paths made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    path = sqlite_path(uri) if uri else None
    return f"sqlite:///{path}" if path is not None else uri or None


def tracking_uri(given: str | None = None) -> str:
    """`given_tracking_uri`, else a SQLite file in the working folder.

    Raises TrackingError in a job of a cluster, whose working folder goes with it.
    """
    uri = given_tracking_uri(given)
    if uri is None and in_ray_job():
        raise TrackingError(
            "there is no MLflow store: give --tracking-uri, or set MLFLOW_TRACKING_URI where the head is started"
        )
    return uri or given_tracking_uri("sqlite:///mlflow.db") or ""


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).expanduser().absolute() if uri.startswith(prefix) else None


def without_password(uri: str) -> str:
    """The URI as it may be shown: passwords and tokens in it are replaced."""
    # Up to the last @, as clients read it; a password may hold a / or a # that nobody has escaped.
    uri = re.sub(r"^([^:/?#]+://[^:/?#@]*):.*@", r"\1:***@", uri)
    return re.sub(SECRET, r"\1***", uri, flags=re.IGNORECASE)


def without_secrets(text: str, uri: str) -> str:
    """A text that may quote the URI or its password, as it may be shown."""
    shown = without_password(uri)
    text = text.replace(uri, shown)
    if found := re.match(r"^[^:/?#]+://[^:/?#@]*:(.+)@", uri):
        for password in {found[1], urllib.parse.unquote(found[1])}:
            text = text.replace(password, "***")
    return text
