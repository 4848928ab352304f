import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from scipy import stats

from glow.figures.comparison import curves_with_bands, difference_intervals, heat_map, parallel_coordinates
from tests.glow.test_figures import legend, lines

CONFIGURATIONS = [
    f"{permutation}, depth {depth}, width {width}, additive"
    for permutation in ("1x1", "shuffle", "reverse")
    for depth in (8, 16, 32)
    for width in (256, 512)
]


def drawn(figure, height=600):
    """The first axes of a figure after rendering it at 120 dpi, as it is saved; checks that it contains all texts."""
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert canvas.get_width_height()[0] == 960
    assert height is None or canvas.get_width_height()[1] == height
    axes = figure.axes[0]
    bottom, top = sorted(axes.get_ylim())
    names = [label for label in axes.get_yticklabels() if bottom <= label.get_position()[1] <= top]
    for text in [*figure.texts, *axes.texts, *names, axes.xaxis.label, *figure.legends]:
        box = text.get_window_extent()
        assert -1 < box.x0 <= box.x1 < 961
        assert -1 < box.y0 <= box.y1 < canvas.get_width_height()[1] + 1
    assert axes.get_window_extent().height > 200
    return axes


def bands(axes):
    """The band of each name, as {epoch: (low, high)}."""
    corners = {band.get_label()[1:]: band.get_paths()[0].vertices for band in axes.collections}
    return {
        name: {x: (min(xy[xy[:, 0] == x, 1]), max(xy[xy[:, 0] == x, 1])) for x in xy[:, 0]}
        for name, xy in corners.items()
    }


def assert_apart(texts):
    for left, right in itertools.combinations([text.get_window_extent() for text in texts], 2):
        overlap_x = min(left.x1, right.x1) - max(left.x0, right.x0)
        overlap_y = min(left.y1, right.y1) - max(left.y0, right.y0)
        assert min(overlap_x, overlap_y) < 1  # pixels


def curve(name, *seeds):
    """Rows of one name, from the bits/dim of each seed since epoch 1."""
    return pd.concat(
        [
            pd.DataFrame({"name": name, "seed": seed, "epoch": np.arange(len(values)) + 1, "bits_per_dim": values})
            for seed, values in enumerate(seeds)
        ]
    )


def falling(level, rng, epochs=40, noise=0.005):
    epoch = np.arange(1, epochs + 1)
    return level + 4 * np.exp(-epoch / 1.5) + 0.2 * np.exp(-epoch / 12) + rng.normal(0, noise) * np.ones(epochs)


def grid(values, half_width=None):
    """Rows of a table, from {(depth, width): bits/dim}."""
    table = pd.DataFrame([(*cell, value) for cell, value in values.items()], columns=["depth", "width", "bits_per_dim"])
    return table if half_width is None else table.assign(half_width=half_width)


def differences(*rows):
    return pd.DataFrame(rows, columns=["factor", "a", "b", "difference", "low", "high", "seeds"])


def on_screen(axes, x):
    return axes.transData.transform((0, x))[1]


def test_curves_are_means_with_t_intervals_over_the_seeds():
    seeds = np.array([[3.0, 2.5, 2.0], [3.2, 2.4, 2.3], [3.1, 2.9, 2.2]])
    figure = curves_with_bands(pd.concat([curve("shuffle", *seeds), curve("1x1", [2.8, 2.2, 1.9])]), "title", "NLL")
    axes = drawn(figure)
    assert legend(figure) == ["shuffle (3 seeds)", "1x1 (1 seed)"]
    assert figure.legends[0].get_title().get_text().startswith("line: mean")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "NLL")
    mean = lines(axes)["shuffle (3 seeds)"]
    np.testing.assert_allclose(mean.get_xydata(), np.c_[[1, 2, 3], seeds.mean(0)])
    np.testing.assert_allclose(lines(axes)["1x1 (1 seed)"].get_ydata(), [2.8, 2.2, 1.9])
    for seed, values in enumerate(seeds):
        line = lines(axes)[f"_shuffle, seed {seed}"]
        np.testing.assert_allclose(line.get_xydata(), np.c_[[1, 2, 3], values])
        assert line.get_color() == mean.get_color()
        assert line.get_linewidth() < mean.get_linewidth() / 2
    assert not [label for label in lines(axes) if label.startswith("_1x1")]
    assert list(bands(axes)) == ["shuffle"]
    for epoch, interval in bands(axes)["shuffle"].items():
        values = seeds[:, int(epoch) - 1]
        np.testing.assert_allclose(interval, stats.t.interval(0.95, 2, values.mean(), stats.sem(values)))


