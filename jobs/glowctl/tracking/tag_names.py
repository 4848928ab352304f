"""Names of all tags that glowctl sets or reads on runs, experiments and registered models in MLflow.

No other module spells them out, so that a name can be found and changed in one place.
"""

from __future__ import annotations

ALIVE = "glow.alive"
"""Heartbeat of a running job's driver, in seconds since 1970."""

CHAMPION = "glow.champion"
"""On an ablation: the id of its best trial by validation NLL."""

DATASET = "glow.dataset"
"""The data set that the run's model is trained on."""

DRIVER = "glow.driver"
"""The machine and the process that drive the job: host, boot id, process namespace, process id and start."""

ERROR = "glow.error"
"""Why a run failed, in a sentence."""

FOLDER = "glow.folder"
"""Name of the folder of a run's checkpoints, if it is not the run's id."""

JOB = "glow.job"
"""The command that made the run: train, ablate, nll, sample, interpolate, ood or report."""

MODEL = "glow.model"
"""On an evaluation: its model, as the user named it."""

MODEL_DIGEST = "glow.model_digest"
"""Digest of a model's weights and configuration."""

ON_END = "glow.on_end"
"""The address or the command that is told how the run has ended."""

PLACE = "glow.place"
"""The folder of the run with its log, or its URI in a bucket."""

PRUNED = "glow.pruned"
"""On a run that `glowctl prune` deletes: when it began, in seconds since 1970."""

RAY_JOB = "glow.ray_job"
"""On a run of a cluster: the id of its Ray job."""

RESOURCES = "glow.resources"
"""On an ablation: the resources of each worker of a trial, as fields of `TrainSpec`, in JSON."""

RECOMMENDED = "glow.recommended"
"""On an OOD test: the detector that is best at detecting corrupted held-out images."""

SCORED_BY = "glow.scored_by"
"""On an evaluation: key of a score table -> the run that computed it, in JSON."""

SCORES = "glow.scores"
"""Prefix; with a dot and a key appended: the path of a score table in the run's artifacts."""

SOURCE = "glow.source"
"""Prefix of the tags about the source code, such as `SOURCE_CHANGED`."""

SOURCE_CHANGED = "glow.source_changed"
"""Whether the source code had uncommitted changes, "True" or "False"."""

SPEC = "glow.spec"
"""All settings of the job, in JSON."""

STOPPED = "glow.stopped"
"""On a trial that was stopped early: why."""

TITLE = "glow.title"
"""In the metadata of a Ray job: a short title for the list of jobs."""

TRAIN_RUN = "glow.train_run"
"""On an evaluation: the id of the run that trained its model."""

TRIAL = "glow.trial"
"""On a trial: its label among the trials of its ablation."""

SCORE = "glow.validation_bits_per_dim"
"""On a registered version: its validation NLL in bits/dim."""

IMAGES = "glow.validation_images"
"""On a registered version: the fingerprint of its validation images."""

NOTES = "glow.notes"
"""Notes on how the data of a run were read, one sentence per line."""

PARENT = "mlflow.parentRunId"
"""Defined by MLflow: the id of the run that a run is nested under."""

LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"
"""Defined by MLflow: the paths of a run's tables, in JSON. Its UI shows and compares only tables that are listed."""

NOTE = "mlflow.note.content"
"""Defined by MLflow: the description that its UI shows above a run, in Markdown."""

COMMIT = "mlflow.source.git.commit"
"""Defined by MLflow: the git commit of the source code."""

SOURCE_NAME = "mlflow.source.name"
"""Defined by MLflow: the program."""

DATA_CONTEXT = "mlflow.data.context"
"""Defined by MLflow, on a data set: its use, such as "training"."""

MODEL_VERSIONS = "mlflow.modelVersions"
"""Defined by MLflow, on a logged model: its registered versions, in JSON, which its UI shows."""

EXPERIMENT_KIND = "mlflow.experimentKind"
"""Defined by MLflow, on an experiment: its kind, which determines the view that the UI opens."""

USER = "mlflow.user"
"""Defined by MLflow: the user who started the run."""
