"""The sections about training: data, settings, and the resulting negative log-likelihoods (NLL).

The trials of an ablation are compared with the functions of `glowctl.ablation.summary`. Trainings that were started one
by one are compared as if they were the trials of an ablation over the settings in which they differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from glow.comparison import conclusions, unfinished
from glow.datasets.names import dataset_label
from glow.figures.pictures import nll_curve
from glowctl.ablation import summary
from glowctl.display.tables import Table, configuration_table, difference_table
from glowctl.errors import SpecError
from glowctl.report.document import Block, Bullets, Note, Pictures, Section, Text, svg_picture
from glowctl.report.gather import Reader, Study, bits_of, comparable, dataset_of, spec_of
from glowctl.specs.ablation import AXES, AblateSpec
from glowctl.specs.base import theme_of, validated
from glowctl.specs.training import TrainSpec
from glowctl.system.machine_metrics import ENVIRONMENT_FILE
from glowctl.text import bits, count, plain, rows_of
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.runs import recorded_images, recorded_sizes

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy", "pandas", "safetensors", "scikit-learn", "glowctl")
"""The packages whose versions are shown, because they decide what a run computes."""

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

WORDS = {
    "depth": "depth K =",
    "levels": "levels L =",
    "images_in": "storage of images",
    "per_class": "images per class",
    "warmup_steps": "warm-up steps",
}
"""Field of `TrainSpec` -> its name in the table of settings, where that is not the field's name."""

UNSAID = {"dataset", "data_root", "download", "max_failures"}
"""Fields of `TrainSpec` that are left out, because they do not affect the result or are shown elsewhere."""

NUMBER_FORMATS = ("precision", "gradient_precision")
"""Fields of `TrainSpec` under "Compute" that affect the result, so that trainings are compared over them."""

SEPARATE = (
    "Trainings of different groups are not compared, because they have different test images, or images with different "
    "numbers of bits per value. If no model was evaluated, this report shows the best model of the first group."
)
"""Why the report compares trainings only within groups."""

CAPTIONS = {
    "nll_by_epoch": "NLL by epoch: the mean of each configuration over its seeds, with a band for its 95 % t interval.",
    "differences": "Paired differences in test NLL (a minus b) with 95 % intervals. The trials of a pair have the same "
    "seed, and differ in no other setting.",
    "depth_width": "Test NLL in bits/dim by depth K and width.",
    "configurations": "Test NLL of each configuration.",
}
"""Kind of figure -> its caption."""


def data_section(study: Study, reader: Reader, anchor: str) -> Section | None:
    """Return the section with the images, the settings of the trainings, and the versions of packages.

    Args:
        study: the runs of one data set.
        reader: reader of their artifacts.
        anchor: target of links to the section, unique in the report.

    Returns:
        The section, or None if MLflow has none of these facts.
    """
    trained = [*(run for group in study.trials.values() for run in group), *study.trainings]
    trained += [model.training for model in study.models if model.training is not None]
    trained = list({run.info.run_id: run for run in trained}.values())
    blocks: list[Block] = [*_images(study, [*study.ablations, *trained]), *_settings(trained, reader)]
    return Section("Data and settings", anchor, [*blocks, *reader.notes()]) if blocks else None


def _images(study: Study, runs: Sequence[Run]) -> Iterator[Block]:
    """Yield a table with one row per split; a split of which runs have different images has one row for each."""
    rows = {
        (name, f"{shape[0]:,}", "x".join(map(str, shape[1:])), recorded_images(run).get(name, "-")): None
        for run in runs
        for name, shape in recorded_sizes(run).items()
    }
    if rows:
        caption = f"Images of {study.dataset} as the model receives them."
        yield Table(caption, ["split", "images", "channels x rows x columns", "fingerprint"], list(rows))


