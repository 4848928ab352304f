"""Figures of trainings and evaluations: image grids, NLL curves and histograms, OOD ratios, ROC curves, drifts.

The functions return matplotlib figures of 8 x 5 inches (some choose another height), meant to be saved at 120 dpi.
Only `image_grid` returns an array. The colours can be told apart with every kind of colour vision (palette of Okabe
& Ito). Figures of ablations are in `glow.figures.comparison`.

Shapes: N images, R rows of S images, C channels, H rows and W columns of pixels, P points.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
BLACK, GREY = "#000000", "#666666"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)
"""Colours of lines."""

LINE_STYLES = ("-", "-.", ":", (0, (7, 2)))
"""Line styles. 4 styles and 7 colours have no common divisor, so that 28 lines look different."""

MARKERS = "os^DvPX"

BINS = 120
"""Bins of a histogram, about 7 pixels each."""

SPIKE = 40.0
"""A data set with more than this percentage of its images in one bin is a spike, whose height carries no meaning."""


def image_grid(images_NCHW: np.ndarray, columns: int | None = None, smallest_side: int = 640) -> np.ndarray:
    """Arrange images in a grid, with one white pixel between them.

    Args:
        images_NCHW: uint8 (N, C, H, W) with one channel or three; N is at least 1.
        columns: images per row; by default the smallest square grid that holds all.
        smallest_side: smallest width of the picture in pixels; each pixel is repeated until the width is reached.

    Returns:
        uint8 (H', W', 3), the picture.

    Examples:
        >>> image_grid(np.zeros((3, 1, 8, 8), np.uint8), columns=3, smallest_side=1).shape
        (10, 28, 3)
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


def image_rows(images_RSCHW: np.ndarray, row_names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, each with its name on the left.

    Args:
        images_RSCHW: uint8 (R, S, C, H, W), R rows of S images with one channel or three.
        row_names: R names.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no rows, or not one name per row.

    Examples:
        >>> figure = image_rows(np.zeros((2, 5, 1, 8, 8), np.uint8), ["T = 0.7", "T = 1"], "samples")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['T = 0.7', 'T = 1']
    """
    rows, columns, _, height, width = images_RSCHW.shape
    if len(row_names) != rows or rows == 0:
        raise ValueError(f"each row of images needs one name: there are {rows} rows and {len(row_names)} names")
    grid = image_grid(images_RSCHW.reshape(-1, *images_RSCHW.shape[2:]), columns)
    pixels = grid.shape[0] / (rows * (height + 1) + 1)  # side of a pixel of an image in the grid
    inches = 7 / (columns * width)
    figure, axes = _subplots(rows, title, "", "", max(1.5, rows * height * inches + 0.6))
    axes.imshow(grid, interpolation="nearest")
    axes.set_yticks([(row + 0.5) * (height + 1) * pixels for row in range(rows)], list(row_names))
    axes.set_xticks([])
    without_frame(axes)
    return figure


def nll_curve(history: pd.DataFrame, title: str, test_bits_per_dim: float | None = None) -> Figure:
    """Draw bits/dim against the epoch of a training.

    With at least 8 finite values, the y axis is limited so that it leaves out a steep fall in the first epochs.

    Args:
        history: columns ``epoch``, ``train_bits_per_dim`` and ``validation_bits_per_dim``; NaN where there is no value.
        title: title of the figure.
        test_bits_per_dim: result of the best model on the test set, drawn as a horizontal line if given.

    Returns:
        The figure.

    Examples:
        >>> history = pd.DataFrame({"epoch": [1, 2], "train_bits_per_dim": [5.0, 4.0]})
        >>> figure = nll_curve(history.assign(validation_bits_per_dim=[5.1, 4.2]), "digits", test_bits_per_dim=4.3)
        >>> figure.axes[0].get_legend_handles_labels()[1]
        ['train', 'validation', 'test, best model: 4.300']
    """
    figure, axes = _subplots(1, title, "epoch", "negative log-likelihood, bits/dim")
    marker = "o" if len(history) < 25 else None
    axes.plot(history["epoch"], history["train_bits_per_dim"], color=ORANGE, marker=marker, label="train")
    axes.plot(history["epoch"], history["validation_bits_per_dim"], color=BLUE, marker=marker, label="validation")
    if test_bits_per_dim is not None:
        axes.axhline(test_bits_per_dim, color=GREEN, linestyle="--", label=f"test, best model: {test_bits_per_dim:.3f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _focus(axes, history[["train_bits_per_dim", "validation_bits_per_dim"]].to_numpy(), test_bits_per_dim)
    axes.legend()
    return figure


def _focus(axes: Axes, values: np.ndarray, level: float | None) -> None:
    """Limit the view to 8 times the median's distance from the lowest value, since the first epochs fall steeply."""
    finite = values[np.isfinite(values)]
    if finite.size < 8:
        return
    lowest = min(finite.min(), level if level is not None else math.inf)
    top = lowest + 8 * max(float(np.median(finite)) - lowest, 0.01)
    if finite.max() > top:
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)


