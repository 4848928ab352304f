import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from glow.figures.pictures import image_rows, nll_histogram, ood_ratio_curve, per_class_bars, roc_curves

NOMINAL = "nominal rate: {} %"


def drawn(figure):
    """The axes of a figure after rendering it as it is saved, in 960 x 600 pixels."""
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert canvas.get_width_height() == (960, 600)
    (axes,) = figure.axes
    return axes


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def assert_apart(labels):
    boxes = [label.get_window_extent() for label in labels]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 <= right.x0 + 0.5  # pixels


def scores(**datasets):
    return pd.concat([pd.DataFrame({"dataset": name, "bits_per_dim": values}) for name, values in datasets.items()])


def power(dataset, ratios, half_width=0.05):
    """Rows of a table of one data set, from {batch size: ratio}."""
    ratio = np.array(list(ratios.values()), dtype=float)
    low, high = np.maximum(ratio - half_width, 0), np.minimum(ratio + half_width, 1)
    return pd.DataFrame(
        {"dataset": dataset, "batch_size": list(ratios), "ratio": ratio, "ratio_low": low, "ratio_high": high}
    )


def classes(names, ratio, low=0.0, high=1.0, batches=20):
    columns = {"class_name": names, "ratio": ratio, "ratio_low": low, "ratio_high": high, "batches": batches}
    return pd.DataFrame(columns)


def histograms(axes):
    """The heights and edges of each data set's outline."""
    return {
        patch.get_label().partition(":")[0]: (patch.get_data().values, patch.get_data().edges)
        for patch in axes.patches
        if patch.get_label() and not patch.get_label().startswith("_") and hasattr(patch, "get_data")
    }


def test_histogram_heights_are_percentages_of_the_data_set():
    axes = drawn(nll_histogram(scores(few=[1.0] * 3 + [2.0], many=[1.5] * 90 + [3.1] * 210), "title"))
    for label, expected in {"few": {1.0: 75, 2.0: 25}, "many": {1.5: 30, 3.1: 70}}.items():
        heights, edges = histograms(axes)[label]
        assert np.nansum(heights) == pytest.approx(100)
        for value, height in expected.items():
            assert heights[np.searchsorted(edges, value) - 1] == pytest.approx(height)


def test_histogram_counts_what_is_not_drawn():
    rng = np.random.default_rng(0)
    frame = scores(
        mnist=np.r_[rng.uniform(1, 2, 995), [1e9] * 3, [-1e9] * 2],
        noise=np.r_[rng.uniform(3, 4, 96), [np.inf, -np.inf, np.nan], 3.5],
        broken=[np.nan, np.inf],
    )
    figure = nll_histogram(frame, "title", (1.25, 1.75))
    axes = drawn(figure)
    finite = frame[np.isfinite(frame["bits_per_dim"])].groupby("dataset")["bits_per_dim"].median()
    for entry, facts in zip(
        legend(figure),
        [
            ("mnist: ", "1,000", f"{finite['mnist']:.4g}"),
            ("noise: ", "100", f"{finite['noise']:.4g}", "3 not finite"),
            ("broken: ", "2", "2 not finite"),
            ("M = 1", "1.250", "1.750"),
        ],
        strict=True,
    ):
        assert all(fact in entry for fact in facts)
    assert "5 of mnist" in axes.get_xlabel()
    assert "noise" not in axes.get_xlabel()
    mnist, noise, broken = histograms(axes).values()
    assert np.nansum(mnist[0]) == pytest.approx(99.5)
    assert np.nansum(noise[0]) == pytest.approx(97)
    assert np.isnan(broken[0]).all()
    assert 0.8 < axes.get_xlim()[0] < 1.01
    assert 3.99 < axes.get_xlim()[1] < 4.2


