"""Figures of an ablation, in the style of `glow.figures.pictures`.

An ablation trains several configurations with several seeds each. `curves_with_bands` shows their trainings,
`heat_map` and `parallel_coordinates` the results of many configurations, and `difference_intervals` the comparisons of
`glow.comparison.paired_differences`. Save the figures at 120 dpi.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from glow.figures.pictures import BLACK, BLUE, GREY, MARKERS, ORANGE, line_style, without_frame
from glow.ood.statistics import mean_interval

WIDTH, HEIGHT, TALLEST, DPI = 8.0, 5.0, 12.0, 120
"""Width, height and largest height of a figure in inches, and dots per inch. Only figures with many rows are taller."""

EMPTY, DASH = "#CCCCCC", "\N{EN DASH}"
"""Colour and text of cells without a value."""

BAND_NOTE = "line: mean over seeds; band: 95 % t interval of the mean; thin lines: the seeds"

# The brightest part of the colour map is left out, because it is hard to see as a line on white.
COLORS = LinearSegmentedColormap.from_list("bits/dim", matplotlib.colormaps["viridis"](np.linspace(0, 0.92, 256)))


def curves_with_bands(curves: pd.DataFrame, title: str, ylabel: str = "test NLL (bits/dim)") -> Figure:
    """Draw bits/dim against the epoch: for each configuration, the mean over its seeds and a band around the mean.

    The band is the 95 % t interval of the mean. If a configuration has several seeds, thin faint lines show them.

    The mean is drawn only at epochs at which all seeds of the configuration have a value, since it would jump at an
    epoch at which a seed stopped early. A seed without any value does not count. The limits of the y axis depend on the
    lines, not on the bands, and leave out the steep fall of the first epochs. If a line is completely above the upper
    limit, the legend says that it is "above the view".

    Args:
        curves: one row per configuration, seed and epoch; columns ``name`` (of the configuration), ``seed``, ``epoch``
            and ``bits_per_dim`` (NaN where there is no value). Names are drawn in order of appearance.
        title: title of the figure.
        ylabel: label of the y axis.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no value, or a seed has several values at one epoch.

    Examples:
        >>> curves = pd.DataFrame({"name": "1x1", "seed": [0, 0, 1, 1], "epoch": [1, 2] * 2})
        >>> figure = curves_with_bands(curves.assign(bits_per_dim=[4.0, 3.5, 4.2, 3.6]), "permutations")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['1x1 (2 seeds)']
    """
    finite = _with_finite(curves, "bits_per_dim")
    figure, axes = _figure(len(finite), title)
    if finite.duplicated(["name", "seed", "epoch"]).any():
        raise ValueError(f"The figure '{title}' needs one value per name, seed and epoch, but there are several.")
    names = list(curves["name"].unique())
    marked, band_alpha = finite["epoch"].nunique() < 25, max(0.16 - 0.01 * len(names), 0.05)
    for index, name in enumerate(names):
        look = line_style(index) | {"marker": MARKERS[index % len(MARKERS)] if marked else None, "markersize": 4}
        seeds = finite[finite["name"] == name].pivot(index="epoch", columns="seed", values="bits_per_dim")
        common = seeds.dropna()  # epochs at which all seeds have a value
        estimates = [mean_interval(values) for values in common.to_numpy()]
        mean, low, high = np.reshape([(each.value, each.low, each.high) for each in estimates], (-1, 3)).T
        if seeds.shape[1] > 1:
            for seed, values in seeds.items():
                axes.plot(values.dropna(), color=look["color"], lw=0.7, alpha=0.35, label=f"_{name}, seed {seed}")
            face, edge = (look["color"], band_alpha), (look["color"], 0.3)  # with one epoch only the edge is visible
            axes.fill_between(common.index, low, high, fc=face, ec=edge, lw=0.5, label=f"_{name}")
        axes.plot(common.index, mean, lw=1.8, zorder=3, label=f"{name} ({_count(seeds.shape[1], 'seed')})", **look)
    bottom, top = _view([np.asarray(line.get_ydata(), float) for line in axes.lines])
    for line in axes.lines:
        if np.size(line.get_ydata()) and np.min(line.get_ydata()) > top:
            line.set_label(f"{line.get_label()}, above the view")
    axes.set(ylim=(bottom, top), xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    _legend(figure, axes, BAND_NOTE if axes.collections else None)
    return figure


def heat_map(table: pd.DataFrame, title: str) -> Figure:
    r"""Draw bits/dim for each depth (rows, ascending upwards) and width (columns), and frame the lowest value.

    The scale of colours leaves out values that are far worse than most, so that the others differ in colour.

    Args:
        table: one row per cell; columns ``depth``, ``width``, ``bits_per_dim`` and, optionally, ``half_width``, which
            the cell shows after "±": half the length of the interval around ``bits_per_dim``. Cells without a value
            are grey.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no value, or there are several rows of one depth and width.

    Examples:
        >>> table = pd.DataFrame({"depth": [8, 16], "width": 64, "bits_per_dim": [3.6, 3.5], "half_width": 0.02})
        >>> figure = heat_map(table, "depth and width")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3.600\n± 0.020', '3.500\n± 0.020']
    """
    if table.duplicated(["depth", "width"]).any():
        raise ValueError(f"The figure '{title}' needs one row per depth and width, but there are several.")
    figure, axes = _figure(len(_with_finite(table, "bits_per_dim")), title, 2 + 0.45 * table["depth"].nunique())
    cells = table.assign(half_width=table.get("half_width", np.nan)).pivot(index="depth", columns="width")
    values, margins = (np.ma.masked_invalid(cells[key].to_numpy(float)) for key in ("bits_per_dim", "half_width"))
    depths, widths = cells.index, cells["bits_per_dim"].columns
    low, high = _widened(values.min(), min(values.max(), _view([values.compressed()])[1]))
    mesh = axes.pcolormesh(values, cmap=COLORS, vmin=low, vmax=high, edgecolor="white", linewidth=1.5)
    size = min(11.0, 600 / len(widths) / (0.6 * 7 * DPI / 72))  # points, so that 7 characters fit into a column
    for (row, column), value in np.ndenumerate(values.filled(np.nan)):
        text, color = f"{value:.3f}" if np.isfinite(value) else DASH, BLACK
        if np.isfinite(value) and np.dot(np.power(mesh.to_rgba(value)[:3], 2.2), (0.2126, 0.7152, 0.0722)) < 0.18:
            color = "#FFFFFF"  # white has more contrast than black below a luminance of 0.18
        if np.isfinite(value) and not np.ma.is_masked(margins[row, column]):
            text += f"\n± {margins[row, column]:.3f}"
        axes.text(column + 0.5, row + 0.5, text, color=color, fontsize=size, ha="center", va="center")
    row, column = np.unravel_index(values.argmin(), values.shape)
    inset = np.array([0.004 * len(widths), 0.006 * len(depths)])
    axes.add_patch(Rectangle((column + inset[0], row + inset[1]), *(1 - 2 * inset), fill=False, ec=ORANGE, lw=3.5))
    axes.set_xticks(np.arange(len(widths)) + 0.5, [f"{width:g}" for width in widths])
    axes.set_yticks(np.arange(len(depths)) + 0.5, [f"{depth:g}" for depth in depths])
    without_frame(axes)
    axes.set(xlabel="width", ylabel="depth", facecolor=EMPTY)
    extend = "max" if values.max() > high else "neither"
    figure.colorbar(mesh, ax=axes, extend=extend, label="bits/dim (lower is better; the best is framed)")
    return figure


def parallel_coordinates(table: pd.DataFrame, factors: Sequence[str], title: str) -> Figure:
    """Draw each row as a line that crosses one axis per factor and ends at the row's bits/dim.

    The colour of a line also shows its bits/dim. The best row is drawn on top, as a thicker line. A factor that does
    not vary has no axis, unless no factor varies. The axis of a factor whose values are numbers has a log scale if all
    are positive and the largest is more than 3 times the smallest. Rows with the same value of a factor are spread a
    little around the tick of the value, with the best at the bottom and the worst at the top, so that every line can be
    followed.

    Args:
        table: one row per configuration; columns ``bits_per_dim`` (rows without a value are left out) and the factors,
            which can be numbers or any objects that print as a name.
        factors: names of the columns to draw, from left to right.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if no row has a value, or there is no factor.

    Examples:
        >>> table = pd.DataFrame({"permutation": ["1x1", "reverse"], "depth": [8, 16], "bits_per_dim": [3.5, 3.6]})
        >>> figure = parallel_coordinates(table, ["permutation", "depth"], "search")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['the best of 2 rows: 3.500 bits/dim']
    """
    if not factors:
        raise ValueError(f"The figure '{title}' needs at least one factor.")
    rows = _with_finite(table, "bits_per_dim").reset_index(drop=True).sort_values("bits_per_dim", kind="stable")
    figure, axes = _figure(len(rows), title)
    factors = [factor for factor in factors if rows[factor].nunique(dropna=False) > 1] or list(factors)
    room = 780 / len(factors)  # pixels between two axes
    values = rows["bits_per_dim"].to_numpy(float)
    points, labels = [], []
    for x, factor in enumerate(factors):
        places, ticks, is_log = _places(rows[factor])
        points.append(places)
        labels.append("\n".join(textwrap.wrap(factor, max(int(room / 9), 6))) + "\n(log scale)" * is_log)
        axes.axvline(x, color=BLACK, linewidth=1, zorder=1.5)
        _name_ticks(axes, x, ticks, room)
    low, high = _widened(values.min(), values.max())
    points.append((values - low) / (high - low))
    mappable = ScalarMappable(Normalize(*_widened(low, high, 0.06)), COLORS)
    for row in reversed(range(len(rows))):
        look: dict[str, Any] = {"linewidth": 1.3, "label": f"_{rows.index[row]}"}
        if row == 0:
            look = {"linewidth": 3.5, "label": f"the best of {_count(len(rows), 'row')}: {values[row]:.3f} bits/dim"}
            look["path_effects"] = [withStroke(linewidth=6, foreground="white")]
        axes.plot([places[row] for places in points], color=mappable.to_rgba(values[row]), clip_on=False, **look)
    axes.set_xticks(range(len(factors)), labels)
    # The colour bar begins and ends where the axes do, so that it serves as the last axis.
    axes.set(xlim=(-0.03, len(factors)), ylim=(-0.06, 1.06), yticks=[])
    without_frame(axes)
    figure.colorbar(mappable, ax=axes, pad=0, fraction=0.04, aspect=25, label="bits/dim (lower is better)")
    _legend(figure, axes)
    return figure


def difference_intervals(differences: pd.DataFrame, title: str) -> Figure:
    """Draw the difference of each pair "a - b" in bits/dim with its interval, grouped by factor.

    An interval that reaches many times as far from 0 as most is cut off and ends in an arrow. The difference, the
    interval and the number of seeds are also written on the right of each row.

    Args:
        differences: the table that `glow.comparison.paired_differences` returns: columns ``factor``, ``a``, ``b``,
            ``difference`` (of a minus b; rows without one are left out), ``low`` and ``high`` (NaN if unknown), and
            ``seeds``.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no difference.

    Examples:
        >>> row = {"factor": "depth", "a": 8, "b": 16, "difference": 0.1, "low": 0.075, "high": 0.125, "seeds": 3}
        >>> figure = difference_intervals(pd.DataFrame([row]), "depth")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+0.1000 [+0.0750, +0.1250], 3 seeds']
    """
    rows = _with_finite(differences.astype({"low": float, "high": float}), "difference")
    entries: list[tuple[str, Any]] = []  # the text on the left, and the row of the table, None for a heading
    for factor, group in rows.groupby("factor", sort=False):
        entries.append((textwrap.fill(str(factor), 42), None))
        for row in group.itertuples():
            parts = [*textwrap.wrap(str(row.a), 42), *textwrap.wrap(f"- {row.b}", 42)]
            entries.append(((" " if len(" ".join(parts)) <= 42 else "\n").join(parts), row))
    heights = np.array([1.35 + text.count("\n") for text, _ in entries])  # lines of text
    ys, tall = np.cumsum(heights) - heights / 2, 1.6 + 0.165 * heights.sum()
    figure, axes = _figure(len(rows), title, tall)
    size = min(9.0, 9.0 * TALLEST / tall)
    left, right = _reach(rows[["difference", "low", "high"]].to_numpy(float))
    for y, row in ((y, row) for y, (_, row) in zip(ys, entries, strict=True) if row is not None):
        known = bool(np.isfinite([row.low, row.high]).all())
        text = f"[{row.low:+.4f}, {row.high:+.4f}]" if known else "interval unknown"
        text = f"{row.difference:+.4f} {text}, {_count(row.seeds, 'seed')}"
        axes.annotate(text, (1, y), (8, 0), axes.get_yaxis_transform(), "offset points", fontsize=size, va="center")
        color, label = GREY, "95 % interval includes 0" if known else "interval unknown"
        if known:
            if row.high < 0 or row.low > 0:
                color, label = (BLUE, "below 0: a is better") if row.high < 0 else (ORANGE, "above 0: b is better")
            axes.plot(np.clip([row.low, row.high], left, right), [y, y], color=color, linewidth=1.8)
            for end, arrow in ((left, "<"),) * (row.low < left) + ((right, ">"),) * (row.high > right):
                axes.plot(end, y, arrow, color=color, clip_on=False)
        label = "_" * (label in axes.get_legend_handles_labels()[1]) + label  # "_" keeps it out of the legend
        axes.plot(row.difference, y, "o", color=color, markerfacecolor=color if known else "white", label=label)
    axes.axvline(0, color=BLACK, linewidth=1.2, linestyle="--", zorder=1)
    axes.set_yticks(ys, [text for text, _ in entries], fontsize=size)
    for tick, (_, row) in zip(axes.get_yticklabels(), entries, strict=True):
        tick.set_fontweight("bold" if row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(alpha=0.3, axis="x")
    label = "a - b, bits/dim\n(negative: a is better, its NLL is lower)"
    axes.set(xlim=(left, right), ylim=(heights.sum(), 0), xlabel=label)  # the y axis points down
    _legend(figure, axes)
    return figure


def _figure(rows: int, title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty figure with its title, and refuse one without rows."""
    if not rows:
        raise ValueError(f"There is nothing to draw in the figure '{title}': no rows with values.")
    figure = Figure(figsize=(WIDTH, min(max(height, HEIGHT), TALLEST)), layout="constrained")
    figure.suptitle(textwrap.fill(title, 80), fontsize=12)  # centred in the figure, because axes may be narrow
    return figure, figure.subplots()


