"""Composition of a report from the gathered runs: its sections, its summary, and the list of what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from glow.datasets.names import dataset_label
from jobs.report import evaluations, ood, training
from jobs.report.benchmark import benchmark_section
from jobs.report.blocks import Block, Gap, Report, Section, Text
from jobs.report.comparable import best_training, comparable
from jobs.report.costs import costs_section
from jobs.report.gather import REPORT_PROTOCOL, Material, Model, Study
from jobs.report.reader import Reader
from jobs.report.run_facts import job_of, spec_of
from jobs.text import bits
from jobs.tracking import metric_names, open_command, read_table, without_password

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["compose"]

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
    sections += [section for section in [benchmark_section(material, reader, "benchmark")] if section is not None]
    sections.append(costs_section(material, "costs"))
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
    data = training.data_section(study, reader, f"{anchor}-settings")
    nll, said = training.nll_section(study, reader, f"{anchor}-nll")
    models = []
    for index, model in enumerate(study.models):
        section, of_model = _model_section(model, study, reader, f"{anchor}-model-{index + 1}")
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


def _model_section(model: Model, study: Study, reader: Reader, anchor: str) -> tuple[Section, list[str]]:
    name = f"{dataset_label(study.dataset)}-{anchor.rpartition('-')[2]}"
    tested, said = ood.ood_section(model, reader, f"{anchor}-ood", name)
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
    words = training.settings_in_words(spec)
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
        yield from _gaps_of(model, study, material)


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


def _gaps_of(model: Model, study: Study, material: Material) -> Iterator[Gap]:
    if model.training is not None and model.training.info.status != "FINISHED" and not model.evaluations:
        return

    def command(*words: str) -> str:
        return material.command(*words, "--model", model.reference)

    if not model.evaluations:
        yield Gap(f"No evaluation of {model.name} is recorded", command("evaluate"))
        return
    for job, (sentence, *flags) in WANTED.items():
        if job not in model.evaluations and not (job == "ood" and REPORT_PROTOCOL in model.evaluations):
            yield Gap(sentence.format(model.name), command(job, *flags))
    sample = model.evaluations.get("sample")
    if sample is not None and len(_temperatures(sample)) < 2:
        yield Gap(
            f"The samples of {model.name} were drawn at one temperature only",
            command("sample", *WANTED["sample"][1:]),
        )
    if study.dataset == "mnist" and not {"ood", REPORT_PROTOCOL}.isdisjoint(model.evaluations):
        yield from _course_gaps(model, material, command)


def _temperatures(run: Run) -> list[float]:
    return list(spec_of(run).get("temperatures") or [spec_of(run).get("temperature")])


def _course_gaps(model: Model, material: Material, command: Any) -> Iterator[Gap]:
    """Yield the tests of the course report that are missing here."""
    if REPORT_PROTOCOL not in model.evaluations:
        yield Gap(
            f"{model.name} has not been tested by the protocol of the course report",
            command("ood", "--protocol", "report", "--batch-sizes", "1,2,10"),
        )
    run = model.evaluations.get("ood") or model.evaluations[REPORT_PROTOCOL]
    table = read_table(material.uri, run.info.run_id, "ood.parquet")
    if table is None:
        return
    tested = set(table["dataset"])
    absent = [name for name in ood.COURSE if name not in tested]
    if absent:
        protocol = [] if "ood" in model.evaluations else ["--protocol", "report"]
        others = ",".join(name for name in ood.COURSE if name != "mnist")
        yield Gap(
            f"{model.name} has not been tested on {' and '.join(absent)}, on which the course report tested its model",
            command("ood", "--ood-datasets", others, *protocol),
        )
