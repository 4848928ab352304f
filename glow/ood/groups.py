"""Means over groups of data sets: those whose content is near to that of the model's own, and those that are far."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

__all__ = ["group_means"]

KEYS = ["detector", "dataset", "batch_size"]
MEASURES = ["auroc", "aupr", "fpr95"]


def group_means(ratios: pd.DataFrame, groups: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Return the mean figures of each detector over the data sets of each group, as OpenOOD reports them.

    Each data set counts once, however many images it has. The means have no intervals, because the data sets of a group
    are no sample of others; over several trainings, `over_trainings` gives an interval.

    Args:
        ratios: the table ``ratios`` of `glow.ood.OodResult`.
        groups: for each group the names of its data sets. A group whose data sets were not all tested has no rows.

    Returns:
        A table with the columns of ``ratios`` that have a mean: ``detector``, ``dataset``, which names the group and
        the number of its data sets, ``batch_size``, ``auroc``, ``aupr`` and ``fpr95``; ``auroc_low`` and ``auroc_high``
        are NaN.

    Examples:
        >>> ratios = pd.DataFrame({"detector": "joint", "dataset": ["svhn", "mnist"], "batch_size": 1})
        >>> ratios = ratios.assign(auroc=[0.9, 1.0], aupr=[0.8, 1.0], fpr95=[0.4, 0.0])
        >>> group_means(ratios, {"far": ["svhn", "mnist"]})[["dataset", "auroc", "fpr95"]].round(3).to_numpy().tolist()
        [['far, mean of 2', 0.95, 0.2]]

    Yang et al. 2022, "OpenOOD" (arXiv 2210.07242).
    """
    tested = set(ratios["dataset"])
    means = [
        ratios[ratios["dataset"].isin(names)].assign(dataset=f"{group}, mean of {len(names)}")
        for group, names in groups.items()
        if names and set(names) <= tested
    ]
    if not means:
        return pd.DataFrame(columns=[*KEYS, *MEASURES, "auroc_low", "auroc_high"])
    table = pd.concat(means).groupby(KEYS, sort=False)[MEASURES].mean().reset_index()
    return table.assign(auroc_low=float("nan"), auroc_high=float("nan"))
