"""`glowctl show`: print one run with its result, description, settings, metrics, and where to find more."""

from __future__ import annotations

import html
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from glowctl.browse.runs import COLOURS, Progress, Result, ago, facts_of, progress_of, result_of, seconds_of, trials_of
from glowctl.specs.evaluation import USED_WITHOUT
from glowctl.text import JsonObject, bits, count, duration, json_text, plain
from glowctl.tracking import metric_names, runs, tag_names
from glowctl.tracking.store import open_command
from glowctl.tracking.uris import tracking_uri

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

SETTINGS = {
    "train": (
        *("dataset", "permutation", "depth", "levels", "width", "coupling", "scale"),
        *("dequantization", "input", "checkerboard", "network", "actnorm", "class_conditional", "bits"),
        *("epochs", "batch_size", "learning_rate", "optimizer", "flip", "seed", "per_class", "image_size", "workers"),
        *("precision", "gradient_precision"),
    ),
    "ablate": (
        *("dataset", "permutations", "depths", "widths", "couplings", "scales", "dequantizations", "inputs"),
        *("checkerboards", "networks", "actnorms", "learning_rates", "seeds", "epochs"),
        *("depth", "levels", "width", "batch_size", "learning_rate", "per_class", "search", "scheduler"),
    ),
    "nll": ("datasets", "split", "noise_samples", "seed"),
    "sample": ("temperature", "temperatures", "grid", "only_class", "seed"),
    "interpolate": ("mode", "steps", "pairs_per_class", "from_image", "to_image", "seed"),
    "ood": ("batch_sizes", "alpha", "protocol", "center", "bootstraps", "repeats", "seed"),
    "ood-trainings": ("batch_sizes", "alpha", "protocol", "seed"),
    "watch": ("source", "thin", "reference", "ranks", "guarantee", "alpha", "detector", "seed"),
    "check": ("sources", "reference", "detector", "alpha", "fdr", "seed"),
}
"""Job -> the parameters to print. All parameters are in the artifact spec.json."""

TABLES = {"ood": ("ood_ratios.json",), "nll": ("nll.json",), "ablate": ("configurations.json",)}
"""Job -> the artifacts with tables of results. They are printed if the description contains no table."""

FINAL = {
    "train": (
        *(metric_names.TEST, metric_names.TEST_ORIGINAL, metric_names.BEST_VALIDATION, metric_names.TRAIN),
        *("best_epoch", "images_per_second_median", "seconds", "parameters", "workers", "restarts", "skipped_steps"),
    ),
    "ood": (),
    "nll": (),
}
"""Job -> the metrics to print, for jobs that have less important ones too, or show their metrics in a table."""

MOST_ROWS = 20
"""Longest table that is printed whole."""

MOST_METRICS = 30
"""Largest number of metrics that is printed."""

CELLS = re.compile(r"(?<!\\)\|")
"""What separates the cells of a table in Markdown."""


@dataclass(frozen=True)
class Shown:
    """A run with all that is printed about it.

    Attributes:
        uri: the MLflow store.
        run: the run.
        experiment: name of its experiment.
        result: its result.
        progress: its progress, if it is a training that is still running; else None.
        nested: number of runs nested under it, by job; trials of ablations count as "trial".
        models: versions in the registry that this run trained.
        artifacts: names of its artifacts.
        tables: column names and rows of its tables of results, by name.
        page: address of its page in the MLflow UI, if the store is an MLflow server.
    """

    uri: str
    run: Run
    experiment: str
    result: Result
    progress: Progress | None
    nested: Mapping[str, int]
    models: Sequence[runs.RegisteredModel]
    artifacts: Sequence[str]
    tables: Mapping[str, tuple[list[str], list[list[Any]]]]
    page: str | None

    @property
    def job(self) -> str:
        """The job of the run; empty if glowctl did not make it."""
        return str(self.run.data.tags.get(tag_names.JOB, ""))