def nll_histogram(scores: pd.DataFrame, title: str, interval: tuple[float, float] | None = None) -> Figure:
    """Draw the distribution of bits/dim over the images of each data set.

    The height of a bin is the percentage of the data set's images in it; all data sets share the bins. For every data
    set, the x axis covers the values between the quantiles 0.03 and 0.97, and those values outside this range that are
    no further from it than half its width. If all these quantiles are positive and span more than a factor of 8, the x
    axis is logarithmic, and bins have equal widths on it. The number of images outside the x axis is written in its
    label. If one data set has a peak of at most `SPIKE` percent, higher peaks of other data sets are cut off, and their
    heights are written next to them.

    Args:
        scores: one row per image; columns ``dataset`` (str) and ``bits_per_dim``. Infinite and NaN values are counted
            in the legend, but neither drawn nor included in the medians.
        title: title of the figure.
        interval: the lowest and the highest bits/dim at which a single image passes the typicality test; the range
            between them is shaded. None to draw no range.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no rows.

    Examples:
        >>> scores = pd.DataFrame({"dataset": ["mnist"] * 3 + ["noise"], "bits_per_dim": [1.0, 1.2, 1.3, 8.0]})
        >>> figure = nll_histogram(scores, "MNIST model")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['mnist: 3 images, median 1.2', 'noise: 1 image, median 8']
    """
    figure, axes = _subplots(len(scores), title, "", "images per bin, % of the data set")
    samples = {str(name): group.to_numpy() for name, group in scores.groupby("dataset", sort=False)["bits_per_dim"]}
    edges, is_log = _bin_edges([finite for values in samples.values() if (finite := _finite(values)).size])
    peaks, out_of_view = {}, []
    for index, (name, values) in enumerate(samples.items()):
        counts = np.histogram(_finite(values), edges)[0]
        percent = np.where(counts > 0, 100 * counts / values.size, np.nan)  # NaN draws no line along the axis
        style = line_style(index)
        axes.stairs(percent, edges, fill=True, facecolor=(style["color"], 0.25), edgecolor="none")
        axes.stairs(percent, edges, linewidth=1.3, label=_describe(name, values), **style)
        peaks[name] = (100 * counts.max() / values.size, (counts.argmax() + 0.5) / BINS)
        if outside := _finite(values).size - counts.sum():
            out_of_view.append(f"{outside:,} of {name}")
    if interval is not None:
        label = f"typical for M = 1: {interval[0]:.3f} to {interval[1]:.3f} bits/dim"
        span = np.clip(interval, edges[0], edges[-1])
        axes.axvspan(*span, color=BLACK, alpha=0.1, linewidth=0, zorder=0, label=label)
    if is_log:
        axes.set_xscale("log")
        _number_x(axes, _round_numbers(edges[0], edges[-1]))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0)
    _cut_spikes(axes, peaks)
    label = "negative log-likelihood, bits/dim" + " (log scale)" * is_log
    if out_of_view:
        label += "\n" + textwrap.fill("images out of view: " + ", ".join(out_of_view), 100)
    axes.set_xlabel(label)
    return _finish(figure, axes)