def _settings(trained: Sequence[Run], reader: Reader) -> Iterator[Block]:
    specs = [spec for run in trained if (spec := spec_of(run))]
    if not specs:
        return
    themes: dict[str, list[str]] = {}
    for name in TrainSpec.model_fields:
        theme = theme_of(TrainSpec, name)
        of_all = [spec.get(name) for spec in specs]
        values = [] if all(map(_unset, of_all)) else list(dict.fromkeys(map(_shown, of_all)))
        if values and theme != "Record" and name not in UNSAID:
            shown = f"{', '.join(values[:6])}{', ...' if len(values) > 6 else ''}"
            themes.setdefault(theme, []).append(f"{WORDS.get(name, name.replace('_', ' '))} {shown}")
    rows = [[theme, "; ".join(parts)] for theme, parts in themes.items()]
    rows += [["Versions", "; ".join(versions)] for versions in [_versions(trained, reader)] if versions]
    if (code := _code(trained)) is not None:
        rows.append(["Code", code])
    several = f"Settings of {len(specs)} trainings. Where there are several values, trainings differ in that setting."
    yield Table(
        several if len(specs) > 1 else "Settings of the training.", ["group", "settings"], rows, left=2, prose=True
    )


def _unset(value: Any) -> bool:
    """Return whether a setting is None or off, and need not be shown if it is so everywhere. A seed of 0 is shown."""
    return value is None or value is False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else plain(value)


def _versions(trained: Sequence[Run], reader: Reader) -> list[str]:
    for run in trained:
        content = reader.content(run, ENVIRONMENT_FILE, None)
        with suppress(ValueError, KeyError, TypeError):  # it is damaged
            found = json.loads(content or b"")
            versions = {name: found["packages"].get(name) for name in PACKAGES}
            named = [f"{name} {version}" for name, version in versions.items() if version is not None]
            return [f"Python {found['python']}, {found['platform']}", *named]
    reader.damaged(trained[0], ENVIRONMENT_FILE, "the versions of its packages")
    return []


def _code(trained: Sequence[Run]) -> str | None:
    commits = list(dict.fromkeys(run.data.tags.get(tag_names.COMMIT, "") for run in trained))
    changed = any(run.data.tags.get(tag_names.SOURCE_CHANGED) == "True" for run in trained)
    known = [commit[:12] for commit in commits if commit]
    return f"commit {', '.join(known)}{', with uncommitted changes' if changed else ''}" if known else None


def settings_in_words(spec: Mapping[str, Any]) -> str:
    """Return the main settings of a training in words; a setting that is missing is left out.

    Examples:
        >>> settings_in_words({"permutation": "1x1", "depth": 8, "levels": 3, "width": 128, "seed": 0, "bits": 8})
        'permutation 1x1, K = 8, L = 3, width 128, seed 0'
    """
    parts = [("permutation", "permutation {}"), ("depth", "K = {}"), ("levels", "L = {}"), ("width", "width {}")]
    parts += [("coupling", "{} coupling"), ("epochs", "{} epochs"), ("seed", "seed {}")]
    parts += [("bits", "{}-bit images")] if spec.get("bits") != 8 else []
    return ", ".join(words.format(spec[name]) for name, words in parts if spec.get(name) is not None)


def nll_section(study: Study, reader: Reader, anchor: str) -> tuple[Section | None, list[str]]:
    """Return the report's section on NLLs by epoch and by configuration, and sentences for the report's summary.

    The section is None if there is nothing to show in it.

    Args:
        study: the ablations and trainings to show.
        reader: reads the artifacts of the runs.
        anchor: target of links to the section, unique in the report.
    """
    label = dataset_label(study.dataset)
    parts = [
        _of_ablation(ablation, study, reader, f"{label}-ablation-{number}")
        for number, ablation in enumerate(study.ablations, start=1)
    ]
    if not parts and study.trainings:
        parts.append(_of_trainings(study, reader, f"{label}-trainings"))
    blocks = [block for of_part, _ in parts for block in of_part]
    said = [sentence for _, of_part in parts for sentence in of_part]
    return (Section("Negative log-likelihood (NLL)", anchor, [*blocks, *reader.notes()]) if blocks else None), said


Compared = tuple[list[Block], list[str]]
"""Parts of a section, and sentences for the summary."""


