"""The settings of ``glowctl watch``. Nothing here imports torch, Ray or MLflow, because every command imports this."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from glowctl.specs.base import Positive, Share, Text, as_text, same_as, setting
from glowctl.specs.evaluation import CheckSpec, ModelSpec


def read_guarantee(text: str) -> int | None:
    """Read the value of ``--guarantee``.

    Returns:
        None for "ever", and N for "every=N".

    Raises:
        ValueError: for any other text.

    Examples:
        >>> read_guarantee("ever"), read_guarantee("every=10000")
        (None, 10000)
    """
    if text == "ever":
        return None
    found = re.fullmatch(r"every=(\d{1,12})", text)
    if found is None or int(found[1]) < 2:
        raise ValueError(f"must be ever, or every=N with N from 2, such as every=10000, not {text!r}")
    return int(found[1])


class WatchSpec(ModelSpec):
    """The settings of ``glowctl watch``, which raises an alarm when a stream of images no longer belongs."""

    source: Text = setting(..., "Data", "camera")
    """Folder or bucket that images arrive in, also in subfolders, or - for paths on standard input, one per line."""
    thin: Positive = setting(1, "Data", 10)
    """Judge only each N-th image, for streams in which neighbouring images resemble each other."""
    reference: Text | None = setting(None, "Test", "folder:healthy")
    """Images that belong, such as those of a healthy day, with which others are compared: a folder or a data set.
    Without it: the images that were held out of the training."""
    ranks: Literal["growing", "fixed"] = setting("growing", "Test", "fixed")
    """Scores that each new one is ranked among. growing: those of the reference and of all earlier images. fixed: those
    of the reference alone."""
    guarantee: Annotated[str, as_text(read_guarantee)] = setting("ever", "Test", "every=10000")
    """Promise about false alarms. ever: with probability --alpha there is never one. every=N: there are on average at
    least N images between two."""
    alpha: Share = setting(0.99, "Test", 0.999)
    """Probability that a stream of images that belong never has an alarm, with --guarantee ever."""
    detector: Text | None = same_as(CheckSpec, "detector")
    encoder_weights: Text | None = same_as(CheckSpec, "encoder_weights")
    encoder_download: bool = same_as(CheckSpec, "encoder_download")
    on_alarm: Text | None = setting(None, "Results", "https://example.com/hook")
    """URL that gets a POST request, or command that gets standard input, with the facts of an alarm as JSON.
    Alarms within ten minutes after it are only counted."""
    exit_on_alarm: bool = setting(False, "Results", True)
    """End at the first alarm, with exit code 3."""
    prometheus: Text | None = setting(None, "Results", "/var/lib/node_exporter/glow.prom")
    """File for the figures in Prometheus's text format, for the textfile collector of node_exporter."""