def test_the_mean_is_drawn_where_all_seeds_have_a_value():
    frame = pd.concat(
        [
            curve("stopped", [3.0, 2.0, 1.0, 0.5], [3.2, np.nan, 1.2], [np.nan, np.inf]),
            curve("diverged", [np.nan, np.nan]),
            curve("apart", [3.0, np.nan], [np.nan, 3.0]),
        ]
    )
    figure = curves_with_bands(frame, "title")
    axes = drawn(figure)
    assert legend(figure) == ["stopped (2 seeds)", "diverged (0 seeds)", "apart (2 seeds)"]
    np.testing.assert_allclose(lines(axes)["stopped (2 seeds)"].get_xydata(), [[1, 3.1], [3, 1.1]])
    np.testing.assert_allclose(lines(axes)["_stopped, seed 0"].get_xydata(), [[1, 3.0], [2, 2.0], [3, 1.0], [4, 0.5]])
    np.testing.assert_allclose(lines(axes)["_stopped, seed 1"].get_xydata(), [[1, 3.2], [3, 1.2]])
    assert "_stopped, seed 2" not in lines(axes)
    assert lines(axes)["apart (2 seeds)"].get_xydata().size == 0
    np.testing.assert_allclose(lines(axes)["_apart, seed 1"].get_xydata(), [[2, 3.0]])


def test_bands_do_not_widen_the_view():
    axes = drawn(curves_with_bands(curve("wide", [3.0, 2.0], [3.4, 2.4]), "title"))
    low, high = bands(axes)["wide"][2]
    assert low < 0
    assert high > 4
    assert axes.get_ylim() == pytest.approx((2.0 - 0.07, 3.4 + 0.07))


def test_the_view_leaves_out_the_steep_fall_but_no_line():
    rng = np.random.default_rng(0)
    levels = {f"level {level}": level for level in (3.2, 3.3, 3.5, 4.0)}
    frame = pd.concat([curve(name, *(falling(level, rng) for _ in range(3))) for name, level in levels.items()])
    figure = curves_with_bands(pd.concat([frame, curve("odd", falling(90, rng))]), "title")
    axes = drawn(figure)
    low, high = axes.get_ylim()
    assert 3.1 < low < 3.2
    assert 4.0 < high < 4.6
    for name in levels:
        assert low < lines(axes)[f"{name} (3 seeds)"].get_ydata()[-1] < high
    assert legend(figure)[-1].startswith("odd (1 seed), above")
    assert not [label for label in legend(figure)[:-1] if "view" in label]


@pytest.mark.parametrize("values", [[3.0], [3.0] * 30, [1e9, 3.0], [-1.0, -2.0], [0.0]], ids=str)
def test_extreme_curves_have_a_view(values):
    axes = drawn(curves_with_bands(curve("odd", values), "title"))
    low, high = axes.get_ylim()
    assert low < min(values) <= max(values) < high


def test_eighteen_configurations_are_told_apart_and_named():
    rng = np.random.default_rng(0)
    frame = pd.concat([curve(name, *(falling(3.3, rng) for _ in range(3))) for name in CONFIGURATIONS])
    figure = curves_with_bands(frame, "title")
    axes = drawn(figure)
    assert legend(figure) == [f"{name} (3 seeds)" for name in CONFIGURATIONS]
    means = [lines(axes)[label] for label in legend(figure)]
    assert len({(to_hex(line.get_color()), str(line._dash_pattern)) for line in means}) == 18
    assert_apart(figure.legends[0].get_texts())
    assert figure.legends[0].get_window_extent().y1 <= axes.xaxis.label.get_window_extent().y0


def test_few_epochs_are_marked():
    for epochs, marked in ((1, True), (40, False)):
        frame = curve("a", np.linspace(4, 3, epochs), np.linspace(4.1, 3.1, epochs))
        mean = lines(drawn(curves_with_bands(frame, "title")))["a (2 seeds)"]
        assert (mean.get_marker() != "None") == marked


