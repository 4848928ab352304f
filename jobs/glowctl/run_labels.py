"""The names of runs and models in MLflow, and the descriptions that MLflow's UI shows for runs.

A description is a text in Markdown. It says what the run is, what its result is, and which command repeats it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from glow.datasets.names import dataset_label
from glowctl.display.lines import sizes_sentence
from glowctl.specs.ablation import AXES, AblateSpec
from glowctl.specs.training import TrainSpec
from glowctl.text import count, plain

if TYPE_CHECKING:
    from glowctl.display.events import TrainResult

LONGEST = 8000
"""Largest number of characters of a tag that MLflow keeps."""

REST = "The rest is among the artifacts."
"""Last line of a description that had to be cut."""


def configuration(spec: TrainSpec, told: Collection[str] = ()) -> str:
    """Return the label of a model, such as "mnist 1x1 K32 L3 w512 s0".

    Between width and seed, it contains those of coupling, scale, dequantization, input, network, checkerboard, actnorm
    and bits that differ from their defaults.

    Args:
        spec: settings of the training.
        told: settings to include even if they have their defaults, such as the axes of an ablation. Only these can add
            the learning rate.
    """
    parts = [dataset_label(spec.dataset), spec.permutation, f"K{spec.depth}", f"L{spec.levels}", f"w{spec.width}"]
    for name in ("coupling", "scale", "dequantization", "input", "network"):
        if name in told or getattr(spec, name) != TrainSpec.model_fields[name].default:
            parts.append(getattr(spec, name))
    if "checkerboard" in told or spec.checkerboard:
        parts.append(f"cb{spec.checkerboard}")
    if "actnorm" in told or spec.actnorm == "off":
        parts.append(f"actnorm-{spec.actnorm}")
    if spec.bits != 8:
        parts.append(f"{spec.bits}-bit")
    if "learning_rate" in told:
        parts.append(f"lr{plain(spec.learning_rate)}")
    return " ".join([*parts, f"s{spec.seed}"])


def training_name(spec: TrainSpec, told: Collection[str] = ()) -> str:
    """Return the name of a training's run: ``--run-name``, or else one such as "train mnist 1x1 K8 L3 w128 s0".

    `told` are the settings that the name contains even if they have their defaults.
    """
    return spec.run_name or f"train {configuration(spec, told)}"


def ablation_name(spec: AblateSpec) -> str:
    """Return the name of an ablation's run: ``--run-name``, or else one such as "ablate mnist permutation depth".

    The name without ``--run-name`` contains the settings of which the ablation compares several values.
    """
    return spec.train.run_name or f"ablate {dataset_label(spec.train.dataset)} {' '.join(varied(spec)) or 'seeds'}"


def varied(spec: AblateSpec) -> list[str]:
    """Return the names of the fields of `TrainSpec` for which an ablation compares several values."""
    return [axis for name, axis in AXES.items() if len(getattr(spec, name) or ()) > 1]


def evaluation_name(job: str, model_title: str) -> str:
    """Return the name of an evaluation's run.

    Examples:
        >>> evaluation_name("ood", "mnist 1x1 K32 L3 w512 s0")
        'ood mnist 1x1 K32 L3 w512 s0'
    """
    return f"{job} {model_title}"


def registered_name(dataset: str, bits: int = 8) -> str:
    """Return the name of a data set's models in MLflow's registry.

    Models of fewer than 8 bits have a separate name, and so a separate champion, because NLLs at different numbers of
    bits cannot be compared.

    Examples:
        >>> registered_name("mnist"), registered_name("mnist", bits=5)
        ('glow-mnist', 'glow-mnist-5bit')
    """
    return f"glow-{dataset_label(dataset)}" + ("" if bits == 8 else f"-{bits}bit")


def noted(notes: Sequence[str]) -> str:
    """Return a Markdown list of `notes`, sentences on how the data were read; "" if there are none."""
    return "\n".join(["**Data:**", *(f"- {note}" for note in notes)]) if notes else ""


def training_description(
    spec: TrainSpec, run_id: str, result: TrainResult | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the description of a training's run.

    Args:
        spec: settings of the training.
        run_id: id of the run.
        result: result of the training; None while it runs.
        notes: sentences on how the data were read.
    """
    scale = f", {spec.scale} scale" if spec.coupling == "affine" else ""
    what = (
        f"A Glow of {_images(spec)}: permutation {spec.permutation}, depth K = {spec.depth}, levels L = {spec.levels}, "
        f"width {spec.width}, {spec.coupling} coupling{scale}{_unusual(spec)}, seed {spec.seed}; "
        f"{count(spec.epochs, 'epoch')} with "
        f"batches of {spec.batch_size}, {spec.optimizer} at {plain(spec.learning_rate)}."
    )
    outcome = None
    if result is not None:
        outcome = (
            f"{sizes_sentence(result)} on the test set, under the model of epoch {result.best_epoch}, the "
            f"best by validation: `{result.model}`"
        )
    return _page(what, outcome, _again("train", run_id), noted(notes))


