"""The results of one OOD test under several trainings of a model, which differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from glow.ood.statistics import mean_interval

COLUMNS = ["trainings", "auroc", "auroc_low", "auroc_high", "auroc_sd", "images_low", "images_high"]


def over_trainings(ratios: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return mean AUROCs over trainings, with intervals that cover other trainings on the same images.

    Args:
        ratios: the table ``ratios`` of `OodResult` under each training.

    Returns:
        One row per detector, data set and M that each training was tested with: ``trainings``, their number;
        ``auroc``, the mean; its 95 % t interval over trainings, ``auroc_low`` and ``auroc_high``, cut at 0 and 1 (NaN
        for one training); ``auroc_sd``, the standard deviation over trainings; and ``images_low`` and
        ``images_high``, the means of the ends of the intervals that cover other test images under the same training.

    Examples:
        >>> row = {"detector": "joint", "dataset": "svhn", "batch_size": 1, "auroc_low": 0.9, "auroc_high": 1.0}
        >>> table = over_trainings([pd.DataFrame([{**row, "auroc": auroc}]) for auroc in (0.95, 0.97, 0.96)])
        >>> table[["dataset", "trainings", "auroc", "auroc_low", "auroc_high"]].round(4).to_numpy().tolist()
        [['svhn', 3, 0.96, 0.9352, 0.9848]]
    """
    keys = ["detector", "dataset", "batch_size"]
    rows = []
    for key, group in pd.concat(ratios).dropna(subset=["auroc"]).groupby(keys, sort=False):
        if len(group) < len(ratios):
            continue
        estimate = mean_interval(group["auroc"].to_numpy())
        low, high = np.clip([estimate.low, estimate.high], 0, 1).tolist()
        spread = float(group["auroc"].std()), float(group["auroc_low"].mean()), float(group["auroc_high"].mean())
        rows.append([*key, len(group), estimate.value, low, high, *spread])
    return pd.DataFrame(rows, columns=[*keys, *COLUMNS])