def test_histogram_shades_the_interval_as_far_as_it_is_in_view():
    figure = nll_histogram(scores(mnist=np.linspace(1, 2, 100)), "title", (1.5, np.inf))
    axes = drawn(figure)
    (span,) = [patch for patch in axes.patches if patch.get_label().startswith("typical")]
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((1.5, axes.get_xlim()[1]))
    assert "1.500 to inf" in legend(figure)[-1]


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(1, 5, "linear"), (0.5, 30, "log"), (-1, 30, "linear"), (0.001, 1e5, "log"), (1e-30, 1e30, "log")],
)
def test_histogram_has_a_log_axis_where_the_range_is_wide(low, high, scale):
    values = np.geomspace(low, high, 500) if low > 0 else np.linspace(low, high, 500)
    axes = drawn(nll_histogram(scores(constant=values), "title"))
    assert axes.get_xscale() == scale
    assert ("log scale" in axes.get_xlabel()) == (scale == "log")
    assert "out of view" not in axes.get_xlabel()
    inside = [tick for tick in axes.get_xticklabels() if axes.get_xlim()[0] <= tick.get_position()[0]]
    assert len(inside) >= 3
    assert_apart(inside)


def test_spikes_do_not_flatten_the_others():
    rng = np.random.default_rng(0)
    broad, narrow = rng.normal(3.5, 0.5, 1000), rng.normal(10, 0.001, 1000)
    axes = drawn(nll_histogram(scores(fashion=broad, noise=narrow, flat=narrow - 9), "title"))
    highest = np.nanmax(histograms(axes)["fashion"][0])
    assert highest < axes.get_ylim()[1] < 4 * highest
    texts = {text.get_text(): text for text in axes.texts}
    assert [text.partition(":")[0] for text in texts] == ["noise", "flat"]
    for name, (heights, _) in list(histograms(axes).items())[1:]:
        assert f"{name}: up to {np.nanmax(heights):.0f} %" in texts
    frame = axes.get_window_extent()
    for text in texts.values():
        assert frame.x0 < text.get_window_extent().x0 < text.get_window_extent().x1 < frame.x1


def test_only_spikes_are_drawn_whole():
    axes = drawn(nll_histogram(scores(a=[1.0] * 9, b=[2.0] * 9), "title"))
    assert axes.get_ylim()[1] > 100
    assert not axes.texts


@pytest.mark.parametrize(
    "values",
    [[1.5], [0.0] * 10, [12.0] * 10, [-3.0, -3.0], [np.inf], [np.nan], [1e-30, 1.0, 1e30], [1.0, np.nextafter(1, 2)]],
    ids=str,
)
def test_histogram_of_extreme_values(values):
    figure = nll_histogram(scores(odd=values), "title", (1.0, 2.0))
    axes = drawn(figure)
    finite = np.isfinite(values).sum()
    outside = re.search(r"out of view: (\d+) of odd", axes.get_xlabel())
    ((heights, _),) = histograms(axes).values()
    assert np.nansum(heights) == pytest.approx(100 * (finite - int(outside[1] if outside else 0)) / len(values))
    assert np.nansum(heights) > 0 or not finite
    assert legend(figure)[0].startswith(f"odd: {len(values)} image{'s' if len(values) > 1 else ''}")
    assert ("not finite" in legend(figure)[0]) == (finite < len(values))


def test_ratio_lines_and_bands_are_the_table_in_percent():
    frame = pd.concat(
        [power("fashion", {10: 1.0, 1: 0.4, 2: 0.7}), power("mnist", {1: 0.02, 2: 0.0, 10: 0.01}, half_width=0.01)]
    )
    figure = ood_ratio_curve(frame, "title", 0.99, "mnist")
    axes = drawn(figure)
    assert legend(figure) == ["fashion", "mnist (in distribution)", NOMINAL.format(1)]
    fashion, mnist, nominal = lines(axes).values()
    np.testing.assert_allclose(fashion.get_xydata(), [[1, 40], [2, 70], [10, 100]])
    np.testing.assert_allclose(mnist.get_xydata(), [[1, 2], [2, 0], [10, 1]])
    np.testing.assert_allclose(nominal.get_ydata(), 1)
    assert nominal.get_linestyle() == "--"
    assert to_hex(mnist.get_color()) == "#000000" != to_hex(fashion.get_color())
    for band, corners in zip(
        axes.collections,
        [{(1, 35), (1, 45), (2, 65), (2, 75), (10, 95), (10, 100)}, {(1, 1), (1, 3), (2, 0), (2, 1), (10, 0), (10, 2)}],
        strict=True,
    ):
        assert {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices} == corners
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "10"]
    low, high = axes.get_ylim()
    assert low < 0 < 100 < high


