"""The OOD tests of several models together: mean AUROCs over trainings that differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from glow.ood import over_trainings
from glowctl.display.events import Ood, OodTrainings, Show
from glowctl.display.tables import as_markdown, trainings_tables
from glowctl.evaluation.find_model import TrainedModel
from glowctl.evaluation.ood import OodWork
from glowctl.evaluation.run import evaluation_run
from glowctl.run_labels import configuration
from glowctl.specs.ablation import AXES
from glowctl.specs.training import apart_from_seed
from glowctl.text import count, rows_of

RECOMMENDED = "recommended"
"""Name of the detector that stands for the one that is recommended for each model."""


def summarize(tests: Sequence[tuple[OodWork, Ood]], show: Show) -> None:
    """Record and show the mean AUROCs of tests of the same data sets with several models, as a run of its own.

    Args:
        tests: for each model its test and the result of the test.
        show: receives the events.

    Raises:
        TrackingError: if the store does not answer.
    """
    first = tests[0][0].evaluation
    models = [work.evaluation.model for work, _ in tests]
    found = _means(models, [test for _, test in tests])
    together = replace(
        first.model,
        name=", ".join(model.name for model in models),
        reference=",".join(model.reference for model in models),
        title=f"of {count(len(models), 'model')}",
        run_id=None,
        model_id=None,
    )
    named = {"model": together.reference}
    given, spec = first.given.model_copy(update=named), first.spec.model_copy(update=named)
    with evaluation_run(
        replace(first, given=given, spec=spec, model=together, tables=()), "ood-trainings", show
    ) as recorded:
        recorded.table(found, "ood_trainings")
        rows = rows_of(found)
        event = OodTrainings(**recorded.known_as, in_distribution=tests[0][0].own, rows=rows, place=recorded.place)
        details = "\n\n".join(
            part for table in trainings_tables(rows) for part in (table.description, as_markdown(table))
        )
        recorded.finish(event, f"AUROCs of {count(len(models), 'training')}", details)


def _means(models: Sequence[TrainedModel], tests: Sequence[Ood]) -> pd.DataFrame:
    """Return the table of `OodTrainings.rows`."""
    labels = _labels(models)
    of_label: dict[str, list[pd.DataFrame]] = {}
    for label, test in zip(labels, tests, strict=True):
        ratios = pd.DataFrame([*test.rows, *test.groups])
        chosen = ratios[ratios["detector"] == test.recommended].assign(detector=RECOMMENDED)
        of_label.setdefault(label, []).append(pd.concat([ratios, chosen]))
    means = [over_trainings(ratios).assign(model=label) for label, ratios in of_label.items()]
    return pd.concat(means, ignore_index=True)


def _labels(models: Sequence[TrainedModel]) -> list[str]:
    """Return the label of each model, without its seed; equal for those that differ in nothing but their seed."""
    trainings = [model.training for model in models if model.training is not None]
    varied = [axis for axis in AXES.values() if len({getattr(training, axis) for training in trainings}) > 1]
    of_settings: dict[str, str] = {}
    labels = []
    for model in models:
        if model.training is None:
            labels.append(model.title)
            continue
        label = configuration(model.training, varied).rpartition(" ")[0]
        settings = apart_from_seed(model.training.model_dump(mode="json"))
        if label in of_settings.values() and settings not in of_settings:  # they differ in what the label does not name
            label = f"{label} ({model.title})"
        labels.append(of_settings.setdefault(settings, label))
    return labels
