"""How many images it takes to notice a drift, as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["CAUGHT", "batch_sizes_that_catch", "corruption_grid"]

CAUGHT = 0.95
"""A drift is caught at M if so many of the batches are called OOD."""


def batch_sizes_that_catch(power: pd.DataFrame) -> pd.DataFrame:
    """The least M at which each corruption is caught at each severity, and at every larger M that was tested.

    Args:
        power: of `glow.ood.corruption_power`, of one detector.

    Returns:
        A row for each corruption, a column for each severity; infinity where no M that was tested catches it.
    """

    def least(group: pd.DataFrame) -> float:
        caught = group.sort_values("batch_size", ascending=False)
        lasting = (caught["ratio"] >= CAUGHT).cumprod().astype(bool)
        return float(caught.loc[lasting, "batch_size"].min()) if lasting.any() else np.inf

    found = power.groupby(["corruption", "severity"], sort=False)[["batch_size", "ratio"]].apply(least)
    return found.unstack("severity").reindex(list(dict.fromkeys(power["corruption"])))


def corruption_grid(power: pd.DataFrame, title: str) -> Figure:
    """The least M that catches each corruption at each severity.

    Args:
        power: of `glow.ood.corruption_power`, of one detector.

    Raises:
        ValueError: there are no rows.
    """
    if power.empty:
        raise ValueError(f"There is nothing to draw in the figure '{title}': no rows.")
    least = batch_sizes_that_catch(power)
    sizes = sorted(power["batch_size"].unique())
    # The fewer images, the darker: a cell's colour is the rank of its M.
    ranks = np.searchsorted(sizes, least.to_numpy()).astype(float)
    figure = Figure(figsize=(8, 1.8 + 0.42 * len(least)), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(ranks, cmap="viridis", vmin=0, vmax=len(sizes), edgecolor="white", linewidth=1.5)
    for (row, column), m in np.ndenumerate(least.to_numpy()):
        text = f"{m:g}" if np.isfinite(m) else f"> {sizes[-1]}"
        dark = ranks[row, column] < 0.6 * len(sizes)
        axes.text(column + 0.5, row + 0.5, text, color="white" if dark else "black", ha="center", va="center")
    axes.set_xticks(np.arange(least.shape[1]) + 0.5, [str(severity) for severity in least.columns])
    axes.set_yticks(np.arange(len(least)) + 0.5, list(least.index))
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title=title, xlabel=f"severity; in each cell the least M at which {CAUGHT:.0%} of batches are called OOD")
    return figure