@pytest.mark.parametrize(
    "sizes", [range(1, 13), range(1, 101), [1, 2, 5, 10, 25], [7], [100, 101], [1, 2, 3, 1000, 1200, 1400, 2000]]
)
def test_batch_sizes_are_at_the_ticks_as_far_as_there_is_room(sizes):
    axes = drawn(ood_ratio_curve(power("noise", dict.fromkeys(sizes, 1.0)), "title", 0.95, "mnist"))
    ticks = [int(tick.get_text()) for tick in axes.get_xticklabels()]
    assert ticks == sorted(set(ticks) & set(sizes))
    assert {ticks[0], ticks[-1]} == {min(sizes), max(sizes)}
    assert len(ticks) >= min(len(sizes), 5)
    assert_apart(axes.get_xticklabels())


def test_a_missing_ratio_leaves_a_gap():
    axes = drawn(ood_ratio_curve(power("noise", {1: 0.5, 2: np.nan, 4: 0.7}), "title", 0.99, "mnist"))
    np.testing.assert_allclose(lines(axes)["noise"].get_ydata(), [50, np.nan, 70])


def test_lines_of_seven_sets_on_top_of_each_other_are_told_apart():
    names = [f"set {index}" for index in range(7)]
    ratios = pd.concat([power(name, {1: 1.0, 2: 1.0}) for name in names])
    perfect = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)
    for figure in (
        ood_ratio_curve(ratios, "title", 0.99, "mnist"),
        roc_curves(dict.fromkeys(names, perfect), "title"),
    ):
        found = [lines(drawn(figure))[label] for label in lines(figure.axes[0]) if label.startswith("set")]
        assert len({to_hex(line.get_color()) for line in found}) == 7
        widths = [line.get_linewidth() for line in found]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] > 2 * widths[-1]
        for below, above in itertools.pairwise(found):
            assert below.get_linestyle() != above.get_linestyle() or below.get_linewidth() > above.get_linewidth()


def test_roc_lines_pass_through_the_given_points():
    false, true = np.array([0.0, 0.0, 0.002, 0.5, 1.0]), np.array([0.0, 0.6, 0.8, 0.8, 1.0])
    perfect = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)
    figure = roc_curves({"letters": (false, true, 0.87654), "noise": perfect}, "title")
    axes = drawn(figure)
    assert legend(figure) == ["letters: AUROC 0.8765", "noise: AUROC 1.0000", "chance"]
    letters, noise, chance = (line.get_xydata() for line in axes.lines)
    for point in 100 * np.c_[false, true]:
        assert np.abs(letters - point).max(1).min() < 1e-9
    last = letters[letters[:, 0] >= 50]  # a straight line of slope 0.4, which the log axis bends
    assert len(last) > 100
    np.testing.assert_allclose(last[:, 1], 80 + 0.4 * (last[:, 0] - 50))
    assert ((noise[:, 0] == 0) | (noise[:, 1] == 100)).all()
    np.testing.assert_allclose(chance[:, 0], chance[:, 1])
    assert (chance.min(), chance.max()) == (0, 100)
    assert "above 0.2 %" in axes.get_xlabel()
    ticks = " ".join(tick.get_text() for tick in axes.get_xticklabels())
    assert ticks == "0 0.2 0.5 1 2 5 10 20 50 100"
    assert_apart(axes.get_xticklabels())


@pytest.mark.parametrize(("smallest", "linear"), [(1e-9, "0.01"), (1e-4, "0.01"), (1 / 30, "3.3"), (1.0, "10")])
def test_the_roc_axis_starts_to_be_logarithmic_at_the_smallest_step(smallest, linear):
    rates = np.array([0.0, smallest, 1.0])
    axes = drawn(roc_curves({"noise": (rates, rates, 0.5)}, "title"))
    assert f"above {linear} %" in axes.get_xlabel()
    assert axes.transData.transform((0, 0))[0] > axes.get_window_extent().x0  # a curve along 0 is visible
    assert_apart(axes.get_xticklabels())