def show_run(given_uri: str | None, experiment: str | None, given: str, as_json: bool) -> None:
    """Print a run.

    Args:
        given_uri: the MLflow store; None for the default (`glowctl.tracking.tracking_uri`).
        experiment: name of the experiment to search; None for all.
        given: name of the run, or the first letters of its id.
        as_json: print one JSON object.

    Raises:
        NoSuchRun: if there is no such run.
        TrackingError: if the store does not answer, or several ids begin with `given`.
    """
    uri = tracking_uri(given_uri)
    names = runs.experiment_names(uri, experiment)
    shown = _gathered(uri, runs.named_run(uri, list(names), given), names)
    if as_json:
        print(json_text(_facts(shown)), flush=True)
        return
    # In a pipe there is no terminal to fit: this width keeps the lines of most tables whole.
    _print(shown, Console() if sys.stdout.isatty() else Console(width=160))


def _gathered(uri: str, run: Run, names: Mapping[str, str]) -> Shown:
    job, run_id = run.data.tags.get(tag_names.JOB, ""), run.info.run_id
    children = runs.child_runs(uri, run)
    read = {name: runs.json_table(uri, run_id, name) for name in TABLES.get(job, ())}
    return Shown(
        uri,
        run,
        names[run.info.experiment_id],
        result_of(uri, run, trials_of(uri, run)),
        progress_of(uri, run) if job == "train" and run.info.status == "RUNNING" else None,
        Counter(
            "trial" if tag_names.TRIAL in child.data.tags else child.data.tags.get(tag_names.JOB, "other")
            for child in children
        ),
        runs.registered_models(uri, run_id),
        runs.artifact_names(uri, run_id),
        {name.removesuffix(".json"): table for name, table in read.items() if table is not None},
        runs.page_of(uri, run),
    )


def _settings(shown: Shown) -> dict[str, str]:
    given = shown.run.data.params

    def is_set(name: str) -> bool:
        return given.get(name, "None") not in ("None", "")

    names = SETTINGS.get(shown.job, tuple(given))
    return {name: given[name] for name in names if is_set(name) and not is_set(USED_WITHOUT.get(name, ""))}


def _metrics(shown: Shown) -> dict[str, float]:
    known = shown.run.data.metrics
    names = FINAL.get(shown.job, sorted(name for name in known if not name.startswith("system/")))
    return {name: known[name] for name in names if name in known}


def _facts(shown: Shown) -> JsonObject:
    spec: Any = None
    with suppress(ValueError):
        spec = json.loads(shown.run.data.tags.get(tag_names.SPEC, "null"))
    return {
        **facts_of(shown.run, shown.experiment, shown.result),
        "description": shown.run.data.tags.get(tag_names.NOTE),
        "model": shown.run.data.tags.get(tag_names.TRAIN_RUN),
        "progress": asdict(shown.progress) if shown.progress is not None else None,
        "settings": spec if spec is not None else dict(shown.run.data.params),
        "metrics": dict(sorted(shown.run.data.metrics.items())),
        "tables": {
            name: [dict(zip(columns, row, strict=False)) for row in rows]
            for name, (columns, rows) in shown.tables.items()
        },
        "beneath": dict(shown.nested),
        "registered": list(shown.models),
        "artifacts": list(shown.artifacts),
        "artifact_uri": shown.run.info.artifact_uri,
        "page": shown.page,
    }


def _print(shown: Shown, console: Console) -> None:
    _print_head(shown, console)
    description = shown.run.data.tags.get(tag_names.NOTE, "")
    if description:
        console.print()
        _print_markdown(description, console)
    _print_settings(shown, console)
    if not any(is_table for is_table, _ in _blocks(description)):
        for name, (columns, rows) in shown.tables.items():
            console.print(f"\n[bold]{name}[/]", highlight=False)
            _print_rows(columns, [[_cell(value) for value in row] for row in rows], console)
    metrics = _metrics(shown)
    if metrics:
        some = list(metrics.items())[:MOST_METRICS]
        more = [("", f"and {len(metrics) - len(some)} more")] if len(metrics) > len(some) else []
        console.print("\n[bold]metrics[/]", highlight=False)
        _print_pairs([*((name, plain(float(f"{value:.5g}"))) for name, value in some), *more], console)
    if shown.artifacts:
        console.print(f"\n[bold]artifacts[/]  {shown.run.info.artifact_uri}", highlight=False, soft_wrap=True)
        console.print(Text(", ".join(shown.artifacts)))