def _of_ablation(ablation: Run, study: Study, reader: Reader, name: str) -> Compared:
    try:
        spec = validated(AblateSpec, spec_of(ablation))
    except (SpecError, ValueError) as error:
        return [Note(f"The settings of ablation {ablation.info.run_name} cannot be read ({error}).")], []
    axes = summary.axes_of(spec)
    tables = summary.ablation_tables(reader.uri, ablation, spec)
    varied = [axis.replace("_", " ") for field, axis in AXES.items() if len(getattr(spec, field) or ()) > 1]
    over = f" over {' and '.join(varied)}" if varied else ""
    finished = int((tables.trials["state"] == "finished").sum())
    over += f" of {spec.train.bits}-bit images" if spec.train.bits != 8 else ""
    intro = (
        f"The ablation “{ablation.info.run_name}”{over} has "
        f"{count(spec.number_of_configurations, 'configuration')} with {count(spec.seeds, 'seed')} each. A trial is a "
        f"training of one configuration at one seed, for {count(spec.train.epochs, 'epoch')}; {finished} of "
        f"{count(len(tables.trials), 'trial')} finished. The test NLL of a trial is that of the epoch with the lowest "
        "validation NLL."
    )
    blocks, said = _compared(tables, axes, dataset_label(study.dataset), spec.seeds, spec.search != "grid", name)
    return [Text(intro), *blocks], said


def _of_trainings(study: Study, reader: Reader, name: str) -> Compared:
    """Compare trainings that have the same test images, separately for each group of these."""
    groups = comparable(run for run in study.trainings if spec_of(run))
    if len(groups) < 2:
        return _of_comparable([run for group in groups for run in group], study, reader, name)
    blocks: list[Block] = [Text(f"The trainings form {count(len(groups), 'group')}. {SEPARATE}")]
    said: list[str] = []
    for index, (group, words) in enumerate(zip(groups, _images_in_words(groups), strict=True), start=1):
        made = _of_comparable(group, study, reader, f"{name}-{index}")
        blocks += [Text(f"Images with {words}:"), *made[0]]
        said += [f"Images with {words}: {sentence}" for sentence in made[1]]
    return blocks, said