def _with_finite(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows with a finite value in a column, which may hold objects such as None, as floats."""
    return table[np.isfinite(table[column].astype(float))].astype({column: float})


def _legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Put the legend below the axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    size = 9 if len(labels) <= 8 else 7.5
    widest = (0.58 * max(map(len, labels)) + 6) * size * DPI / 72
    most = min(max(int(940 / widest), 1), 4)
    columns = -(-len(labels) // -(-len(labels) // most))  # the fewest columns that give the same number of rows
    look: dict[str, Any] = {"fontsize": size, "title_fontsize": size, "handlelength": 3, "labelspacing": 0.35}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, **look)


def _count(number: int, what: str) -> str:
    """Return a number with its noun, such as "3 seeds"."""
    return f"{number:g} {what}{'s' * (number != 1)}"


def _view(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the limits of a view: from the lowest value to the best of each line, except lines that are far worse.

    Above the best values there is room for 7 times the distance of a line's median from its best value.
    """
    values = np.concatenate(lines)
    low, high = float(values.min()), float(values.max())
    if values.size >= 8:
        bests = np.array([line.min() for line in lines if line.size])
        reach = 7 * max(float(np.median([np.median(line) - line.min() for line in lines if line.size])), 0.01)
        is_near = bests <= low + 8 * max(reach, float(np.median(bests)) - low)
        high = min(high, float(bests[is_near].max()) + reach)
    return _widened(low, high, 0.05)


def _widened(low: float, high: float, by: float = 0.0) -> tuple[float, float]:
    """Widen a range by a share of its width at each end, or by 0.01 if it has none."""
    margin = by * (high - low) if high > low else 0.01
    return low - margin, high + margin


def _places(column: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]], bool]:
    """Return the place of each row on an axis from 0 to 1, (place, name) of each tick, and whether it is a log axis."""
    values = column.infer_objects()
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if is_number and np.isfinite(values.to_numpy(float)).all():
        scaled = values.to_numpy(float)
        names = [f"{number:{'' if number % 1 == 0 else '.3'}g}" for number in scaled]
        is_log = bool(scaled.min() > 0 and scaled.max() > 3 * scaled.min())
        scaled = np.log(scaled) if is_log else scaled
    else:
        named = values.map(str).mask(values.isna(), "none")
        names, order, is_log = list(named), list(named.sort_index().unique()), False
        scaled = np.array([order.index(name) for name in names], float)
    low, high = _widened(scaled.min(), scaled.max())
    places = (scaled - low) / (high - low)
    ticks = sorted(set(zip(places.tolist(), names, strict=True)))
    reach = min(0.035, 0.25 * float(np.diff([place for place, _ in ticks]).min(initial=1)))
    fanned_out = places.copy()
    for same in (places == place for place, _ in ticks):
        fanned_out[same] += np.linspace(-reach, reach, same.sum()) if same.sum() > 1 else 0
    return fanned_out, ticks, is_log


