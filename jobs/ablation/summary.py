"""What an ablation comes to, read from MLflow alone: tables, figures and sentences about its trials."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from glow.comparison import conclusions, configuration_names, paired_differences, summarize, unfinished
from glow.comparison_figures import curves_with_bands, difference_intervals, heat_map, parallel_coordinates
from glow.datasets.names import dataset_label
from jobs.display.ablation_lines import summary_markdown
from jobs.display.events import AblationSummary
from jobs.display.rows import Difference, rows_as
from jobs.outputs import is_remote, results_folder
from jobs.run_labels import ablation_description, registered_name
from jobs.specs.ablation import AXES, AblateSpec
from jobs.text import Row, bits, count, numbers, rows_of
from jobs.tracking import (
    Champion,
    Record,
    child_runs,
    find_run,
    metric_history,
    metric_names,
    open_command,
    present_champion,
    recorded_images,
    set_champion,
    tag_names,
)

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = [
    "METRICS",
    "Tables",
    "ablation_tables",
    "best_trial",
    "comparison_figures",
    "curve_table",
    "factors_of",
    "state_of",
    "summarize_ablation",
    "tables_of",
]

MOST_LINES = 9
"""Configurations that one figure of curves can hold."""

METRICS = {
    "test_bits_per_dim": metric_names.TEST,
    "validation_bits_per_dim": metric_names.BEST_VALIDATION,
    "best_epoch": "best_epoch",
    "images_per_second": "images_per_second_median",
    "parameters": "parameters",
    "gpu_seconds": "gpu_seconds",
    "core_seconds": "core_seconds",
}
"""Columns of the table of trials -> the metrics of their runs."""


@dataclass(frozen=True)
class Tables:
    """A row a trial, a configuration, a pair of values, and an epoch of a trial."""

    trials: pd.DataFrame
    configurations: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame


def summarize_ablation(uri: str, record: Record, spec: AblateSpec, *, names_champion: bool = False) -> AblationSummary:
    """Reads what MLflow has of an ablation's trials, and writes the summary to the output folder and to its run.

    With `names_champion` the best trial's model gets the alias `champion`, unless the present champion is better;
    otherwise no alias moves.

    Raises:
        TrackingError: if the store does not answer.
    """
    run = find_run(uri, spec.train.experiment, record.run_id)
    factors, tables = factors_of(spec), ablation_tables(uri, run, spec)
    trials = tables.trials
    best = best_trial(trials)
    champion: Champion | None = None
    if best is not None and names_champion:
        champion = _set_champion(uri, run, best, spec)
    elif best is not None:
        champion = present_champion(uri, registered_name(spec.train.dataset, spec.train.bits))
    with results_folder(spec.train.output, f"{record.run_id}/summary") as folder:
        summary = AblationSummary(
            run=record.name,
            run_id=record.run_id,
            trials=len(trials),
            finished=int((trials["state"] == "finished").sum()),
            factors=factors,
            configurations=rows_of(tables.configurations),
            differences=rows_as(Difference, tables.differences),
            conclusions=conclusions(tables.differences),
            unfinished=[*unfinished(trials, factors), *gaps(tables, spec.train.epochs, record.run_id)],
            best=best,
            champion=champion,
            place=record.artifact_uri if is_remote(spec.train.output) else str(folder),
            open_with=open_command(uri),
        )
        text = summary_markdown(summary)
        (folder / "summary.md").write_text(f"# {summary.run}\n\n{text}")
        for name, table in vars(tables).items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in comparison_figures(
            tables, factors, dataset_label(spec.train.dataset), spec.seeds, spec.search != "grid"
        ):
            figure.savefig(folder / f"{name}.png", dpi=120)
        record.folder(folder)
    for name in ("trials", "configurations", "differences"):
        record.table(getattr(tables, name), f"{name}.json")
    record.describe(ablation_description(spec, record.run_id, _result_line(summary), text))
    if best is not None:
        record.tag(tag_names.CHAMPION, best["run_id"])
        figures = {METRICS[name]: best[name] for name in ("test_bits_per_dim", "validation_bits_per_dim")}
        record.metrics(figures, step=summary.finished)  # a later summary of more trials stands behind it
    return summary


def factors_of(spec: AblateSpec) -> list[str]:
    """What varies between the configurations of an ablation: fields of `TrainSpec`."""
    return [axis for name, axis in AXES.items() if getattr(spec, name)] or ["permutation"]


def ablation_tables(uri: str, run: Run, spec: AblateSpec) -> Tables:
    """What MLflow has of an ablation's trials, compared. Raises TrackingError."""
    children = [child for child in child_runs(uri, run) if tag_names.TRIAL in child.data.tags]
    factors = factors_of(spec)
    return tables_of(uri, trial_table(children, spec, factors), factors)


def tables_of(uri: str, trials: pd.DataFrame, factors: Sequence[str]) -> Tables:
    """Trials, laid out as `trial_table` does, compared. Raises TrackingError."""
    return Tables(
        trials, summarize(trials, factors), paired_differences(trials, factors), curve_table(uri, trials, factors)
    )