def test_long_titles_are_wrapped():
    title = "test NLL of the channel permutations on CIFAR-10 (depth 32, width 512, affine coupling), " * 2
    figures = [
        curves_with_bands(curve("a", [3.0, 2.0]), title),
        heat_map(grid({(4, 64): 3.0}), title),
        parallel_coordinates(grid({(4, 64): 3.0, (8, 64): 2.9}), ["depth"], title),
        difference_intervals(differences(("depth", *CONFIGURATIONS[-2:], -0.1, -0.2, 0.0, 3)), title),
    ]
    for figure in figures:
        drawn(figure)  # this also checks that the title is inside the figure
        assert figure.texts[0].get_text().replace("\n", " ") == title.strip()


def test_cells_say_what_the_table_says():
    values = {(8, 64): 3.5, (32, 64): 3.25, (8, 128): 3.4321, (16, 128): np.nan, (32, 128): 3.3}
    figure = heat_map(grid(values, [0.01, np.nan, 0.0234, 0.1, np.inf]), "title")
    axes = drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "128"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["8", "16", "32"]
    assert on_screen(axes, axes.get_yticks()[0]) < on_screen(axes, axes.get_yticks()[-1])
    cells = {(round(text.get_position()[0], 3), round(text.get_position()[1], 3)): text for text in axes.texts}
    assert {cell: text.get_text() for cell, text in cells.items()} == {
        (0.5, 0.5): "3.500\n± 0.010",
        (0.5, 1.5): "\N{EN DASH}",
        (0.5, 2.5): "3.250",
        (1.5, 0.5): "3.432\n± 0.023",
        (1.5, 1.5): "\N{EN DASH}",
        (1.5, 2.5): "3.300",
    }
    (frame,) = axes.patches
    assert 0 < frame.get_x() < 0.1 < 0.9 < frame.get_x() + frame.get_width() < 1
    assert 2 < frame.get_y() < 2.1 < 2.9 < frame.get_y() + frame.get_height() < 3
    mesh = axes.collections[0]
    np.testing.assert_allclose(mesh.get_array().filled(np.nan), [[3.5, 3.4321], [np.nan] * 2, [3.25, 3.3]])
    assert "lower is better" in figure.axes[1].get_ylabel()


def test_missing_cells_are_grey_and_all_texts_readable():
    rng = np.random.default_rng(0)
    values = {(depth, width): rng.uniform(3, 4) for depth in range(8) for width in range(7)} | {(0, 0): np.nan}
    axes = drawn(heat_map(grid(values), "title"), height=None)
    mesh = axes.collections[0]
    backgrounds = mesh.to_rgba(mesh.get_array())
    assert backgrounds[0, 0, 3] == 0  # transparent, so that the axes are visible
    backgrounds[0, 0] = axes.get_facecolor()
    red, green, blue = axes.get_facecolor()[:3]
    assert red == green == blue
    for text in axes.texts:
        background = backgrounds[int(text.get_position()[1]), int(text.get_position()[0]), :3]
        dark, light = sorted(luminance(color) for color in (background, to_rgb(text.get_color())))
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG 2, level AA


def luminance(color):
    color = np.asarray(color)
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def test_colours_end_before_what_is_far_worse_than_most():
    values = {(depth, width): 3 + 0.01 * depth + 0.001 * width for depth in range(4) for width in range(3)}
    figure = heat_map(grid(values), "title")
    drawn(figure)
    (cells,) = figure.axes[0].collections
    assert cells.get_clim() == pytest.approx((3, 3.032))
    assert cells.colorbar is not None
    assert cells.colorbar.extend == "neither"
    figure = heat_map(grid(values | {(0, 0): 90.0}), "title")
    (cells,) = figure.axes[0].collections
    low, high = cells.get_clim()
    assert cells.colorbar is not None
    assert (low, cells.colorbar.extend) == (3.001, "max")
    assert high is not None
    assert 3.032 < high < 3.3
    assert "90.000" in [text.get_text() for text in drawn(figure).texts]


