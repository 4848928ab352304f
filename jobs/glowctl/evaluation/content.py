"""The features of an encoder in an evaluation: opening it, and its columns of the score tables."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from glow.encoders import Encoder, open_encoder
from glow.features import features_in, with_distances
from glow.ood import Calibration
from glow.ood.detectors import OF_CONTENT
from glowctl.display.events import Event, Scored
from glowctl.errors import JobError
from glowctl.evaluation.find_model import TrainedModel
from glowctl.evaluation.run import Evaluation, EvaluationRun
from glowctl.specs.evaluation import CheckSpec, OodSpec
from glowctl.specs.monitoring import WatchSpec
from glowctl.training.content import encoder_of, with_absolute_encoder


def with_asked_encoder(work: Evaluation[OodSpec]) -> Evaluation[OodSpec]:
    """Return the evaluation with the settings of its encoder: without ``--encoder``, those of the training."""
    spec, training = work.spec, work.model.training
    if spec.encoder is None and training is not None and training.encoder is not None:
        of_training = {name: getattr(training, name) for name in ("encoder", "encoder_size", "encoder_references")}
        weights = spec.encoder_weights or training.encoder_weights
        spec = spec.model_copy(update={**of_training, "encoder_weights": weights})
    spec = with_absolute_encoder(spec)
    named = {name: getattr(spec, name) for name in type(spec).model_fields if name.startswith("encoder")}
    return replace(work, given=work.given.model_copy(update=named), spec=spec)


def with_encoder(work: Evaluation[OodSpec]) -> Evaluation[OodSpec]:
    """Open the encoder, and find the features that earlier runs have kept; return the same work if there is none.

    Raises:
        EncoderError: if the encoder, or its weights, cannot be opened.
        TrackingError: if the store does not answer.
    """
    encoder = encoder_of(work.spec)
    return work if encoder is None else work.with_features(encoder, work.spec.encoder_references)


def encoder_for(model: TrainedModel, calibration: Calibration, spec: CheckSpec | WatchSpec) -> Encoder | None:
    """Open the encoder that a model was trained with, if the detector that judges images needs it.

    Args:
        model: the model.
        calibration: the scores by which the model judges images.
        spec: the settings, of which ``--detector`` names the detector, or else the recommended one judges.

    Raises:
        EncoderError: if the encoder, or its weights, cannot be opened.
        JobError: if it is not the encoder of the training.
    """
    if not calibration.references or (spec.detector or calibration.recommended) not in OF_CONTENT:
        return None
    encoder, training = None, model.training
    if training is not None and training.encoder is not None:
        weights = spec.encoder_weights or training.encoder_weights
        encoder = open_encoder(training.encoder, weights, training.encoder_size, spec.encoder_download)
    if encoder is None or encoder.digest != calibration.references["digest"].tobytes().decode():
        problem = "of its training is not known" if encoder is None else f"{encoder} is not that of its training"
        raise JobError(
            f"the encoder {problem}, but the model {model.name} needs it for the detectors {', '.join(OF_CONTENT)}",
            remedy="name the weights of the training with --encoder-weights, or another detector with --detector",
            code="encoder-differs",
        )
    return encoder


def distances_added(
    work: Evaluation[OodSpec], scores: dict[tuple[str, str], pd.DataFrame], run: EvaluationRun
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the score tables with the columns of `glow.features.with_distances`, if the evaluation has an encoder.

    Raises:
        JobError: if workers fail, or have no room on the machines.
        TrackingError: if the store does not answer.
    """
    if work.features is None or work.features.encoder is None:
        return scores
    name = work.spec.encoder

    def show_name(event: Event) -> None:
        run.show(replace(event, encoder=name) if isinstance(event, Scored) else event)

    features = {key: features_in(table) for key, table in work.features.scores(run, show_name).items()}
    [own] = [key for key in features if key[1] == "train"]
    return with_distances(scores, features, own, work.features.encoder.digest)[1]