def trial_table(children: Iterable[Run], spec: AblateSpec, factors: Sequence[str]) -> pd.DataFrame:
    """A row a trial: run_id ("" if it has none), trial (its label), the factors, seed, state, reason, and `METRICS`.

    Trials that are known beforehand and have not begun are among them, as waiting.
    """
    labels = {spec.label(values): values for values in spec.trials()}
    rows = {}
    for child in children:
        label, tags = child.data.tags[tag_names.TRIAL], child.data.tags
        trained = json.loads(tags[tag_names.SPEC])
        state, reason = state_of(child)
        rows[label] = {
            "run_id": child.info.run_id,
            "trial": label,
            **{factor: trained[factor] for factor in factors},
            "seed": trained["seed"],
            "state": state,
            "reason": reason,
            **{column: child.data.metrics.get(metric, math.nan) for column, metric in METRICS.items()},
        }
    waiting = [label for label in labels if label not in rows] if spec.known_beforehand else []
    for label in waiting:
        values = spec.trial_spec(labels[label]).model_dump()
        rows[label] = {
            "run_id": "",
            "trial": label,
            **{factor: values[factor] for factor in factors},
            "seed": values["seed"],
            "state": "waiting",
            "reason": None,
            **dict.fromkeys(METRICS, math.nan),
        }
    order = {label: index for index, label in enumerate(labels)}
    ordered = sorted(rows.values(), key=lambda row: order.get(row["trial"], len(order)))
    columns = ["run_id", "trial", *factors, "seed", "state", "reason", *METRICS]
    return pd.DataFrame(ordered, columns=columns)


def state_of(run: Run) -> tuple[str, str | None]:
    """A trial's state, one of `glow.comparison.STATES`, and why it failed or was stopped."""
    tags = run.data.tags
    if run.info.status == "FINISHED":
        return "finished", None
    if run.info.status == "FAILED":
        return "failed", tags.get(tag_names.ERROR)
    if run.info.status == "KILLED":
        return ("stopped", tags[tag_names.STOPPED]) if tag_names.STOPPED in tags else ("killed", None)
    return "running", None


def curve_table(uri: str, trials: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """A row an epoch of a trial: name (of its configuration), seed, epoch, and both NLLs in bits/dim."""
    names = configuration_names(trials, factors)
    metrics = {"test_bits_per_dim": metric_names.TEST_BY_EPOCH, "validation_bits_per_dim": metric_names.VALIDATION}
    frames = [pd.DataFrame(columns=["epoch", *metrics, *factors, "trial", "name", "seed"])]
    for trial, name in zip(rows_of(trials), names, strict=True):
        if not trial["run_id"]:
            continue
        steps = {column: metric_history(uri, trial["run_id"], metric) for column, metric in metrics.items()}
        frame = pd.DataFrame({column: pd.Series(values, dtype=float) for column, values in steps.items()})
        about = {column: trial[column] for column in (*factors, "trial", "seed")}
        frames.append(frame.rename_axis("epoch").sort_index().reset_index().assign(**about, name=name))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def gaps(tables: Tables, epochs: int, run_id: str) -> list[str]:
    """What the record of the finished trials lacks, a sentence for each."""
    found = []
    for label in tables.trials.loc[tables.trials["state"] == "finished", "trial"]:
        known = set(tables.curves.loc[tables.curves["trial"] == label, "epoch"])
        missing = [epoch for epoch in range(1, epochs + 1) if epoch not in known]
        if missing:
            lacks = numbers("epoch", missing)
            found.append(f"the record of {label} lacks {lacks}: glowctl repair {run_id} adds what its checkpoint knows")
    return found


def best_trial(trials: pd.DataFrame) -> Row | None:
    """The row of the finished trial with the lowest validation NLL."""
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
    tables: Tables, factors: Sequence[str], dataset: str, seeds: int, searched: bool = False
) -> Iterator[tuple[str, Figure]]:
    """Those figures, with their names, that the tables have something for."""
    told = tables.configurations.dropna(subset=["bits_per_dim"])
    varied = [factor for factor in factors if tables.trials[factor].nunique() > 1]
    of_seeds = f"{seeds} seed" + ("s" if seeds > 1 else "")
    curves, kind = _measured(tables.curves)
    if not curves.empty:
        lines, which = _lines(curves, told, factors)
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
    """The curves of the test set where it was scored by epoch, else those of the validation images."""
    for kind in ("test", "validation"):
        told = curves.dropna(subset=[f"{kind}_bits_per_dim"])
        if not told.empty:
            return told.rename(columns={f"{kind}_bits_per_dim": "bits_per_dim"}), kind
    return curves.head(0), "test"


def _lines(curves: pd.DataFrame, told: pd.DataFrame, factors: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """A line a configuration, or where these are many the best one of each value of the first factor; and what to say
    of that."""
    if curves["name"].nunique() <= MOST_LINES or told.empty:
        return curves, ""
    best = told.loc[told.groupby(factors[0], sort=False)["bits_per_dim"].idxmin(), list(factors)]
    return curves.merge(best, on=list(factors)), f", the best of each {factors[0]}"


def _plane(told: pd.DataFrame, varied: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The configurations that differ from the best one in depth and width alone, and what they have in common."""
    others = [factor for factor in varied if factor not in ("depth", "width")]
    best = rows_of(told.sort_values("bits_per_dim", kind="stable").head(1))[0]
    for factor in others:
        told = told[told[factor] == best[factor]]
    told = told.assign(half_width=told["bits_per_dim_high"] - told["bits_per_dim"])
    return told, "".join(f", {factor} {best[factor]}" for factor in others)