@pytest.mark.slow
def test_large_heat_maps_are_taller_up_to_a_limit_and_their_texts_apart():
    heights = []
    for rows in (2, 15, 60):
        columns = 12 if rows < 60 else 1  # with 60 rows only the height is checked
        values = {(depth, width): 3 + 0.01 * depth for depth in range(rows) for width in range(columns)}
        figure = heat_map(grid(values, 0.01), "title")
        axes = drawn(figure, height=None)
        heights.append(figure.get_size_inches()[1])
        if rows < 60:
            assert_apart(axes.texts[:24])
    assert heights == sorted(heights)
    assert heights[0] == 5
    assert heights[-1] == 12


def test_a_cell_has_one_row():
    with pytest.raises(ValueError, match="depth and width"):
        heat_map(pd.concat([grid({(4, 64): 3.0}), grid({(4, 64): 3.1})]), "title")


def test_lines_run_through_their_values():
    table = pd.DataFrame(
        {
            "permutation": ["reverse", "shuffle", "1x1", "1x1"],
            "depth": [8, 32, 16, 16],
            "width": [100, 150, 200, 110],
            "levels": 3,
            "bits_per_dim": [3.5, 3.25, 3.0, np.nan],
        }
    )
    figure = parallel_coordinates(table, ["permutation", "depth", "levels", "width"], "title")
    axes = drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["permutation", "depth\n(log scale)", "width"]
    (entry,) = legend(figure)
    assert "3 rows: 3.000 bits/dim" in entry
    np.testing.assert_allclose(lines(axes)["_0"].get_xydata(), [[0, 0], [1, 0], [2, 0], [3, 1]])
    np.testing.assert_allclose(lines(axes)["_1"].get_xydata(), [[0, 0.5], [1, 1.0], [2, 0.5], [3, 0.5]])
    best = lines(axes)[entry]
    np.testing.assert_allclose(best.get_xydata(), [[0, 1.0], [1, 0.5], [2, 1.0], [3, 0.0]], atol=1e-12)
    rows = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(rows) == 3
    assert rows[-1] is best
    assert best.get_linewidth() > 2 * rows[0].get_linewidth()
    named = [[text.get_text() for text in axes.texts if text.xy[0] == x] for x in range(3)]
    assert [sorted(names) for names in named] == [
        ["1x1", "reverse", "shuffle"],
        ["16", "32", "8"],
        ["100", "150", "200"],
    ]
    places = {text.get_text(): round(text.xy[1], 2) for text in axes.texts}
    assert [places[name] for name in ("reverse", "shuffle", "1x1", "8", "16", "32")] == [0, 0.5, 1] * 2


def test_the_bar_of_colours_is_the_last_axis():
    figure = parallel_coordinates(grid({(4, 64): 3.0, (8, 64): 3.5, (16, 64): 4.0}), ["depth"], "title")
    axes = drawn(figure)
    bar = figure.axes[1]
    assert "lower is better" in bar.get_ylabel()
    (shades,) = (each for each in bar.collections if isinstance(each, QuadMesh))
    assert bar.get_window_extent().x0 == pytest.approx(axes.get_window_extent().x1, abs=1)
    for label, value in (("_2", 4.0), ("_1", 3.5), (*legend(figure), 3.0)):
        end = lines(axes)[label].get_xydata()[-1]
        assert axes.transData.transform(end)[1] == pytest.approx(bar.transData.transform((0, value))[1], abs=0.5)
        assert to_rgb(lines(axes)[label].get_color()) == pytest.approx(shades.to_rgba(value)[:3])


def test_lines_with_the_same_value_are_fanned_out_around_it():
    table = grid(dict.fromkeys([(4, 64), (8, 64), (16, 128)], 0.0)).assign(bits_per_dim=[3.1, 3.0, 3.2])
    figure = parallel_coordinates(table, ["width", "depth"], "title")
    starts = {label: line.get_ydata()[0] for label, line in lines(drawn(figure)).items() if len(line.get_xdata()) == 3}
    best, other, apart = starts[legend(figure)[0]], starts["_0"], starts["_2"]
    assert -0.05 < best < 0 < other < 0.05
    assert (best + other, apart) == pytest.approx((0, 1))


