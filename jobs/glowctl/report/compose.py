"""Composition of a report from the gathered runs: its sections, its summary, and the list of what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from glow.datasets.names import dataset_label
from glowctl.display.tables import Cell, Table
from glowctl.report import compare, evaluations
from glowctl.report.document import Block, Gap, Report, Section, Text
from glowctl.report.gather import Material, Model, Reader, Study, best_training, comparable, dataset_of, job_of, spec_of
from glowctl.text import bits, count, duration
from glowctl.tracking import metric_names
from glowctl.tracking.runs import page_of
from glowctl.tracking.store import open_command
from glowctl.tracking.uris import without_password

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

METRICS = {
    "estimated_seconds": "estimated s",
    "images_per_second_median": "images/s",
    "core_seconds": "core-seconds",
    "gpu_seconds": "GPU-seconds",
    "price": "price",
    "parameters": "parameters",
}
"""Metrics of a run that are shown with its costs, in the order of the columns."""

WANTED = {
    "nll": ("No likelihoods of whole data sets under {} are recorded",),
    "sample": ("No samples of {} at several temperatures are recorded", "--temperatures", "0,0.5,0.7,0.9,1"),
    "interpolate": ("No interpolation by {} is recorded",),
    "ood": ("No out-of-distribution test of {} is recorded",),
}
"""Kind of evaluation -> the sentence of the gap if there is none, and the flags of the command that adds it."""


def compose(material: Material) -> Report:
    """Compose the report of these runs.

    If an artifact is gone or damaged, the report has a sentence about that in its place.

    Raises:
        TrackingError: if the store does not answer.
    """
    reader = Reader(material.uri)
    sections, summary, gaps = [], [], []
    for index, study in enumerate(material.studies):
        section, said = _study_section(study, reader, f"data-{index + 1}")
        sections.append(section)
        where = f"{study.dataset}: " if len(material.studies) > 1 else ""
        summary += [f"{where}{sentence}" for sentence in said]
        gaps += list(_gaps(study, material))
    sections += [
        section for section in [evaluations.benchmark_section(material, reader, "benchmark")] if section is not None
    ]
    sections.append(_costs(material, "costs"))
    gaps += [Gap(sentence.rstrip(".")) for sentence in reader.lost]
    datasets = ", ".join(study.dataset for study in material.studies)
    facts = [
        ("Experiment", material.experiment),
        ("Training data", datasets),
        ("MLflow store", without_password(material.uri)),
        ("To open the MLflow UI", open_command(material.uri)),
        ("Created", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    return Report(
        f"Glow models trained on {' and '.join(study.dataset for study in material.studies)}",
        facts,
        summary,
        sections,
        gaps,
    )


def _study_section(study: Study, reader: Reader, anchor: str) -> tuple[Section, list[str]]:
    data = compare.data_section(study, reader, f"{anchor}-settings")
    nll, said = compare.nll_section(study, reader, f"{anchor}-nll")
    models = []
    for index, model in enumerate(study.models):
        section, of_model = model_section(model, study, reader, f"{anchor}-model-{index + 1}")
        models.append(section)
        said += of_model if index == 0 else []
    blocks: list[Block] = []
    if study.left_out:
        others = f"{study.left_out} other evaluated model{'' if study.left_out == 1 else 's'}"
        blocks.append(
            Text(f"This report leaves out {others} of {study.dataset}. To choose runs, use glowctl report --runs.")
        )
    parts = [section for section in (data, nll, *models) if section is not None]
    return Section(f"Models trained on {study.dataset}", anchor, blocks, parts), said


def model_section(model: Model, study: Study, reader: Reader, anchor: str) -> tuple[Section, list[str]]:
    """Return the section about one model, and its main results as sentences.

    Args:
        model: the model.
        study: the study that has it.
        reader: reads the tables and pictures of its runs.
        anchor: target of links to the section.
    """
    name = f"{dataset_label(study.dataset)}-{anchor.rpartition('-')[2]}"
    tested, said = evaluations.ood_section(model, reader, f"{anchor}-ood", name)
    parts = [
        evaluations.nll_section(model, reader, f"{anchor}-nll", name),
        evaluations.samples_section(model, reader, f"{anchor}-samples", name),
        evaluations.interpolation_section(model, reader, f"{anchor}-interpolation", name),
        tested,
    ]
    found = [section for section in parts if section is not None]
    return Section(f"Model {model.name}", anchor, [Text(_about(model))], found), said


def _about(model: Model) -> str:
    if model.training is None:
        return f"The store does not have the run that trained this model ({model.reference})."
    metrics, spec = model.training.data.metrics, spec_of(model.training)
    words = compare.settings_in_words(spec)
    text = f"Settings: {words}." if words else "The settings are not recorded."
    if metric_names.TEST in metrics:
        text += f" The test NLL is {bits(metrics[metric_names.TEST])} bits/dim"
        if metrics.get(metric_names.TEST_ORIGINAL, metrics[metric_names.TEST]) != metrics[metric_names.TEST]:
            text += f", or {bits(metrics[metric_names.TEST_ORIGINAL])} bits per value of the images before padding"
        epoch = f"epoch {metrics['best_epoch']:.0f}, the epoch" if "best_epoch" in metrics else "the epoch"
        text += f". The model is that of {epoch} with the lowest validation NLL."
    return text


def _gaps(study: Study, material: Material) -> Iterator[Gap]:
    specs = [spec_of(ablation) for ablation in study.ablations]
    data = ("--dataset", study.dataset)
    if not study.ablations and not study.trainings and all(model.training is None for model in study.models):
        yield Gap(f"No training on {study.dataset} is recorded", material.command("train", *data))
    elif not any(len(spec.get("permutations") or ()) > 1 for spec in specs):
        yield Gap(
            f"No finished ablation on {study.dataset} compares channel permutations",
            material.command("ablate", "--permutations", "all", "--seeds", "3", *data),
        )
    elif all(spec.get("seeds", 1) < 2 for spec in specs):
        yield Gap(
            f"The ablation on {study.dataset} has one seed per configuration, so there are no confidence intervals",
            material.command("ablate", "--permutations", "all", "--seeds", "3", *data),
        )
    yield from _best_unseen(study, material)
    for model in study.models:
        yield from _gaps_of(model, material)


def _best_unseen(study: Study, material: Material) -> Iterator[Gap]:
    trained = [*(run for group in study.trials.values() for run in group), *study.trainings]
    trained = [run for run in trained if job_of(run) == "train"]
    best = best_training(trained)
    if best is not None and best.info.run_id not in {model.reference for model in study.models}:
        among = " of those with the same test images" if len(comparable(trained)) > 1 else ""
        yield Gap(
            f"The model of {study.dataset} with the lowest validation NLL{among}, {best.info.run_name}, is not among "
            "the models of this report",
            material.command("evaluate", "--model", best.info.run_id),
        )


def _gaps_of(model: Model, material: Material) -> Iterator[Gap]:
    def command(job: str, *flags: str) -> str:
        return material.command(job, *flags, "--model", model.reference)

    if not model.evaluations:
        yield Gap(f"The model {model.name} has not been evaluated", command("evaluate"))
        return
    for job, (sentence, *flags) in WANTED.items():
        if job not in model.evaluations:
            yield Gap(sentence.format(model.name), command(job, *flags))
    sample = model.evaluations.get("sample")
    if sample is not None and len(spec_of(sample).get("temperatures") or ()) < 2:
        yield Gap(
            f"The samples of {model.name} were drawn at one temperature only", command("sample", *WANTED["sample"][1:])
        )


def _costs(material: Material, anchor: str) -> Section:
    """Return the section with one row per run: a link to the MLflow UI, the duration, and the resources used."""
    runs = material.runs
    several = len(material.studies) > 1
    measured = {name: title for name, title in METRICS.items() if any(run.data.metrics.get(name) for run in runs)}
    head = ["run and its id", "job", *(["data set"] if several else []), "start (UTC)", "duration", *measured.values()]
    left = 4 if several else 3
    rows = [_row(run, material.uri, several, measured) for run in runs]
    caption = (
        "All runs of this report, the oldest first. Durations are in m:ss or h:mm:ss, images/s is the median speed "
    )
    caption += "of a training, and a dash marks what a job does not measure."
    served = any(page_of(material.uri, run) for run in runs)
    where = "The names in the table link to the runs in the MLflow UI."
    if not served:
        where = f"To see the runs in the MLflow UI, use {open_command(material.uri)}"
    blocks: list[Block] = [Text(f"{_totals(runs)} {where}"), Table(caption, head, rows, left=left)]
    return Section("Runs and their costs", anchor, blocks)


def _row(run: Run, uri: str, several: bool, measured: Iterable[str]) -> list[Cell | str]:
    began = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    state = "" if run.info.status == "FINISHED" else f" ({run.info.status.lower()})"
    figures = [_number(run.data.metrics.get(name, math.nan)) for name in measured]
    return [
        Cell(run.info.run_name, run.info.run_id, page_of(uri, run)),
        job_of(run) + state,
        *([dataset_of(run) or "-"] if several else []),
        began,
        duration(seconds_of(run)),
        *figures,
    ]


def seconds_of(run: Run) -> float:
    """Return the duration of a run in seconds.

    When a training finishes, it records its own duration, counted from its last resume. For any other run, the duration
    is the time from start to end. It is NaN while the run is RUNNING, because a resumed run still has its earlier end
    time in MLflow.
    """
    measured = run.data.metrics.get("seconds", math.nan)
    if math.isnan(measured) and run.info.end_time is not None and run.info.status != "RUNNING":
        return float(run.info.end_time - run.info.start_time) / 1000
    return float(measured)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _totals(runs: Sequence[Run]) -> str:
    trainings = [run for run in runs if job_of(run) == "train"]
    seconds = sum(value for run in trainings if math.isfinite(value := seconds_of(run)))
    words = f"This report covers {count(len(runs), 'run')}, including {count(len(trainings), 'training')}."
    if not trainings:
        return words
    words += f" The durations of the trainings add up to {duration(seconds)}"
    used = []
    for name, unit in (("core_seconds", "core-seconds"), ("gpu_seconds", "GPU-seconds")):
        total = sum(value for run in trainings if math.isfinite(value := run.data.metrics.get(name, math.nan)))
        used += [f"{total:,.0f} {unit}"] if total > 0 else []
    return f"{words}{', and they used ' + ' and '.join(used) + ' as far as that is recorded' if used else ''}."