def ablation_description(spec: AblateSpec, run_id: str, outcome: str | None = None, details: str = "") -> str:
    """Return the description of an ablation's run.

    Args:
        spec: settings of the ablation.
        run_id: id of the run.
        outcome: the result in one line; None while it runs.
        details: tables in Markdown.
    """
    axes = [f"{axis} {', '.join(map(plain, values))}" for name, axis in AXES.items() if (values := getattr(spec, name))]
    what = (
        f"An ablation on {_images(spec.train)}: {' x '.join(axes) or 'one configuration'}, at "
        f"{count(spec.seeds, 'seed')} each. Its trials are the runs nested under it."
    )
    return _page(what, outcome, _again("ablate", run_id), details)


EVALUATED = {
    "nll": "The negative log-likelihood of data sets under",
    "sample": "Images drawn from",
    "interpolate": "Images between real ones, along paths of latents of",
    "ood": "Which batches of images are unlike the training data, tested with",
    "ood-trainings": "Which batches of images are unlike the training data, tested with several trainings:",
    "check": "Whether a batch of images belongs, and which of them do not, judged with",
    "watch": "Whether a stream of images still belongs, image by image, judged with",
}
"""How the description of an evaluation begins, before the name of the model; by the name of its command."""


def evaluation_description(
    job: str,
    run_id: str,
    model_title: str,
    trained_by: tuple[str, str] | None,
    outcome: str | None = None,
    details: str = "",
) -> str:
    """Return the description of an evaluation's run.

    Args:
        job: name of the command.
        run_id: id of the run.
        model_title: label of the model.
        trained_by: ids of the experiment and of the run that trained the model; None if they are unknown.
        outcome: the result in one line; None while it runs.
        details: tables in Markdown.
    """
    model = model_title
    if trained_by is not None:
        model = f"[{model_title}](#/experiments/{trained_by[0]}/runs/{trained_by[1]})"
    return _page(f"{EVALUATED[job]} the model {model}.", outcome, _again(job, run_id), details)


def _images(spec: TrainSpec) -> str:
    return spec.dataset if spec.bits == 8 else f"{spec.dataset} at {spec.bits} bits"


def _unusual(spec: TrainSpec) -> str:
    """Return how the model treats its input, where that differs from the paper's Glow."""
    noise = f", {spec.dequantization} dequantisation" if spec.dequantization != "uniform" else ""
    board = f", {spec.checkerboard} checkerboard couplings" if spec.checkerboard else ""
    network = f", {spec.network} networks" if spec.network != "plain" else ""
    actnorm = ", no ActNorm" if spec.actnorm == "off" else ""
    return noise + (f", {spec.input} input" if spec.input != "linear" else "") + board + network + actnorm


def _again(job: str, run_id: str) -> str:
    return f"glowctl {job.removesuffix('-trainings')} --spec runs:/{run_id}/spec.json"


def _page(what: str, outcome: str | None, command: str, details: str = "") -> str:
    """Return a description; `details` come last and are cut between lines if it is longer than MLflow keeps."""
    result = f"**Result:** {outcome}" if outcome else ""
    head = _paragraphs(what, result, f"To repeat it: `{command}`")
    whole = _paragraphs(head, details)
    if len(whole) <= LONGEST:
        return whole
    room = max(0, LONGEST - len(_paragraphs(head, REST)) - len("\n\n"))
    return _paragraphs(head, details.strip()[:room].rpartition("\n")[0], REST)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())