@pytest.mark.parametrize(
    ("values", "names", "places"),
    [
        ([True, False], ["True", "False"], [0, 1]),
        ([1.0, np.nan, 2.0], ["1.0", "none", "2.0"], [0, 0.5, 1]),
        (pd.Series([1, 10, 100], dtype=object), ["1", "10", "100"], [0, 0.5, 1]),
        ([-1, 0, 1], ["-1", "0", "1"], [0, 0.5, 1]),
        ([1, 2, 3], ["1", "2", "3"], [0, 0.5, 1]),
        ([1e-5, 1e-4, 1e-3], ["1e-05", "0.0001", "0.001"], [0, 0.5, 1]),
        ([16384, 16384], ["16384"], [0.5]),
    ],
    ids=str,
)
def test_kinds_of_factors(values, names, places):
    table = pd.DataFrame({"factor": values, "bits_per_dim": 3.0})
    axes = drawn(parallel_coordinates(table, ["factor"], "title"))
    assert {text.get_text(): text.xy[1] for text in axes.texts} == pytest.approx(dict(zip(names, places, strict=True)))
    assert "log scale" in axes.get_xticklabels()[0].get_text() or max(map(len, names)) < 6


@pytest.mark.slow
def test_names_at_many_axes_are_apart():
    rng = np.random.default_rng(0)
    search: dict[str, list[str] | list[int]] = {
        "permutation": ["invertible 1x1 convolution", "shuffle", "reverse"],
        "depth": [4, 8, 16, 32],
        "batch_size": [32, 64, 128],
        "coupling": ["affine", "additive"],
        "width": [32, 64, 128, 256, 512],
    }
    table = pd.DataFrame({factor: rng.choice(values, 60) for factor, values in search.items()})
    table["learning_rate"] = 10 ** rng.uniform(-5, -3, 60)
    table["bits_per_dim"] = rng.uniform(3, 4, 60)
    axes = drawn(parallel_coordinates(table, [*search, "learning_rate"], "title"))
    assert_apart([*axes.texts, *axes.get_xticklabels()])
    assert {"32", "64", "128", "256", "512"} <= {text.get_text() for text in axes.texts if round(text.xy[0]) == 4}
    ticks = [line for line in axes.lines if line.get_label() == "_ticks"]
    assert len(ticks[-1].get_xdata()) == 60
    axes = drawn(parallel_coordinates(table[:18].assign(name=CONFIGURATIONS), ["name", "depth"], "title"))
    assert {text.get_text() for text in axes.texts} > set(CONFIGURATIONS)
    assert_apart(axes.texts)