def ood_ratio_curve(power: pd.DataFrame, title: str, alpha: float, in_distribution: str) -> Figure:
    """Draw the percentage of batches that a test calls OOD against the batch size, one line per data set.

    Args:
        power: columns ``dataset`` (str), ``batch_size``, and ``ratio``, ``ratio_low`` and ``ratio_high`` in [0, 1],
            such as `glow.ood.OodResult.power`. The band between the last two is a 95 % interval.
        title: title of the figure.
        alpha: the share of in-distribution batches that the test is meant to let pass. The nominal rate of false
            alarms, 1 - alpha, is drawn as a dashed line.
        in_distribution: the name of the data set that the model was trained on; its line is black.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no rows.

    Examples:
        >>> power = pd.DataFrame({"dataset": "noise", "batch_size": [1, 10], "ratio": [0.7, 1.0]})
        >>> figure = ood_ratio_curve(power.assign(ratio_low=0.6, ratio_high=1.0), "MNIST model", 0.99, "mnist")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['noise', 'nominal rate: 1 %']
    """
    ylabel = "batches called OOD, % (bands: 95 % intervals)"
    figure, axes = _subplots(len(power), title, "images in a batch, M (log scale)", ylabel)
    names = list(power["dataset"].unique())
    others = [name for name in names if name != in_distribution]
    for name in names:
        rows = power[power["dataset"] == name].sort_values("batch_size")
        sizes, ratio, low, high = (rows[key].to_numpy() for key in ("batch_size", "ratio", "ratio_low", "ratio_high"))
        label, look = f"{name} (in distribution)", dict[str, Any](color=BLACK, linewidth=2, marker="o", zorder=4)
        if name != in_distribution:
            index = others.index(name)
            label, look = name, _nested_style(index) | {"marker": MARKERS[index % len(MARKERS)]}
        axes.plot(sizes, 100 * ratio, label=label, **look)
        face, edge = (look["color"], 0.15), (look["color"], 0.4)  # with one batch size only the edge is visible
        axes.fill_between(sizes, 100 * low, 100 * high, facecolor=face, edgecolor=edge, linewidth=0.8)
    _nominal_line(axes, alpha)
    ticks = _spread(sorted(power["batch_size"].unique()))
    axes.set_xscale("log")
    margin = (ticks[-1] / ticks[0]) ** 0.04 if len(ticks) > 1 else 2.0
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    _number_x(axes, ticks)
    axes.set_ylim(-3, 103)  # a line at 0 or 100 is visible in its full width
    axes.set_yticks(range(0, 101, 20))
    return _finish(figure, axes)


def roc_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], title: str) -> Figure:
    """Draw ROC curves in percent, with a logarithmic axis of false-positive rates.

    Good tests differ at low false-positive rates, which the logarithmic axis spreads out. From 0 to the smallest
    positive false-positive rate of all curves, the axis is linear, so that it can show 0. The linear part always
    ends between 0.01 % and 10 %.

    Args:
        curves: for each data set the false-positive rates (P,) and true-positive rates (P,), both ascending from 0 to 1
            (`glow.ood.roc_curve`), and the AUROC.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no curves.

    Examples:
        >>> figure = roc_curves({"noise": (np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.9, 1.0]), 0.9)}, "M = 1")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['noise: AUROC 0.9000', 'chance']
    """
    figure, axes = _subplots(len(curves), title, "", "OOD batches called OOD, %")
    for index, (name, (false, true, auroc)) in enumerate(curves.items()):
        axes.plot(*_percent_points(false, true), label=f"{name}: AUROC {auroc:.4f}", **_nested_style(index))
    diagonal = np.array([0.0, 1.0])
    axes.plot(*_percent_points(diagonal, diagonal), color=BLACK, linewidth=1, linestyle="--", label="chance")
    smallest = min(float(np.min(false, where=false > 0, initial=0.1)) for false, _, _ in curves.values())
    linear = 100 * max(smallest, 1e-4)
    axes.set_xscale("symlog", linthresh=linear, linscale=0.3)
    _number_x(axes, [0.0, *_round_numbers(linear, 100)])
    axes.set_xlim(-0.1 * linear, 100)
    axes.set_ylim(0, 103)
    axes.set_xlabel(f"in-distribution batches called OOD, % (log scale above {linear:.2g} %)")
    return _finish(figure, axes)


