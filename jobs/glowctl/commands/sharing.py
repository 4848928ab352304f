"""The commands that bring models to other people and programs: `card`, `push`, `pull` and `export`."""

from __future__ import annotations

import json as json_lib
from pathlib import Path
from typing import Annotated

import typer

from glowctl.commands.options import Experiment, Json, TrackingUri

PANEL = "Models for others"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model: the id or name of a training, a URI such as models:/glow-mnist@champion, a folder, or "
        "pretrained:mnist.",
    ),
]
Recorded = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model in the record: the id or name of a training, or a URI such as models:/glow-mnist@champion.",
    ),
]


def add_sharing_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command, example in (
        (card, "card 1a2b3c4d"),
        (push, "push 1a2b3c4d s3://bucket/models/digits"),
        (pull, "pull s3://bucket/models/digits digits"),
        (export, "export 1a2b3c4d digits.onnx"),
    ):
        app.command(epilog=f"Example: glowctl {example}", rich_help_panel=PANEL)(command)


def card(model: Recorded, experiment: Experiment = "glow", tracking_uri: TrackingUri = None) -> None:
    """Print the card of a model: its data, their licence, its likelihoods, its out-of-distribution tests, its limits.

    The card is Markdown with the metadata of the Hugging Face Hub. Its figures are those of the training and of the
    newest glowctl nll and ood of the model. It also becomes the description of the registered model, which glowctl
    prune then keeps.
    """
    from glowctl.sharing.card import model_card
    from glowctl.tracking.uris import tracking_uri as found

    typer.echo(model_card(found(tracking_uri), experiment, model)[1], nl=False)


def push(
    model: Recorded,
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE",
            help="Folder, bucket, or repository of the Hugging Face Hub (hf://USER/NAME, which must exist). Files of "
            "the same names are replaced.",
        ),
    ],
    experiment: Experiment = "glow",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Copy a model to a place from where others take it: weights, scores, settings, and the card as README.md.

    The folder is a model for glowctl (--model FOLDER) and for MLflow (mlflow.pyfunc.load_model), which need nothing
    else to read it.
    """
    from glowctl.sharing.folders import push as push_model
    from glowctl.tracking.uris import tracking_uri as found

    _tell("pushed", push_model(found(tracking_uri), experiment, model, place), json)


def pull(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, bucket or repository (hf://USER/NAME) that has a model.")
    ],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="New folder for the model.")],
    json: Json = False,
) -> None:
    """Copy a model that glowctl push wrote to a folder of this machine, for --model FOLDER."""
    from glowctl.sharing.folders import pull as pull_model

    _tell("pulled", str(pull_model(source, folder)), json)


def export(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File to write: .onnx for ONNX, .pt2 for torch.export."),
    ],
    experiment: Experiment = "glow",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the log-likelihood of a model as one file that runs without glowctl.

    Its inputs are images, uint8 (B, C, H, W), and noise, float32 of that shape in [0, 1). Its output is the
    log-likelihood of each image in nats. Programs that run ONNX need neither Python nor torch. An export to ONNX needs
    the extra onnx of glowctl.
    """
    from glow.export import export as export_model
    from glowctl.evaluation.find_model import find_model
    from glowctl.evaluation.scoring import made_of
    from glowctl.tracking.uris import tracking_uri as found

    trained = find_model(model, found(tracking_uri), experiment)
    export_model(made_of(trained.config, trained.weights), file.expanduser())
    _tell("exported", str(file), json)


def _tell(event: str, place: str, json: bool) -> None:
    typer.echo(json_lib.dumps({"event": event, "place": place}) if json else f"{event}: {place}")
