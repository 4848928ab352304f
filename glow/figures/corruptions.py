"""A figure of how many images it takes to notice a drift.

A drift is a corruption of images, such as blur, at a severity from 1 to 5. `glow.ood.corruption_power` measures how
often a detector calls batches of corrupted images out-of-distribution (OOD).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["CAUGHT", "batch_sizes_that_catch", "corruption_grid"]

CAUGHT = 0.95
"""A drift counts as caught at batch size M if at least this share of the batches is called OOD."""


def batch_sizes_that_catch(power: pd.DataFrame) -> pd.DataFrame:
    """Find the smallest batch size M that catches each corruption at each severity.

    A batch size catches a corruption if the detector calls at least the share `CAUGHT` of the batches of this size OOD.
    All larger batch sizes that were tested must catch the corruption, too.

    Args:
        power: the rows of one detector in the table that `glow.ood.corruption_power` returns.

    Returns:
        One row per corruption and one column per severity, with the smallest M, or infinity if there is no such M.

    Example:
        >>> power = pd.DataFrame({"corruption": "blur", "severity": 3, "batch_size": [1, 5, 10]})
        >>> batch_sizes_that_catch(power.assign(ratio=[0.3, 0.96, 1.0])).loc["blur", 3].item()
        5.0
    """

    def least(group: pd.DataFrame) -> float:
        caught = group.sort_values("batch_size", ascending=False)
        lasting = (caught["ratio"] >= CAUGHT).cumprod().astype(bool)
        return float(caught.loc[lasting, "batch_size"].min()) if lasting.any() else np.inf

    found = power.groupby(["corruption", "severity"], sort=False)[["batch_size", "ratio"]].apply(least)
    return found.unstack("severity").reindex(list(dict.fromkeys(power["corruption"])))


def corruption_grid(power: pd.DataFrame, title: str) -> Figure:
    """Draw a grid of the smallest batch sizes M that catch each corruption at each severity.

    See `batch_sizes_that_catch` for when a batch size catches a corruption.

    Args:
        power: the rows of one detector in the table that `glow.ood.corruption_power` returns.
        title: title of the figure.

    Returns:
        The figure: corruptions from top to bottom, severities from left to right. "> 25" in a cell means that the
        largest M that was tested, 25, does not catch the corruption.

    Raises:
        ValueError: if there are no rows.

    Example:
        >>> power = pd.DataFrame({"corruption": "blur", "severity": [1, 3], "batch_size": 10, "ratio": [0.3, 1.0]})
        >>> figure = corruption_grid(power, "drifts")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['> 10', '10']
    """
    if power.empty:
        raise ValueError(f"There is nothing to draw in the figure '{title}': no rows.")
    least = batch_sizes_that_catch(power)
    sizes = sorted(power["batch_size"].unique())
    # A cell's colour is the rank of its M: the fewer images are needed, the darker it is.
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
    xlabel = f"severity (in each cell: the smallest M at which {CAUGHT:.0%} of batches are called OOD)"
    axes.set(title=title, xlabel=xlabel)
    return figure
