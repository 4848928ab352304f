"""What all evaluation jobs share: model, data sets in the model's shape, their scores, and the run in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from glow.datasets import DatasetInfo, LazyDataset, describe, open_dataset
from glow.datasets.names import absolute_dataset, dataset_label, place_of
from glow.encoders import Encoder
from glowctl.display import events
from glowctl.display.events import Event, Noted, Show
from glowctl.errors import SpecError
from glowctl.evaluation.find_model import TrainedModel, find_model
from glowctl.evaluation.scoring import Scored, Table, cached, score_on_ray
from glowctl.outputs import is_remote, results_folder, usable_output
from glowctl.ray_runtime.resources import resources_for, waiting
from glowctl.run_labels import evaluation_description, evaluation_name, noted
from glowctl.run_log import logged
from glowctl.specs.base import colour
from glowctl.specs.evaluation import ModelSpec, ScoringSpec
from glowctl.system.machine_metrics import ENVIRONMENT_FILE, environment_text, machine_facts, machine_name
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.scores import save_scores
from glowctl.tracking.store import open_command
from glowctl.tracking.uris import tracking_uri, without_password
from glowctl.training.content import references_among

Spec = TypeVar("Spec", bound=ModelSpec)

GRADIENT_REFERENCES = 2000
"""Least number of training images with gradient norms, if there are that many: enough for a mean and a deviation."""


@dataclass(frozen=True)
class Evaluation(Generic[Spec]):
    """An evaluation whose settings have been checked.

    Attributes:
        given: the settings as the user gave them, with two changes, so that they can be stored to repeat the
            evaluation: `model` and `background_model` are names that find the same models from any folder, and
            `tracking_uri`, which may contain a password, is None.
        spec: the settings with absolute paths.
        uri: the address of the MLflow store.
        model: the model.
        tables: the score tables that the evaluation needs.
        found: the tables that MLflow already has, by `Table.key`; empty with ``--rescore``.
        background: the evaluation of the same images under the background model; None if there is no such model.
        encoder: the encoder whose features the tables contain in place of scores; None for scores of the model.
        features: the evaluation of the same images by an encoder; None if there is no encoder.
        notes: sentences for the user on the images, such as how they were read.
    """

    given: Spec
    spec: Spec
    uri: str
    model: TrainedModel
    tables: Sequence[Table] = ()
    found: dict[str, Scored] = field(default_factory=dict)
    background: Evaluation[Spec] | None = None
    encoder: Encoder | None = None
    features: Evaluation[Spec] | None = None
    notes: tuple[str, ...] = ()

    @property
    def needs_ray(self) -> bool:
        """Whether workers have images to score or to draw."""
        also = any(each is not None and each.needs_ray for each in (self.background, self.features))
        return bool(self.missing) or not isinstance(self.spec, ScoringSpec) or also

    @property
    def missing(self) -> list[Table]:
        """The score tables that must be computed: those that MLflow lacks, or all with ``--rescore``."""
        return [table for table in self.tables if table.key not in self.found]

    @property
    def trained_on(self) -> str:
        """The name of the data set that the model was trained on.

        Raises:
            SpecError: if neither ``--trained-on`` nor the settings of the training name it.
        """
        if (given := getattr(self.spec, "trained_on", None)) is not None:
            return absolute_dataset(given)
        if self.model.training is None:
            raise SpecError(
                f"neither a run nor a spec.json names the data set that the model {self.model.name} was trained on",
                remedy="add --trained-on, for example --trained-on mnist",
                code="trained-on-unknown",
            )
        return self.model.training.dataset

    def _is_own(self, dataset: str) -> bool:
        """Return whether the settings of the training, such as ``--leave-out``, apply to a data set.

        They apply to the data set of the training, and to the one that ``--trained-on`` names: the same images
        elsewhere.
        """
        training = self.model.training
        return training is not None and _resolved(dataset) in map(_resolved, (training.dataset, self.trained_on))

    def opened(self, dataset: str, split: str, *, of_left_out: bool = False) -> LazyDataset:
        """Open a data set in the model's shape.

        If the model was trained on this data set, or ``--trained-on`` names it, the result contains only the classes
        that the training used, and in the split ``train`` only the images that the training used (``--per-class``
        limits their number).

        Args:
            dataset: name of the data set.
            split: train, validation or test.
            of_left_out: whether to take only the classes that the model was trained without (``--leave-out``) instead.

        Raises:
            SpecError: if the name is unknown, the images cannot be brought into the model's shape, or ``--trained-on``
                names a data set without the classes or the images of the training.
            DatasetNotFound, DatasetCorrupt: if the data cannot be read.
        """
        training = self.model.training
        own = self._is_own(dataset)
        try:
            images = open_dataset(
                dataset,
                split,
                self.data_root,
                image_shape=self.model.config.image_shape,
                per_class=training.per_class if own and split == "train" and training is not None else None,
                download=self.spec.download,
                background=self.backdrop,
            )
            left_out = self.left_out_of(dataset)
            if not left_out:
                return images
            return images.of_classes(left_out, others=not of_left_out)
        except ValueError as error:
            if own and training is not None and (training.leave_out or training.per_class):
                raise SpecError(
                    f"{dataset} does not have the classes and images that the model was trained on ({error})",
                    remedy="give --trained-on a copy of the data set of the training",
                    code="trained-on-unfit",
                ) from error
            raise SpecError(str(error), code="data-set-unusable") from error

    def left_out_of(self, dataset: str) -> tuple[str, ...]:
        """Return the classes that the model was trained without; empty for a data set that it was not trained on."""
        training = self.model.training
        return (training.leave_out or ()) if training is not None and self._is_own(dataset) else ()

    def described(self, dataset: str) -> DatasetInfo:
        """Describe a data set in the model's shape.

        Raises:
            SpecError: if the name is unknown, or the images cannot be brought into the model's shape.
            DatasetNotFound, DatasetCorrupt: if the data cannot be read.
        """
        try:
            shape = self.model.config.image_shape
            return describe(dataset, self.data_root, image_shape=shape, background=self.backdrop)
        except ValueError as error:
            raise SpecError(str(error), code="data-set-unusable") from error

    @property
    def backdrop(self) -> tuple[int, int, int]:
        """The RGB colour behind transparent images: the user's choice, else the training's, else white."""
        training = self.model.training
        return colour(self.spec.background or (training.background if training is not None else "white"))

    def with_notes(self, images: Iterable[LazyDataset], infos: Iterable[DatasetInfo]) -> Evaluation[Spec]:
        """Return the evaluation with the notes of its data sets: sentences on how the images were read, each once."""
        of_headers = [note for info in infos for note in info.notes]
        of_files = [note for opened_dataset in images for note in opened_dataset.notes]
        return replace(self, notes=tuple(dict.fromkeys([*of_headers, *of_files])))

    @property
    def data_root(self) -> str | None:
        """The folder of data sets: the user's choice, else the training's, else None for the default folder."""
        return self.spec.data_root or (self.model.training.data_root if self.model.training is not None else None)

    def with_tables(
        self, images: Mapping[tuple[str, str], LazyDataset], *, gradients: bool = False
    ) -> Evaluation[Spec]:
        """Return the evaluation with one `Table` per (data set, split), and with the scores that MLflow already has.

        Args:
            images: the images by (data set, split).
            gradients: whether to compute gradient norms. In a split ``train``, only every n-th image gets them. n is
                chosen such that at least `GRADIENT_REFERENCES` images get them, or all if there are fewer.

        Raises:
            SpecError: if two data sets would have the same label.
            TrackingError: if the store does not answer.
        """
        spec = self.spec
        assert isinstance(spec, ScoringSpec)
        labels = [(dataset_label(dataset), split) for dataset, split in images]
        if len(set(labels)) < len(labels):
            raise SpecError(
                "the paths of two data sets end in the same name, by which the results would be told apart",
                remedy="rename one of the two folders or files",
                code="same-data-set-label",
            )
        how = {"seed": spec.seed, "precision": spec.precision, "noise_samples": getattr(spec, "noise_samples", 1)}
        tables = []
        for (dataset, split), lazy in images.items():
            stride = max(1, len(lazy) // GRADIENT_REFERENCES) if split == "train" else 1
            of_split = how | {"gradient_stride": stride if gradients else 0}
            tables.append(Table.of(dataset, split, lazy, self.model, of_split))
        return replace(self, tables=tables, found=self._found(tables))

    def with_features(self, encoder: Encoder, references: int) -> Evaluation[Spec]:
        """Return the evaluation with that of the same images by an encoder, in `features`.

        Args:
            encoder: the encoder.
            references: largest number of training images; more are replaced by as many drawn at random.
        """
        tables = []
        for table in self.tables:
            images = table.images.known_as(table.fingerprint)
            if table.split == "train":
                images = references_among(images, references)
            tables.append(table.of_features(encoder, images))
        of_encoder = replace(self, tables=tables, found=self._found(tables), encoder=encoder, background=None)
        return replace(self, features=of_encoder, notes=(*self.notes, f"encoder {encoder}"))

    def _found(self, tables: Sequence[Table]) -> dict[str, Scored]:
        assert isinstance(self.spec, ScoringSpec)
        if self.spec.rescore:
            return {}
        known = (cached(table, self.uri, self.spec.experiment) for table in tables)
        return {scored.wanted.key: scored for scored in known if scored is not None}

    def scores(self, run: EvaluationRun, show: Show | None = None) -> dict[tuple[str, str], pd.DataFrame]:
        """Return the score tables of an evaluation by (label of the data set, split).

        Tables that MLflow lacks are computed on Ray. Each is written into MLflow as soon as it is complete, so that an
        interrupted job need not compute it again.

        Args:
            run: the run of the evaluation.
            show: shows an event; None for that of the run.

        Raises:
            JobError: if workers fail, or have no room on the machines.
            TrackingError: if the store does not answer.
        """
        spec, show = self.spec, show or run.show
        assert isinstance(spec, ScoringSpec)
        # Another job of the same command may have scored in the meantime what was missing at first.
        scored = dict(self.found) | self._found(self.missing)
        for known in scored.values():
            show(_scored_event(known))
        missing = list({table.key: table for table in self.tables if table.key not in scored}.values())
        if missing:
            resources = resources_for(spec, None if spec.workers is None else (spec.workers, spec.workers))
            if (wait := waiting(resources)) is not None:
                show(wait)
            for fresh in score_on_ray(self.encoder or self.model, missing, resources, run.machines, show):
                save_scores(fresh.wanted.key, fresh.table, run.record)
                scored[fresh.wanted.key] = fresh
                show(_scored_event(fresh))
        run.scored_by({key: known.run_id or run.record.run_id for key, known in scored.items()})
        tables = {}
        for wanted in self.tables:  # data sets with equal images share a key and are scored once
            tables[wanted.dataset, wanted.split] = wanted.of_these_images(scored[wanted.key].table)
        return tables


def prepare_evaluation(spec: Spec, records: bool = True) -> Evaluation[Spec]:
    """Find the model, check the output folder, and make paths absolute.

    Args:
        spec: the settings.
        records: whether the evaluation will write results to the output folder.

    Raises:
        TrackingError: if the store does not answer, or has no such run or model.
        CheckpointError: if the model is missing, damaged or untrained.
        JobError: if the named run has no model, the output folder cannot be used, or a URI contains a password.
    """
    uri = tracking_uri(spec.tracking_uri)
    absolute = {"output": usable_output(spec.output) if records else spec.output, "tracking_uri": uri}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    model = find_model(spec.model, uri, spec.experiment)
    named = {"model": model.reference}
    given = spec.model_copy(update=named | {"tracking_uri": None})
    return Evaluation(given, spec.model_copy(update=absolute | named), uri, model)


def _resolved(dataset: str) -> str:
    """Return the name of a data set without links and ".." in its path, so that equal places have equal names."""
    place = place_of(dataset)
    return dataset if place is None or place.is_remote else f"{place.kind}:{Path(place.path).resolve()}"


def _scored_event(scored: Scored) -> events.Scored:
    return events.Scored(
        dataset=scored.wanted.dataset,
        split=scored.wanted.split,
        images=len(scored.table),
        non_finite=int((~scored.table["finite"]).sum()),
        from_run=scored.run_id,
    )


class EvaluationRun:
    """The run of an evaluation in MLflow, and the folder of its results.

    Attributes:
        record: the run.
        folder: the folder whose files become artifacts of the run.
        show: shows an event, and writes it into the log of the run.
        machines: the facts of this machine, and of each that has scored images, by the machine's name.
        result: the event to show after the run has ended; set by `finish`.
    """

    def __init__(self, work: Evaluation[Any], job: str, record: Record, folder: Path, show: Show) -> None:
        self.record, self.folder, self.show = record, folder, show
        self._work, self._job = work, job
        self._scored_by: dict[str, str] = {}
        self.machines = {machine_name(): machine_facts()}
        self.result: Event | None = None

    @property
    def place(self) -> str:
        """The path of the results folder, or the URI of the run's artifacts if ``--output`` is a bucket."""
        return self.record.artifact_uri if is_remote(self._work.spec.output) else str(self.folder)

    @property
    def known_as(self) -> dict[str, Any]:
        """The name and id of the run and the command that opens the MLflow UI; every result event has these fields."""
        return {"run": self.record.name, "run_id": self.record.run_id, "open_with": open_command(self._work.uri)}

    def write_environment(self) -> None:
        """Write the packages and the machines to ``environment.json`` in the folder."""
        (self.folder / ENVIRONMENT_FILE).write_text(environment_text(self.machines))

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table of results to NAME.parquet in the folder, and to NAME.json, which the MLflow UI shows."""
        table.to_parquet(self.folder / f"{name}.parquet", index=False)
        self.record.table(table, f"{name}.json")

    def figure(self, figure: Figure, name: str) -> None:
        """Write a figure to NAME.png in the folder."""
        figure.savefig(self.folder / f"{name}.png", dpi=120)

    def scored_by(self, runs: Mapping[str, str]) -> None:
        """Tag the run with the origin of score tables, in addition to those that it has been tagged with before.

        Args:
            runs: for the key of each table, the id of the run that computed it.
        """
        self._scored_by |= runs
        self.record.tag(tag_names.SCORED_BY, json.dumps(self._scored_by))

    def metrics(self, values: Mapping[str, float], of: Mapping[str, tuple[str, str]] | None = None) -> None:
        """Write metrics of the run, which are also metrics of the model.

        Args:
            values: metric -> value.
            of: metric -> label of the data set and split that it was measured on, for metrics that have one.
        """
        recorded_as = {(table.dataset, table.split): table.recorded_as for table in self._work.tables}
        images = {metric: recorded_as[where] for metric, where in (of or {}).items()}
        self.record.metrics(values, model_id=self._work.model.model_id, images=images)

    def describe(self, outcome: str | None = None, details: str = "") -> None:
        """Write the description that the MLflow UI shows above the run.

        Args:
            outcome: the result in one line of Markdown; None before there is a result.
            details: more Markdown, such as tables.
        """
        model = self._work.model
        trained_by = (model.experiment_id or "", model.run_id) if model.run_id else None
        details = "\n\n".join(filter(None, [noted(self._work.notes), details]))
        text = evaluation_description(self._job, self.record.run_id, model.title, trained_by, outcome, details)
        self.record.describe(text)

    def finish(self, result: Event, outcome: str, details: str = "") -> None:
        """Describe the run, and keep `result` to be shown after the run has ended.

        Args:
            result: the event with the results.
            outcome: the result in one line of Markdown.
            details: more Markdown, such as tables.
        """
        self.describe(outcome, details)
        self.result = result


@contextmanager
def evaluation_run(
    work: Evaluation[Any], job: str, show: Show, record: Record | None = None
) -> Iterator[EvaluationRun]:
    """Open a run in MLflow, nested under the training run of the model if that run is known, else not nested.

    If the `with` block ends normally, the files of `EvaluationRun.folder` become artifacts of the run. If the block
    raises an exception, MLflow shows the run as FAILED, or as KILLED after Ctrl-C.

    Args:
        work: the evaluation.
        job: nll, sample, interpolate, ood, check or watch.
        show: receives the events.
        record: the run to continue; None for a new one.

    Yields:
        The run. The block calls its method `finish` with the results.
    """
    record = record or _start_record(work, job)
    with (
        results_folder(work.spec.output, record.run_id) as folder,
        logged(f"{work.spec.output}/{record.run_id}", record, show) as (run_log, show),
    ):
        show(events.Evaluating(job, work.model.name, record.name, record.run_id))
        for note in work.notes:
            show(Noted(note))
        with record.running(run_log.copy, work.spec.on_end):
            run = EvaluationRun(work, job, record, folder, show)
            run.write_environment()
            (folder / "spec.json").write_text(work.given.model_dump_json(indent=2) + "\n")
            if work.model.model_id is not None:
                record.uses(work.model.model_id)
            for table in work.tables:
                context = "training" if table.split == "train" else table.split
                shape = (len(table.images), *table.images.image_shape)
                record.dataset(shape, *table.recorded_as, context, table.source)
            run.describe()
            yield run
            run.write_environment()
            record.folder(folder)
        if run.result is not None:
            show(run.result)


def _start_record(work: Evaluation[Any], job: str) -> Record:
    spec, model = work.spec, work.model
    public = spec.model_dump(mode="json") | {"tracking_uri": without_password(work.uri)}
    tags = {
        tag_names.JOB: job,
        tag_names.SPEC: json.dumps(public),
        tag_names.MODEL: model.name,
        tag_names.MODEL_DIGEST: model.digest,
    }
    if work.notes:
        tags[tag_names.NOTES] = "\n".join(work.notes)
    if model.run_id is not None:
        tags |= {tag_names.TRAIN_RUN: model.run_id, tag_names.PARENT: model.run_id}
    trained_on = getattr(spec, "trained_on", None)
    if (dataset := trained_on or (model.training.dataset if model.training else None)) is not None:
        tags[tag_names.DATASET] = dataset
    return Record.start(work.uri, spec.experiment, spec.run_name or evaluation_name(job, model.title), tags, public)
