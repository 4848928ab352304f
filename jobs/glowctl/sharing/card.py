"""The card of a model: what it was trained on, its likelihoods, its out-of-distribution tests, its limits.

A card is Markdown. Its head is the metadata that the Hugging Face Hub reads. All figures come from the record.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from glow.datasets.names import dataset_label
from glowctl.errors import JobError
from glowctl.evaluation.find_model import find_model
from glowctl.report import compose, gather
from glowctl.report.document import Pictures, Report, Section, markdown
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.registry import describe
from glowctl.tracking.runs import experiment_runs, run_of_id

if TYPE_CHECKING:
    from glowctl.evaluation.find_model import TrainedModel
    from glowctl.tracking.runs import Run

LICENCES = {
    "mnist": "CC BY-SA 3.0",
    "fashion-mnist": "MIT",
    "kmnist": "CC BY-SA 4.0",
    "digits": "CC BY 4.0",
    "svhn": "for non-commercial use only",
}
"""The licences of the data sets whose authors state one."""

USE_AND_LIMITS = """
## Use

`glowctl check IMAGES --model FOLDER` judges images with the folder of this model. In Python,
`mlflow.pyfunc.load_model("FOLDER")` needs MLflow and torch, and `glow.load_checkpoint("FOLDER/artifacts/checkpoint")`
needs the library. `glowctl train --spec FOLDER/artifacts/spec.json` trains the model again.

## Limits

- The likelihood of an image says little about what the image shows: a flow finds smooth images likely, even those of
  kinds that it was not trained on (Nalisnick et al. 2019, arXiv 1810.09136). Use the tests, not the likelihood alone.
- The rate of false alarms is kept on images from where the training images came from. Whether yours are such images,
  `glowctl check` tells.
- How many other images the tests detect is known only for the data sets of the tables above.
"""


def model_card(uri: str, experiment: str, name: str) -> tuple[TrainedModel, str]:
    """Write the card of a model from what MLflow has recorded of it.

    The card is also stored as the description of the registered versions of the model, which MLflow shows.

    Args:
        uri: the store.
        experiment: the experiment that has its evaluations.
        name: the model, as `find_model` takes it.

    Returns:
        The model, and its card in Markdown.

    Raises:
        JobError: if no training in the store made the model.
        TrackingError: if there is no such model, or the store does not answer.
        CheckpointError: if the model is damaged.
    """
    model = find_model(name, uri, experiment)
    run = run_of_id(uri, model.run_id) if model.run_id else None
    if run is None:
        raise JobError(
            f"the store has no run that trained the model {name}, so its card would have no figures",
            remedy="give the name or id of a training; glowctl runs lists them",
            code="model-without-run",
        )
    card = _head(model, run) + markdown(_report(model, run, uri, experiment)) + USE_AND_LIMITS
    describe(uri, run.info.run_id, card)
    return model, card


def _head(model: TrainedModel, run: Run) -> str:
    dataset = _dataset(model)
    metrics = [
        {"type": "bits_per_dim", "name": title, "value": round(run.data.metrics[metric], 4)}
        for metric, title in (
            (metric_names.TEST, "test NLL, bits/dim"),
            (metric_names.BEST_VALIDATION, "validation NLL"),
        )
        if metric in run.data.metrics
    ]
    task = {"type": "unconditional-image-generation"}
    result = {"task": task, "dataset": {"type": dataset, "name": dataset}, "metrics": metrics}
    head: dict[str, Any] = {
        "library_name": "glowctl",
        "pipeline_tag": task["type"],
        "tags": ["normalizing-flow", "glow", "out-of-distribution-detection"],
        "model-index": [{"name": model.title, "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"


def _report(model: TrainedModel, run: Run, uri: str, experiment: str) -> Report:
    evaluations = [
        other.info.run_id
        for other in experiment_runs(uri, experiment)
        if other.data.tags.get(tag_names.TRAIN_RUN) == run.info.run_id
        and other.info.status == "FINISHED"
        and gather.job_of(other) in ("nll", "ood")
    ]
    material = gather.gather(uri, experiment, [run.info.run_id, *evaluations])
    (study,) = material.studies
    section, said = compose.model_section(study.models[0], study, gather.Reader(uri), "model")
    dataset = _dataset(model)
    facts = [
        ("Trained on", dataset),
        ("Licence of these images", LICENCES.get(dataset, "not known to glowctl; ask those who published them")),
        ("Shape of an image", " x ".join(map(str, model.config.image_shape)) + " (channels, rows, columns)"),
        ("Parameters", f"{run.data.metrics.get('parameters', math.nan):,.0f}"),
        ("Digest of the weights and the configuration", model.digest),
    ]
    return Report(f"Glow {model.title}", facts, said, [_without_pictures(section)])


def _dataset(model: TrainedModel) -> str:
    return dataset_label(model.training.dataset) if model.training is not None else "unknown images"


def _without_pictures(section: Section) -> Section:
    """Return a section without pictures, and without the sections in it that consist of them."""
    inner = [_without_pictures(each) for each in section.sections]
    return replace(
        section,
        blocks=[block for block in section.blocks if not isinstance(block, Pictures)],
        sections=[each for each in inner if each.blocks or each.sections],
    )