def _name_ticks(axes: Axes, x: int, ticks: Sequence[tuple[float, str]], room: float) -> None:
    """Mark all ticks of a vertical axis, and write on its left as many of their names as fit, the highest first."""
    axes.plot([x] * len(ticks), [place for place, _ in ticks], "_", color=BLACK, markersize=7, label="_ticks")
    characters = max(int(room / 12), 8) if x else (44 if room > 250 else 20)  # the first axis has more room on its left
    box: dict[str, Any] = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1}
    placed: list[tuple[float, float]] = []  # middle and height of each name
    for place, name in (ticks[-1], *ticks[:-1]):
        lines = textwrap.wrap(name, characters, break_long_words=False)
        height = 0.05 * len(lines)
        middle = float(np.clip(place, height / 2 - 0.06, 1.06 - height / 2))
        if all(abs(middle - other) > (height + other_height) / 2 for other, other_height in placed):
            placed.append((middle, height))
            text = axes.annotate("\n".join(lines), (x, middle), (-6, 0), textcoords="offset points", bbox=box, zorder=4)
            text.set(fontsize=9, horizontalalignment="right", verticalalignment="center")


def _reach(rows: np.ndarray) -> tuple[float, float]:
    """Return the view of rows (difference, low, high): all differences, and the ends of intervals up to a limit.

    The limit is 4 times the median distance of an interval's far end from 0, or the largest difference.
    """
    ends = np.where(np.isfinite(rows), rows, rows[:, :1])
    far = np.abs(ends).max(1)
    limit = max(4 * float(np.median(far)), float(np.abs(rows[:, 0]).max()))
    low, high = max(float(min(ends.min(), 0)), -limit), min(float(max(ends.max(), 0)), limit)
    return _widened(low, high, 0.05)
