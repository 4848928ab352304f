"""AUROCs in tables of a report, with their 95 % intervals where the record has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from jobs.report.blocks import Cell, Estimate
from jobs.text import rows_of

__all__ = ["INTERVALS", "auroc_cell", "auroc_intervals"]

INTERVALS = (
    " The 95 % interval of an AUROC is over samples of as many other test images of both data sets. It does not cover "
    "another training of the model. The batches of one M have no image in common, but those of different M consist of "
    "the same images."
)
"""Sentences to add to the caption of a table of AUROCs with intervals."""

Interval = tuple[float, float]


def auroc_intervals(ratios: pd.DataFrame) -> Mapping[tuple[str, str, int], Interval]:
    """Return the ends of the intervals of AUROCs by detector, data set and M.

    Args:
        ratios: the table `ood` of an OOD test.

    Returns:
        The intervals; none if the table is from a version of glowctl that did not record them.

    Example:
        >>> row = {"detector": "joint", "dataset": "svhn", "batch_size": 1, "auroc_low": 0.96, "auroc_high": 0.98}
        >>> auroc_intervals(pd.DataFrame([row]))
        {('joint', 'svhn', 1): (0.96, 0.98)}
    """
    if not {"auroc_low", "auroc_high"} <= set(ratios.columns):
        return {}
    return {
        (str(row["detector"]), str(row["dataset"]), int(row["batch_size"])): (row["auroc_low"], row["auroc_high"])
        for row in rows_of(ratios)
        if math.isfinite(row["auroc_low"])
    }


def auroc_cell(value: Any, interval: Interval | None, digits: int) -> Cell:
    """Return an AUROC as a cell, with its interval if there is one.

    Args:
        value: the AUROC; "-" is shown if it is not a finite number.
        interval: the ends of its interval.
        digits: number of decimals.

    Example:
        >>> auroc_cell(0.97123, (0.96, 0.98), digits=3).text
        '0.971'
        >>> auroc_cell(0.97123, None, digits=3), auroc_cell(None, None, digits=3)
        ('0.971', '-')
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text if interval is None else Estimate(text, "-".join(f"{end:.{digits}f}" for end in interval))
