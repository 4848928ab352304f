"""The figures of a watch as a file in Prometheus's text format, which node_exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from glowctl.display import events
from glowctl.errors import JobError

EXPOSED = {
    "images": "Images that were judged.",
    "evidence": "Evidence against the stream, logarithm to base 10.",
    "threshold": "Evidence at which there is an alarm.",
    "unreadable": "Images that could not be read.",
    "alarms": "Alarms.",
}
"""The figures for Prometheus, fields of `glowctl.display.events.Watching`, and the help of each."""


def expose(path: str, progress: events.Watching, p_values: Sequence[float]) -> None:
    """Write the figures of a watch in Prometheus's text format; the file is replaced at once.

    Args:
        path: the file.
        progress: the figures.
        p_values: p-values of the latest images.

    Raises:
        JobError: if the file cannot be written.
    """
    registry = CollectorRegistry()
    for name, text in EXPOSED.items():
        Gauge(f"glow_watch_{name}", text, registry=registry).set(getattr(progress, name))
    quantiles = Gauge(
        "glow_watch_p_value", "Quantile of the p-values of the latest images.", ["quantile"], registry=registry
    )
    for quantile in (0.01, 0.1, 0.5) if p_values else ():
        quantiles.labels(quantile).set(float(np.quantile(p_values, quantile)))
    try:
        write_to_textfile(path, registry)
    except OSError as error:
        raise JobError(
            f"--prometheus {path} cannot be written ({error})", remedy="name another file", code="file-not-written"
        ) from error
