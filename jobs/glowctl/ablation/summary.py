"""Summarise an ablation from what MLflow has of its trials: tables, figures and sentences.

The statistics are in `glow.comparison`. An axis is a field of `TrainSpec` that varies, such as depth; a configuration
has one value per axis; a trial is a configuration at a seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from glow.comparison import conclusions, configuration_names, paired_differences, summarize, unfinished
from glow.datasets.names import dataset_label
from glow.figures.comparison import curves_with_bands, difference_intervals, heat_map, parallel_coordinates
from glowctl.display.events import AblationSummary
from glowctl.display.lines import summary_markdown
from glowctl.outputs import is_remote, results_folder
from glowctl.run_labels import ablation_description, registered_name
from glowctl.specs.ablation import AXES, AblateSpec
from glowctl.text import Row, bits, count, rows_of
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.registry import Champion, present_champion, set_champion
from glowctl.tracking.runs import child_runs, find_run, metric_history, recorded_images
from glowctl.tracking.store import open_command

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

MOST_LINES = 9
"""The most configurations that a figure of curves shows."""

METRICS = {
    "test_bits_per_dim": metric_names.TEST,
    "validation_bits_per_dim": metric_names.BEST_VALIDATION,
    "best_epoch": "best_epoch",
    "images_per_second": "images_per_second_median",
    "parameters": "parameters",
    "gpu_seconds": "gpu_seconds",
    "core_seconds": "core_seconds",
}
"""Columns of the table of trials -> the names of the metrics of their runs."""


@dataclass(frozen=True)
class Tables:
    """The tables of an ablation.

    Attributes:
        trials: one row per trial, as `trial_table` lays it out.
        configurations: one row per configuration, from `glow.comparison.summarize`.
        differences: one row per pair of values of an axis, from `glow.comparison.paired_differences`.
        curves: one row per epoch of a trial, as `curve_table` lays it out.
    """

    trials: pd.DataFrame
    configurations: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame


def summarize_ablation(
    uri: str, record: Record, spec: AblateSpec, place: str, *, names_champion: bool = False
) -> AblationSummary:
    """Compare the trials of an ablation, and write the summary to its folder and to its run.

    Args:
        uri: the MLflow store.
        record: the run of the ablation.
        spec: the ablation.
        place: the folder of the ablation, or its URI in a bucket.
        names_champion: whether to give the alias `champion` to the model of the best trial. Even then the present
            champion keeps the alias if it has a lower (better) NLL on the same validation images. If False, no alias
            changes.

    Raises:
        TrackingError: if the store does not answer.
    """
    run = find_run(uri, spec.train.experiment, record.run_id)
    axes, tables = axes_of(spec), ablation_tables(uri, run, spec)
    trials = tables.trials
    best = best_trial(trials)
    champion: Champion | None = None
    if best is not None and names_champion:
        champion = _set_champion(uri, run, best, spec)
    elif best is not None:
        champion = present_champion(uri, registered_name(spec.train.dataset, spec.train.bits))
    with results_folder(place, "summary") as folder:
        summary = AblationSummary(
            run=record.name,
            run_id=record.run_id,
            trials=len(trials),
            finished=int((trials["state"] == "finished").sum()),
            factors=axes,
            configurations=rows_of(tables.configurations),
            differences=rows_of(tables.differences),
            conclusions=conclusions(tables.differences),
            unfinished=unfinished(trials, axes),
            best=best,
            champion=None if champion is None else asdict(champion),
            champion_uri=None if champion is None else champion.uri,
            place=record.artifact_uri if is_remote(place) else str(folder),
            open_with=open_command(uri),
        )
        text = summary_markdown(summary)
        (folder / "summary.md").write_text(f"# {summary.run}\n\n{text}")
        for name, table in vars(tables).items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in comparison_figures(
            tables, axes, dataset_label(spec.train.dataset), spec.seeds, spec.search != "grid"
        ):
            figure.savefig(folder / f"{name}.png", dpi=120)
        record.folder(folder)
    for name in ("trials", "configurations", "differences"):
        record.table(getattr(tables, name), f"{name}.json")
    record.describe(ablation_description(spec, record.run_id, _result_line(summary), text))
    if best is not None:
        record.tag(tag_names.CHAMPION, best["run_id"])
        figures = {METRICS[name]: best[name] for name in ("test_bits_per_dim", "validation_bits_per_dim")}
        record.metrics(figures, step=summary.finished)  # a later summary has more trials, and so a later step
    return summary


def axes_of(spec: AblateSpec) -> list[str]:
    """Return the fields of `TrainSpec` for which the ablation lists values; only "permutation" if it lists none."""
    return [axis for name, axis in AXES.items() if getattr(spec, name)] or ["permutation"]


def ablation_tables(uri: str, run: Run, spec: AblateSpec) -> Tables:
    """Compare the trials that MLflow has of an ablation.

    Args:
        uri: the MLflow store.
        run: the run of the ablation.
        spec: the ablation.

    Raises:
        TrackingError: if the store does not answer.
    """
    children = [child for child in child_runs(uri, run, pruned=True) if tag_names.TRIAL in child.data.tags]
    axes = axes_of(spec)
    return tables_of(uri, trial_table(children, spec, axes), axes)


def tables_of(uri: str, trials: pd.DataFrame, axes: Sequence[str]) -> Tables:
    """Compare trials.

    Args:
        uri: the MLflow store, from which the curves are read.
        trials: one row per trial, as `trial_table` lays it out.
        axes: columns of `trials` that make a configuration.

    Raises:
        TrackingError: if the store does not answer.
    """
    return Tables(trials, summarize(trials, axes), paired_differences(trials, axes), curve_table(uri, trials, axes))


def trial_table(children: Iterable[Run], spec: AblateSpec, axes: Sequence[str]) -> pd.DataFrame:
    """Lay out the trials of an ablation.

    Args:
        children: runs of trials that have begun.
        spec: the ablation.
        axes: fields of `TrainSpec` that make a configuration.

    Returns:
        One row per trial, in the order in which trials start: ``run_id`` ("" without a run), ``trial`` (the label), one
        column per axis, ``seed``, ``state`` and ``reason`` (as `state_of`), and one column per entry of `METRICS`
        (NaN if not recorded). Trials that are known beforehand and have not begun have the state "waiting".
    """
    labels = {spec.label(values): values for values in spec.trials()}
    rows = {}
    if spec.known_beforehand:
        for label, values in labels.items():
            settings = spec.trial_spec(values).model_dump()
            of_trial = {axis: settings[axis] for axis in (*axes, "seed")}
            rows[label] = {"run_id": "", "trial": label, **of_trial, "state": "waiting", "reason": None}
    for child in children:
        label, trained = child.data.tags[tag_names.TRIAL], json.loads(child.data.tags[tag_names.SPEC])
        rows[label] = trial_row(child, label, {axis: trained[axis] for axis in (*axes, "seed")})
    order = {label: index for index, label in enumerate(labels)}
    ordered = sorted(rows.values(), key=lambda row: order.get(row["trial"], len(order)))
    return pd.DataFrame(ordered, columns=trial_columns(axes))


def trial_row(run: Run, label: str, values: Mapping[str, Any]) -> Row:
    """Return the row of a trial that has begun, with the columns of `trial_columns`.

    Args:
        run: the run of the trial.
        label: what to call it.
        values: its value of each axis, and its seed.
    """
    state, reason = state_of(run)
    measured = {column: run.data.metrics.get(metric, math.nan) for column, metric in METRICS.items()}
    return {"run_id": run.info.run_id, "trial": label, **values, "state": state, "reason": reason, **measured}


def trial_columns(axes: Sequence[str]) -> list[str]:
    """Return the columns of a table of trials, which `trial_table` describes."""
    return ["run_id", "trial", *axes, "seed", "state", "reason", *METRICS]


def state_of(run: Run) -> tuple[str, str | None]:
    """Return the state of a trial, one of `glow.comparison.STATES`, and why it failed or was stopped.

    Args:
        run: the run of the trial.
    """
    tags = run.data.tags
    if run.info.status == "FINISHED":
        return "finished", None
    if run.info.status == "FAILED":
        return "failed", tags.get(tag_names.ERROR)
    if run.info.status == "KILLED":
        return ("stopped", tags[tag_names.STOPPED]) if tag_names.STOPPED in tags else ("killed", None)
    return "running", None


def curve_table(uri: str, trials: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Read the NLLs of all trials by epoch.

    Args:
        uri: the MLflow store.
        trials: one row per trial, as `trial_table` lays it out.
        axes: columns of `trials` that make a configuration.

    Returns:
        One row per epoch of a trial: ``epoch``, ``test_bits_per_dim`` and ``validation_bits_per_dim`` (NaN if not
        measured), one column per axis, ``trial``, ``seed``, and ``name`` (of the configuration).

    Raises:
        TrackingError: if the store does not answer.
    """
    names = configuration_names(trials, axes)
    metrics = {"test_bits_per_dim": metric_names.TEST_BY_EPOCH, "validation_bits_per_dim": metric_names.VALIDATION}
    frames = [pd.DataFrame(columns=["epoch", *metrics, *axes, "trial", "name", "seed"])]
    for trial, name in zip(rows_of(trials), names, strict=True):
        if not trial["run_id"]:
            continue
        about = {column: trial[column] for column in (*axes, "trial", "seed")}
        frames.append(metrics_by_epoch(uri, trial["run_id"], metrics).assign(**about, name=name))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def metrics_by_epoch(uri: str, run_id: str, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Read metrics of a run: one row per ``epoch``, and a column for each, which is NaN where it was not measured.

    Args:
        uri: the MLflow store.
        run_id: id of the run.
        metrics: column -> name of the metric.

    Raises:
        TrackingError: if the store does not answer.
    """
    histories = {column: metric_history(uri, run_id, metric) for column, metric in metrics.items()}
    table = pd.DataFrame({column: pd.Series(values, dtype=float) for column, values in histories.items()})
    return table.rename_axis("epoch").sort_index().reset_index()


def best_trial(trials: pd.DataFrame) -> Row | None:
    """Return the row of the finished trial with the lowest validation NLL; None if none has finished.

    Args:
        trials: one row per trial, as `trial_table` lays it out.
    """
    finished = trials[(trials["state"] == "finished") & trials["validation_bits_per_dim"].notna()]
    if finished.empty:
        return None
    return rows_of(finished.sort_values("validation_bits_per_dim", kind="stable").head(1))[0]


def _result_line(summary: AblationSummary) -> str:
    finished = f"{summary.finished} of {count(summary.trials, 'trial')} finished"
    if summary.best is None or summary.champion is None:
        return finished
    best = bits(summary.best["test_bits_per_dim"])
    return f"{finished}; the best by validation is {summary.best['trial']} with {best} bits/dim on the test set"


def _set_champion(uri: str, run: Run, best: Row, spec: AblateSpec) -> Champion:
    images, dataset = recorded_images(run), spec.train.dataset
    return set_champion(
        uri,
        registered_name(dataset, spec.train.bits),
        best["run_id"],
        best["validation_bits_per_dim"],
        images.get(f"{dataset} validation", ""),
    )


def comparison_figures(
    tables: Tables, axes: Sequence[str], dataset: str, seeds: int, searched: bool = False
) -> Iterator[tuple[str, Figure]]:
    """Draw the figures for which the tables have values.

    Args:
        tables: the tables of the ablation.
        axes: fields of `TrainSpec` that make a configuration.
        dataset: label of the data set, for the titles.
        seeds: number of seeds, for the titles.
        searched: whether a search chose the configurations.

    Yields:
        Names of files, without an ending, and figures: ``nll_by_epoch``, ``differences``, ``depth_width`` if depth and
        width vary, and ``configurations`` (parallel coordinates) for a search or if more than two axes vary.
    """
    told = tables.configurations.dropna(subset=["bits_per_dim"])
    varied = [axis for axis in axes if tables.trials[axis].nunique() > 1]
    of_seeds = f"{seeds} seed" + ("s" if seeds > 1 else "")
    curves, kind = _measured(tables.curves)
    if not curves.empty:
        lines, which = _lines(curves, told, axes)
        title = f"{dataset}: {kind} NLL by epoch{which}, {of_seeds}"
        yield "nll_by_epoch", curves_with_bands(lines, title, f"{kind} NLL (bits/dim)")
    if tables.differences["difference"].notna().any():
        title = f"{dataset}: paired differences in test NLL, {of_seeds}"
        yield "differences", difference_intervals(tables.differences, title)
    if told.empty:
        return
    if {"depth", "width"} <= set(varied):
        cells, others = _plane(told, varied)
        yield "depth_width", heat_map(cells, f"{dataset}: test NLL by depth and width{others}")
    if varied and (searched or len(varied) > 2):
        yield "configurations", parallel_coordinates(told, varied, f"{dataset}: test NLL of each configuration")


def _measured(curves: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the curves of the test set if it was scored by epoch, else those of the validation images; and which."""
    for kind in ("test", "validation"):
        told = curves.dropna(subset=[f"{kind}_bits_per_dim"])
        if not told.empty:
            return told.rename(columns={f"{kind}_bits_per_dim": "bits_per_dim"}), kind
    return curves.head(0), "test"


def _lines(curves: pd.DataFrame, told: pd.DataFrame, axes: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Return the curves to draw and an addition to the title.

    If there are more than `MOST_LINES` configurations, only the best one per value of the first axis that varies is
    drawn.
    """
    if curves["name"].nunique() <= MOST_LINES or told.empty:
        return curves, ""
    first = next((axis for axis in axes if told[axis].nunique() > 1), axes[0])
    best = told.loc[told.groupby(first, sort=False)["bits_per_dim"].idxmin(), list(axes)]
    return curves.merge(best, on=list(axes)), f", best configuration per {first}"


def _plane(told: pd.DataFrame, varied: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Return the configurations that differ from the best one only in depth and width, and what they share."""
    others = [axis for axis in varied if axis not in ("depth", "width")]
    best = rows_of(told.sort_values("bits_per_dim", kind="stable").head(1))[0]
    for axis in others:
        told = told[told[axis] == best[axis]]
    told = told.assign(half_width=told["bits_per_dim_high"] - told["bits_per_dim"])
    return told, "".join(f", {axis} {best[axis]}" for axis in others)
