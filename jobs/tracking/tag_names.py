"""Every tag that glowctl sets or reads on runs, experiments and registered models in MLflow, spelled once."""

from __future__ import annotations

ALIVE = "glow.alive"
"""When the driver of a running job was last seen alive."""

CHAMPION = "glow.champion"
"""On an ablation: the run of its best trial by validation."""

DATASET = "glow.dataset"
"""The data set that a model was trained on."""

DRIVER = "glow.driver"
"""The machine and process that drive the job."""

ERROR = "glow.error"
"""Why a run failed, in a sentence."""

FOLDER = "glow.folder"
"""The folder of a run's checkpoints, where that has another name than the run's id."""

JOB = "glow.job"
"""The command that made the run: train, ablate, nll, sample, interpolate or ood."""

MODEL = "glow.model"
"""The model that an evaluation used, by the name the user gave."""

MODEL_DIGEST = "glow.model_digest"
"""The digest of a model's weights and configuration."""

RAY_JOB = "glow.ray_job"
"""The Ray job that the run belongs to, on a cluster."""

RESOURCES = "glow.resources"
"""On an ablation: what each worker of a trial gets, in the words of `TrainSpec`, as JSON."""

RECOMMENDED = "glow.recommended"
"""Of an OOD test: the detector to trust, chosen by corrupted held-out images."""

SCORED_BY = "glow.scored_by"
"""The runs that scored the tables of an evaluation, by the tables' keys, as JSON."""

SCORES = "glow.scores"
"""Followed by a dot and a key: the path of a score table among the run's artifacts."""

SOURCE = "glow.source"
"""The version of glowctl."""

SOURCE_CHANGED = "glow.source_changed"
"""Whether the source differed from its commit."""

SPEC = "glow.spec"
"""The settings of the job, as JSON."""

STOPPED = "glow.stopped"
"""Why a trial was stopped early."""

TITLE = "glow.title"
"""On a job of a cluster: a few words for the list of jobs."""

TRAIN_RUN = "glow.train_run"
"""The run that trained the model of an evaluation."""

TRIAL = "glow.trial"
"""On a trial: its label."""

UI_PROBE = "glow.ui_probe"
"""On an experiment: by which a server is known to serve this store."""

SCORE = "glow.validation_bits_per_dim"
"""On a registered model: its NLL on the validation images."""

IMAGES = "glow.validation_images"
"""On a registered model: the fingerprint of its validation images."""

NOTES = "glow.notes"
"""What to know of how the data of a run were read, a sentence a line."""

PARENT = "mlflow.parentRunId"
"""MLflow's: the run that a run is nested under."""

NOTE = "mlflow.note.content"
"""MLflow's: the page that its UI shows above a run, in Markdown."""

COMMIT = "mlflow.source.git.commit"
"""MLflow's: the commit of the source."""

SOURCE_NAME = "mlflow.source.name"
"""MLflow's: the command."""

DATA_CONTEXT = "mlflow.data.context"
"""MLflow's: what a data set was used for."""

EXPERIMENT_KIND = "mlflow.experimentKind"
"""MLflow's: which view of an experiment its UI opens."""

USER = "mlflow.user"
"""MLflow's: who started the run."""