def per_class_bars(per_class: pd.DataFrame, title: str, alpha: float) -> Figure:
    """Draw the percentage of each class's batches that a test calls OOD, with 95 % intervals.

    Args:
        per_class: one row per class, in the order to draw; columns ``class_name`` (str), ``batches`` (how many), and
            ``ratio``, ``ratio_low`` and ``ratio_high`` in [0, 1]. The last two are the ends of the 95 % interval.
        title: title of the figure.
        alpha: the share of in-distribution batches that the test is meant to let pass. The nominal rate of false
            alarms, 1 - alpha, is drawn as a dashed line.

    Returns:
        The figure.

    Raises:
        ValueError: if there are no rows.

    Examples:
        >>> classes = pd.DataFrame({"class_name": ["0", "1"], "ratio": [0.02, 0.0], "batches": [98, 113]})
        >>> figure = per_class_bars(classes.assign(ratio_low=0.0, ratio_high=0.07), "MNIST", 0.99)
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['nominal rate: 1 %', 'share with 95 % interval (batches per class: 98 to 113)']
    """
    figure, axes = _subplots(len(per_class), title, "class", "batches called OOD, %")
    ratio, low, high = (100 * per_class[key].to_numpy() for key in ("ratio", "ratio_low", "ratio_high"))
    fewest, most = per_class["batches"].min(), per_class["batches"].max()
    label = f"share with 95 % interval (batches per class: {fewest:,}" + f" to {most:,}" * bool(most > fewest) + ")"
    positions = np.arange(len(ratio))
    axes.bar(positions, ratio, width=0.7, color=BLUE, alpha=0.6, label=label)
    errors = np.maximum([ratio - low, high - ratio], 0)  # rounding can make a difference negative
    axes.errorbar(positions, ratio, errors, fmt=".", color=BLACK, elinewidth=1.2, capsize=min(4, 80 / len(ratio)))
    _nominal_line(axes, alpha)
    highest = np.nanmax([*high, *ratio, 150 * (1 - alpha), 1.0])
    axes.set_ylim(0, min(1.08 * highest, 103))
    axes.set_xlim(-0.7, len(ratio) - 0.3)
    _name_classes(axes, [str(name) for name in per_class["class_name"]])
    return _finish(figure, axes)


def _subplots(rows: int, title: str, xlabel: str, ylabel: str, height: float = 5) -> tuple[Figure, Axes]:
    if not rows:
        raise ValueError(f"There is nothing to draw in the figure '{title}': no rows.")
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def without_frame(axes: Axes) -> None:
    """Remove the frame, the grid and the marks of the ticks, for axes that hold cells or pixels.

    Examples:
        >>> figure = image_rows(np.zeros((1, 5, 1, 8, 8), np.uint8), ["T = 1"], "samples")
        >>> figure.axes[0].spines["left"].get_visible()  # `image_rows` calls this function
        False
    """
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _finish(figure: Figure, axes: Axes) -> Figure:
    """Put the legend below the axes, because every place inside may contain data."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, handlelength=3)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Return the colour and line style of a line. The first 28 lines all look different.

    Args:
        index: number of the line, from 0.

    Returns:
        ``color`` and ``linestyle``, as matplotlib takes them.

    Examples:
        >>> line_style(0)
        {'color': '#0072B2', 'linestyle': '-'}
    """
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def _nested_style(index: int) -> dict[str, Any]:
    """Make later lines thinner, so that lines on top of each other are all visible."""
    return line_style(index) | {"linewidth": max(3.5 - 0.5 * index, 1.5), "markersize": max(10 - 1.5 * index, 5)}


def _nominal_line(axes: Axes, alpha: float) -> None:
    rate = 100 * (1 - alpha)
    axes.axhline(rate, color=BLACK, linewidth=1.2, linestyle="--", label=f"nominal rate: {rate:.3g} %", zorder=3)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _describe(name: str, values: np.ndarray) -> str:
    finite = _finite(values)
    text = f"{name}: {values.size:,} image{'s' * (values.size != 1)}"
    # The mean would follow the huge NLLs that a few OOD images can have.
    text += f", median {np.median(finite):.4g}" if finite.size else ""
    return text + (f", {values.size - finite.size:,} not finite" if finite.size < values.size else "")