def test_bars_and_their_intervals_are_the_table_in_percent():
    frame = classes(["b", "a", "c"], [0.25, 0.0, np.nan], [0.1, 0.0, np.nan], [0.5, 0.125, np.nan], [20, 1200, 0])
    figure = per_class_bars(frame, "title", 0.95)
    axes = drawn(figure)
    nominal, share = legend(figure)
    assert nominal == NOMINAL.format(5)
    assert "0 to 1,200" in share
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [25, 0, np.nan])
    (intervals,) = axes.collections
    np.testing.assert_allclose([segment[:, 1] for segment in intervals.get_segments()[:2]], [[10.0, 50.0], [0.0, 12.5]])
    np.testing.assert_allclose(lines(axes)[nominal].get_ydata(), 5)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["b", "a", "c"]
    assert 50 < axes.get_ylim()[1] < 60


def test_bars_are_high_enough_to_see_the_nominal_rate_and_low_enough_to_be_percentages():
    for ratio, low, high in [(0.0, 5.0, 10.0), (1.0, 100.0, 105.0)]:
        axes = drawn(per_class_bars(classes(["a"], [ratio], ratio, ratio), "title", 0.95))
        assert low < axes.get_ylim()[1] < high


def test_intervals_that_miss_their_ratio_by_rounding_are_drawn():
    axes = drawn(per_class_bars(classes(["a"], [0.0], 1e-17, 0.2), "title", 0.99))
    np.testing.assert_allclose(axes.collections[0].get_segments()[0][:, 1], [0, 20], atol=1e-9)


@pytest.mark.parametrize(
    ("names", "rotation"),
    [
        (["ankle boot"], 0),
        ([chr(ord("A") + index) for index in range(26)], 0),
        (["T-shirt/top", "trouser", "ankle boot"] * 3 + ["coat"], 35),
        (["trouser", "ankle boot"] * 20, 90),
        (["chimpanzee", "aquarium fish"] * 50, 90),
    ],
)
def test_class_names_are_turned_where_they_would_collide(names, rotation):
    axes = drawn(per_class_bars(classes(names, [0.5] * len(names)), "title", 0.99))
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == names
    assert {label.get_rotation() for label in labels} == {rotation}
    if rotation != 35:  # boxes around slanted names overlap, the names do not
        assert_apart(labels)


def test_the_legend_covers_no_data():
    for figure in (
        nll_histogram(scores(**{f"set-{index}": [float(index)] for index in range(7)}), "title"),
        per_class_bars(classes(["ankle boot"] * 40, [0.5] * 40), "title", 0.99),
    ):
        axes = drawn(figure)
        box = figure.legends[0].get_window_extent()
        assert 0 <= box.y0 < box.y1 <= axes.xaxis.label.get_window_extent().y0
        assert 0 <= box.x0 < box.x1 <= 960


@pytest.mark.parametrize(
    "draw",
    [
        lambda: nll_histogram(scores(mnist=[]), "title"),
        lambda: ood_ratio_curve(power("mnist", {}), "title", 0.99, "mnist"),
        lambda: roc_curves({}, "title"),
        lambda: per_class_bars(classes([], []), "title", 0.99),
    ],
    ids=["histogram", "ratios", "roc", "classes"],
)
def test_nothing_to_draw(draw):
    with pytest.raises(ValueError, match="'title'"):
        draw()


def test_image_rows_are_named_and_show_each_image_in_its_place():
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40 + np.zeros((2, 3, 1, 4, 4), np.uint8)
    (axes,) = image_rows(images, ["first", "second"], "title").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    shown = np.asarray(axes.images[0].get_array())
    assert [shown[round(y), shown.shape[1] // 2, 0] for y in axes.get_yticks()] == [40, 160]
    with pytest.raises(ValueError, match=r"2 rows .*\b1 "):
        image_rows(images, ["first"], "title")