def _print_markdown(text: str, console: Console) -> None:
    """Print Markdown. Tables are printed with all of every cell, since rich would cut cells off."""
    for number, (is_table, lines) in enumerate(_blocks(text)):
        if number:
            console.print()
        if is_table:
            head, _, *rows = (
                [_unescaped(cell) for cell in CELLS.split(line.strip().removeprefix("|").removesuffix("|"))]
                for line in lines
            )
            _print_rows(head, rows, console)
        else:
            console.print(Markdown("\n".join(lines)))


def _unescaped(cell: str) -> str:
    return html.unescape(re.sub(r"\\(.)", r"\1", cell.strip()))


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """Split Markdown into tables and the text between them: (whether it is a table, its lines).

    Lines that begin with | are a table only if the second one is a separator, since users can edit a description.
    """
    blocks: list[tuple[bool, list[str]]] = []
    for piped, group in itertools.groupby(text.strip().splitlines(), key=lambda line: line.startswith("|")):
        lines = list(group)
        is_table = piped and len(lines) > 1 and "-" in lines[1] and set(lines[1]) <= set("|-: ")
        if blocks and not is_table and not blocks[-1][0]:
            blocks[-1][1].extend(lines)
        else:
            blocks.append((is_table, lines))
    return blocks


def _print_head(shown: Shown, console: Console) -> None:
    run, tags = shown.run, shown.run.data.tags
    status = run.info.status.lower()
    console.print(Text.assemble((str(run.info.run_name), "bold"), "  ", (status, COLOURS.get(status, ""))))
    started = datetime.fromtimestamp(run.info.start_time / 1000)
    when = f"{started:%Y-%m-%d %H:%M}, {ago(run.info.start_time)} ago, took {duration(seconds_of(run))}"
    pairs = [
        ("result", shown.result.text if status == "finished" or shown.job == "ablate" else ""),
        ("progress", _progress(shown)),
        ("error", tags.get(tag_names.ERROR, "")),
        ("stopped", tags.get(tag_names.STOPPED, "")),
        ("job", f"{shown.job or 'not from glowctl'}, in experiment {shown.experiment}"),
        ("data set", tags.get(tag_names.DATASET, "")),
        ("started", when.replace("took", "running for") if status == "running" else when),
        ("model", f"trained by run {tags[tag_names.TRAIN_RUN]}" if tag_names.TRAIN_RUN in tags else ""),
        ("registered", ", ".join(_model(version) for version in shown.models)),
        ("nested runs", ", ".join(count(n, kind) if kind == "trial" else f"{n} {kind}" for kind, n in _nested(shown))),
        ("id", run.info.run_id),
        ("to see it", shown.page or open_command(shown.uri)),
    ]
    _print_pairs([pair for pair in pairs if pair[1]], console, style="dim")


def _nested(shown: Shown) -> list[tuple[str, int]]:
    return sorted(shown.nested.items(), key=lambda item: (item[0] != "trial", item[0]))


def _progress(shown: Shown) -> str:
    if shown.progress is None:
        return ""
    of, validation = shown.progress.epochs, shown.progress.validation_bits_per_dim
    told = f", last validation {bits(validation)} bits/dim" if validation is not None else ", no validation yet"
    return f"epoch {shown.progress.epoch} of {of if of is not None else '?'}{told}"


def _model(version: runs.RegisteredModel) -> str:
    called = "".join(f" @{alias}" for alias in version["aliases"])
    return f"{version['name']} version {version['version']}{called}"


def _print_settings(shown: Shown, console: Console) -> None:
    settings = _settings(shown)
    if settings:
        more = "; all are in the artifact spec.json" if "spec.json" in shown.artifacts else ""
        console.print(f"\n[bold]settings[/]  a selection{more}", highlight=False)
        console.print(Text(", ".join(f"{name} {value}" for name, value in settings.items())))


def _print_pairs(pairs: Sequence[tuple[str, str]], console: Console, style: str = "") -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name, style=style), Text(value))
    console.print(table, highlight=False)


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(Text(value) for value in row))
    console.print(table, highlight=False)
    if len(rows) > MOST_ROWS:
        console.print(f"and {len(rows) - MOST_ROWS} more rows", highlight=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