def _bin_edges(samples: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Return the edges of the bins, which cover the view, and whether they have equal widths on a log axis."""
    middles = [np.quantile(values, (0.03, 0.97)) for values in samples]
    is_log = bool(samples and np.min(middles) > 0 and np.max(middles) > 8 * np.min(middles))
    in_view = [] if samples else [0.0, 1.0]
    for values, (low, high) in zip(samples, middles, strict=True):
        # Half of the middle's width on each side. On a log axis this is a factor, the root of the ratio of its ends.
        reach = math.sqrt(high / low) if is_log else (high - low) / 2
        low, high = (low / reach, high * reach) if is_log else (low - reach, high + reach)
        seen = values[(values >= low) & (values <= high)]
        in_view += [seen.min(), seen.max()]
    ends = np.log([min(in_view), max(in_view)]) if is_log else np.array([min(in_view), max(in_view)])
    margin = max(0.03 * (ends[1] - ends[0]), 1e-3 * max(1.0, *abs(ends)))  # all values may be equal
    edges = np.linspace(ends[0] - margin, ends[1] + margin, BINS + 1)
    return np.exp(edges) if is_log else edges, is_log


def _cut_spikes(axes: Axes, peaks: Mapping[str, tuple[float, float]]) -> None:
    """Cut off peaks (percent, fraction of the x axis) above `SPIKE`, which would flatten the other data sets."""
    broad = [height for height, _ in peaks.values() if 0 < height <= SPIKE]
    spikes = [(index, name) for index, name in enumerate(peaks) if peaks[name][0] > SPIKE]
    if not broad or not spikes:
        return
    axes.set_ylim(0, max(1.15 * max(broad), SPIKE / 2))
    for line, (index, name) in enumerate(spikes):
        height, position = peaks[name]
        side, shift = ("right", -0.012) if position > 0.5 else ("left", 0.012)
        where, text = (position + shift, 0.97 - 0.08 * line), f"{name}: up to {height:.0f} %"
        box = {"facecolor": "white", "edgecolor": line_style(index)["color"], "boxstyle": "round,pad=0.2"}
        axes.text(*where, text, transform=axes.transAxes, ha=side, va="top", fontsize=9, bbox=box)


def _number_x(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _round_numbers(low: float, high: float) -> list[float]:
    """Return round numbers of a log axis between two ends: 1, 2, 5, 10, 20, ..., or powers of ten on a long axis."""
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, math.ceil(decades / 10))
    numbers = [float(f"{digit}e{power}") for power in powers for digit in ((1, 2, 5) if decades < 3 else (1,))]
    return [number for number in numbers if 0.999 * low <= number <= 1.001 * high]


def _spread(sizes: Sequence[float]) -> list[float]:
    """Return the first size, the last, and as many others as have room for their numbers on a log axis, ascending."""
    digit = 0.014 * math.log(sizes[-1] / sizes[0])
    kept: list[float] = []
    for size in (sizes[0], sizes[-1], *sizes[1:-1]):
        if all(abs(math.log(size / other)) > digit * (len(f"{max(size, other):g}") + 0.7) for other in kept):
            kept.append(size)
    return sorted(kept)


def _percent_points(false: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in percent, with others between them, since straight segments are curves on a log axis."""
    given = np.arange(len(false))
    points = np.union1d(given, np.linspace(0, len(false) - 1, 2001))
    return 100 * np.interp(points, given, false), 100 * np.interp(points, given, true)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    room = 850 / len(names)  # pixels at 120 dots per inch
    size = min(10.0, max(0.57 * room, 4.5))
    axes.set_xticks(range(len(names)), names, fontsize=size)
    if max(map(len, names)) * size * 1.05 > 0.95 * room:
        steep = room < 40
        axes.tick_params(axis="x", rotation=90 if steep else 35)
        for label in () if steep else axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")


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

    Examples:
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

    Examples:
        >>> power = pd.DataFrame({"corruption": "blur", "severity": [1, 3], "batch_size": 10, "ratio": [0.3, 1.0]})
        >>> figure = corruption_grid(power, "drifts")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['> 10', '10']
    """
    xlabel = f"severity (in each cell: the smallest M at which {CAUGHT:.0%} of batches are called OOD)"
    figure, axes = _subplots(len(power), title, xlabel, "", 1.8 + 0.42 * power["corruption"].nunique())
    least = batch_sizes_that_catch(power)
    sizes = sorted(power["batch_size"].unique())
    # A cell's colour is the rank of its M: the fewer images are needed, the darker it is.
    ranks = np.searchsorted(sizes, least.to_numpy()).astype(float)
    axes.pcolormesh(ranks, cmap="viridis", vmin=0, vmax=len(sizes), edgecolor="white", linewidth=1.5)
    for (row, column), m in np.ndenumerate(least.to_numpy()):
        text = f"{m:g}" if np.isfinite(m) else f"> {sizes[-1]}"
        dark = ranks[row, column] < 0.6 * len(sizes)
        axes.text(column + 0.5, row + 0.5, text, color="white" if dark else "black", ha="center", va="center")
    axes.set_xticks(np.arange(least.shape[1]) + 0.5, [str(severity) for severity in least.columns])
    axes.set_yticks(np.arange(len(least)) + 0.5, list(least.index))
    axes.invert_yaxis()
    without_frame(axes)
    return figure
