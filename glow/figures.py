"""Tables and images -> pictures. Colours are told apart by people who do not see all of them (Okabe & Ito)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["image_grid", "nll_curve"]

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def image_grid(images_NCHW: np.ndarray, columns: int | None = None, smallest_side: int = 640) -> np.ndarray:
    """A picture (H', W', 3), uint8, of images side by side in rows, one pixel of white between them.

    Args:
        images_NCHW: uint8, with one channel or three.
        columns: images a row; a square grid if None.
        smallest_side: each pixel is repeated until the picture is at least so wide.
    """
    n, _, height, width = images_NCHW.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 255, np.uint8)
    for index, image_CHW in enumerate(images_NCHW):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        grid[top : top + height, left : left + width] = np.broadcast_to(image_CHW, (3, height, width)).transpose(
            1, 2, 0
        )
    repeat = math.ceil(smallest_side / grid.shape[1])
    return grid.repeat(repeat, 0).repeat(repeat, 1)


def nll_curve(history: pd.DataFrame, title: str, test_bits_per_dim: float | None = None) -> Figure:
    """Bits/dim against epoch.

    Args:
        history: columns epoch, train_bits_per_dim and validation_bits_per_dim; NaN where there is no value.
        test_bits_per_dim: drawn as a level line if given.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(history) < 25 else None
    axes.plot(history["epoch"], history["train_bits_per_dim"], color=ORANGE, marker=marker, label="train")
    axes.plot(history["epoch"], history["validation_bits_per_dim"], color=BLUE, marker=marker, label="validation")
    if test_bits_per_dim is not None:
        axes.axhline(test_bits_per_dim, color=GREEN, linestyle="--", label=f"test, best model: {test_bits_per_dim:.3f}")
    axes.set(title=title, xlabel="epoch", ylabel="negative log-likelihood, bits/dim")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _focus(axes, history[["train_bits_per_dim", "validation_bits_per_dim"]].to_numpy(), test_bits_per_dim)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _focus(axes: Axes, values: np.ndarray, level: float | None) -> None:
    """The first epochs fall steeply: leave what is above twice the median's distance from the best out of view."""
    finite = values[np.isfinite(values)]
    if finite.size < 8:
        return
    lowest = min(finite.min(), level if level is not None else math.inf)
    top = lowest + 8 * max(float(np.median(finite)) - lowest, 0.01)
    if finite.max() > top:
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)