def test_rows_of_differences_are_grouped_by_factor():
    table = differences(
        ("permutation", "1x1", "shuffle", -0.03, -0.05, -0.01, 3),
        ("depth", 32, 16, 0.02, 0.01, 0.03, 3),
        ("depth", 16, 8, np.nan, np.nan, np.nan, 0),
        ("permutation", "1x1", "reverse", -0.01, -0.04, 0.02, 2),
        ("width", 512, 256, 0.01, np.nan, np.nan, 1),
    )
    figure = difference_intervals(table, "title")
    axes = drawn(figure)
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == [
        *["permutation", "1x1 - shuffle", "1x1 - reverse"],
        *["depth", "32 - 16"],
        *["width", "512 - 256"],
    ]
    assert [index for index, label in enumerate(labels) if label.get_fontweight() == "bold"] == [0, 3, 5]
    assert [text.get_text() for text in axes.texts] == [
        "-0.0300 [-0.0500, -0.0100], 3 seeds",
        "-0.0100 [-0.0400, +0.0200], 2 seeds",
        "+0.0200 [+0.0100, +0.0300], 3 seeds",
        "+0.0100 interval unknown, 1 seed",
    ]
    ys = axes.get_yticks()
    assert list(ys) == sorted(ys)
    assert on_screen(axes, ys[0]) > on_screen(axes, ys[-1])
    points = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(
        np.concatenate([point.get_xydata() for point in points]), np.c_[[-0.03, -0.01, 0.02, 0.01], ys[[1, 2, 4, 6]]]
    )
    intervals = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    np.testing.assert_allclose([line.get_xdata() for line in intervals], [[-0.05, -0.01], [-0.04, 0.02], [0.01, 0.03]])
    below, zero, above, unknown = legend(figure)
    assert below.startswith("below 0: a ")
    assert above.startswith("above 0: b ")
    assert zero.startswith("95 % interval")
    assert unknown == "interval unknown"
    assert len({to_hex(point.get_color()) for point in points}) == 3
    assert to_hex(points[-1].get_markerfacecolor()) == "#ffffff"
    (zero,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(zero.get_xdata()) == [0, 0]
    assert axes.get_xlim()[0] < -0.05 < 0.03 < axes.get_xlim()[1]
    assert "a is better" in axes.get_xlabel()


def test_intervals_far_wider_than_most_are_cut_off():
    narrow = [("depth", index, index + 1, -0.01 * index, -0.01 * index - 0.02, 0.02, 5) for index in range(1, 6)]
    axes = drawn(difference_intervals(differences(*narrow, ("width", "a", "b", 0.02, -3, 3, 2)), "title"))
    left, right = axes.get_xlim()
    assert -0.4 < left < -0.07
    assert 0.02 < right < 0.4
    assert {line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_marker() in "<>"} == {
        "<": left,
        ">": right,
    }
    assert axes.texts[-1].get_text() == "+0.0200 [-3.0000, +3.0000], 2 seeds"
    axes = drawn(difference_intervals(differences(*narrow, ("width", "a", "b", 2.0, 1, 3, 2)), "title"))
    assert axes.get_xlim()[1] > 2  # the point itself is always in view


@pytest.mark.slow
def test_many_long_pairs_are_apart():
    pairs = list(itertools.combinations(CONFIGURATIONS, 2))
    for number, tall in ((3, 600), (20, None), (60, 1440)):
        rows = [("configuration", *pair, 0.01, -0.1, 0.1, 3) for pair in pairs[:number]]
        axes = drawn(difference_intervals(differences(*rows), "title"), tall)
        labels = axes.get_yticklabels()
        assert labels[1].get_text() == f"{CONFIGURATIONS[0]}\n- {CONFIGURATIONS[1]}"
        assert_apart(labels)
        assert_apart(axes.texts)
        assert axes.get_window_extent().width > 200


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves_with_bands(curve("a", [np.nan, np.inf]), "title"),
        lambda: heat_map(grid({}), "title"),
        lambda: heat_map(grid({(4, 64): np.nan}), "title"),
        lambda: parallel_coordinates(grid({(4, 64): np.nan}), ["depth"], "title"),
        lambda: difference_intervals(differences(("a", "b", "c", np.nan, 0.0, 1.0, 2)), "title"),
        lambda: difference_intervals(differences(), "title"),
    ],
    ids=["curves", "empty grid", "grid", "coordinates", "differences", "no differences"],
)
def test_nothing_to_draw(draw):
    with pytest.raises(ValueError, match="'title'"):
        draw()


def test_missing_values_may_be_none():
    tables = [
        curve("a", np.array([3.0, None], dtype=object), np.array([3.1, None], dtype=object)),
        grid({(4, 64): 3.0, (8, 64): None}, [None, 0.1]).astype(object),
        grid({(4, 64): 3.0, (8, 64): 3.1, (16, 64): None}).astype(object),
        differences(("a", "b", "c", 0.1, None, None, 1), ("a", "b", "d", None, None, None, 0)).astype(object),
    ]
    assert len(lines(drawn(curves_with_bands(tables[0], "title")))["a (2 seeds)"].get_xdata()) == 1
    assert [text.get_text() for text in drawn(heat_map(tables[1], "title")).texts] == ["3.000", "\N{EN DASH}"]
    assert [text.get_text() for text in drawn(parallel_coordinates(tables[2], ["depth"], "title")).texts] == ["8", "4"]
    (text,) = drawn(difference_intervals(tables[3], "title")).texts
    assert text.get_text() == "+0.1000 interval unknown, 1 seed"


def test_a_factor_and_single_values_are_needed():
    with pytest.raises(ValueError, match="one factor"):
        parallel_coordinates(grid({(4, 64): 3.0}), [], "title")
    with pytest.raises(ValueError, match="seed and epoch"):
        curves_with_bands(pd.concat([curve("a", [3.0]), curve("a", [3.1])]), "title")