def _images_in_words(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return for each group of `comparable` what its images are, as far as it tells the groups apart.

    These are the settings in which the groups differ, such as "5 bits per value, all classes but 7, 8". If there are
    groups with the same words, all have the fingerprint of the test images in addition.
    """
    facts = [[" or ".join(dict.fromkeys(fact)) for fact in zip(*map(_facts, group), strict=True)] for group in groups]
    telling = [index for index, values in enumerate(zip(*facts, strict=True)) if len(set(values)) > 1]
    words = [", ".join(of_group[index] for index in telling) for of_group in facts]
    if len(set(words)) == len(words):
        return words
    digests = [recorded_images(group[0]).get(f"{dataset_of(group[0])} test") for group in groups]
    prints = [f"the fingerprint {digest}" if digest else "no fingerprint" for digest in digests]
    return [f"{said}, {fingerprint}".removeprefix(", ") for said, fingerprint in zip(words, prints, strict=True)]


def _facts(run: Run) -> list[str]:
    spec = spec_of(run)
    _, _, *size = recorded_sizes(run).get(f"{dataset_of(run)} test", (0, 0, *[spec.get("image_size")] * 2))
    return [
        f"{count(bits_of(run), 'bit')} per value",
        f"{'x'.join(map(str, size))} pixels" if all(size) else "the default size",
        f"all classes but {plain(spec['leave_out'])}" if spec.get("leave_out") else "all classes",
        f"a background of {spec.get('background')}",
    ]


def _of_comparable(readable: Sequence[Run], study: Study, reader: Reader, name: str) -> Compared:
    if len(readable) == 1:
        return _of_one(readable[0], study, reader, name)
    trials, axes = _trial_table(readable)
    tables = summary.tables_of(reader.uri, trials, axes)
    seeds = int(trials["seed"].nunique()) if len(trials) else 0
    blocks, said = _compared(tables, axes, dataset_label(study.dataset), seeds, False, name)
    intro = (
        f"{count(len(readable), 'training')} that were not started as one ablation are compared here. Trainings that "
    )
    intro += f"have the same {' and '.join(axis.replace('_', ' ') for axis in axes)} form a configuration."
    if repeats := len(readable) - len(trials):
        intro += (
            f" Of those that also have the same seed, only the newest finished one counts, which leaves out "
            f"{count(repeats, 'training')}."
        )
    return [Text(intro), *blocks], said


def _trial_table(runs: Sequence[Run]) -> tuple[pd.DataFrame, list[str]]:
    """Return trainings as a table of trials, and as its axes the permutation and the settings in which they differ.

    Of trainings with the same settings and seed, only the newest finished one is in the table, or the newest one if
    none has finished.
    """
    specs = [spec_of(run) for run in runs]
    names = [name for name in TrainSpec.model_fields if theme_of(TrainSpec, name) in ("Data", "Model", "Optimisation")]
    names = [name for name in (*names, *NUMBER_FORMATS) if name not in (*UNSAID, "seed", "permutation")]
    axes = ["permutation", *(name for name in names if len({str(spec.get(name)) for spec in specs}) > 1)]
    rows = []
    for run, spec in zip(runs, specs, strict=True):
        values = {axis: _axis_value(spec.get(axis)) for axis in axes}
        rows.append(summary.trial_row(run, run.info.run_name, {**values, "seed": spec.get("seed", 0)}))
    table = pd.DataFrame(rows, columns=summary.trial_columns(axes))
    table = table.sort_values("state", key=lambda state: state != "finished", kind="stable")
    table = table.drop_duplicates([*axes, "seed"]).sort_index()
    return table.iloc[::-1].reset_index(drop=True), axes


def _axis_value(value: Any) -> Any:
    """Return the value of a setting as that of an axis, which must not be missing and can be compared with others."""
    return "none" if value is None else plain(value) if isinstance(value, list) else value


def _of_one(run: Run, study: Study, reader: Reader, name: str) -> Compared:
    metrics = {f"{split}_bits_per_dim": f"{split}/bits_per_dim" for split in ("train", "validation")}
    history = summary.metrics_by_epoch(reader.uri, run.info.run_id, metrics)
    test = run.data.metrics.get(metric_names.TEST, math.nan)
    if history.empty:
        return [Note(f"Training {run.info.run_name} has recorded no epoch.")], []
    title = f"{dataset_label(study.dataset)}: NLL by epoch"
    figure = nll_curve(history, title, None if math.isnan(test) else test)
    last = history.iloc[-1]
    alt = f"Line chart of bits/dim against epoch; at epoch {last['epoch']:.0f}, training {bits(last.iloc[1])} and "
    alt += f"validation {bits(last.iloc[2])}."
    picture = svg_picture(figure, name, alt, "NLL of the training and validation images by epoch.")
    said = [] if math.isnan(test) else [f"The only training has a test NLL of {bits(test)} bits/dim."]
    return [Text("There is only one training, so there is nothing to compare."), Pictures([picture])], said


def _compared(
    tables: summary.Tables, axes: Sequence[str], dataset: str, seeds: int, searched: bool, name: str
) -> Compared:
    said = conclusions(tables.differences)
    lost = unfinished(tables.trials, axes)
    best = summary.best_trial(tables.trials)
    if best is not None:
        said = [
            *said,
            f"Of {count(int((tables.trials['state'] == 'finished').sum()), 'finished training')}, {best['trial']} has "
            "the lowest validation NLL (negative log-likelihood; lower is better). Its test NLL is "
            f"{bits(best['test_bits_per_dim'])} bits/dim.",
        ]
    blocks: list[Block] = [Bullets([*said, *lost])] if said or lost else []
    figures = summary.comparison_figures(tables, axes, dataset, seeds, searched)
    pictures = [
        svg_picture(figure, f"{name}-{kind.replace('_', '-')}", _alt(kind, tables), CAPTIONS[kind])
        for kind, figure in _drawable(figures)
    ]
    blocks += [Pictures(pictures)] if pictures else []
    if len(tables.configurations):
        blocks.append(configuration_table(rows_of(tables.configurations), axes))
    if len(tables.differences):
        blocks.append(difference_table(rows_of(tables.differences)))
    return blocks, said


def _drawable(figures: Iterable[tuple[str, Figure]]) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that can be drawn. A curve without finite values cannot, and raises ValueError."""
    try:
        yield from figures
    except ValueError:
        return


def _alt(kind: str, tables: summary.Tables) -> str:
    if kind == "nll_by_epoch":
        ends = tables.curves.sort_values("epoch").groupby("name", sort=False).tail(1)
        names = ", ".join(dict.fromkeys(str(name) for name in ends["name"]))
        return f"Line chart of bits/dim against epoch, with one line per configuration: {names}."
    if kind == "differences":
        known = tables.differences.dropna(subset=["difference"])
        pairs = "; ".join(f"{row['a']} minus {row['b']}: {row['difference']:+.3f}" for row in rows_of(known))
        return f"Intervals of paired differences in bits/dim. {pairs}."
    return CAPTIONS[kind]
