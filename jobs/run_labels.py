"""What a run is called in MLflow, and the Markdown that MLflow's UI shows above it: what the run is, what came out, and
the command that repeats it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from glow.datasets.names import dataset_label
from jobs.display.training_lines import sizes_sentence
from jobs.specs.ablation import AXES, AblateSpec
from jobs.specs.training import TrainSpec
from jobs.text import count, plain

if TYPE_CHECKING:
    from jobs.display.events import TrainResult

__all__ = [
    "ablation_description",
    "ablation_name",
    "configuration",
    "evaluation_description",
    "evaluation_name",
    "noted",
    "registered_name",
    "training_description",
    "training_name",
    "varied",
]

LONGEST = 8000
"""The most characters of a tag that MLflow keeps."""

REST = "The rest is among the artifacts."


def configuration(spec: TrainSpec, told: Collection[str] = ()) -> str:
    """ "mnist 1x1 K32 L3 w512 s0", with what is unlike the defaults, or `told` of, before the seed."""
    parts = [dataset_label(spec.dataset), spec.permutation, f"K{spec.depth}", f"L{spec.levels}", f"w{spec.width}"]
    for name in ("coupling", "scale", "dequantization", "input"):
        if name in told or getattr(spec, name) != TrainSpec.model_fields[name].default:
            parts.append(getattr(spec, name))
    if spec.bits != 8:
        parts.append(f"{spec.bits}-bit")
    if "learning_rate" in told:
        parts.append(f"lr{plain(spec.learning_rate)}")
    return " ".join([*parts, f"s{spec.seed}"])


def training_name(spec: TrainSpec, told: Collection[str] = ()) -> str:
    return spec.run_name or f"train {configuration(spec, told)}"


def ablation_name(spec: AblateSpec) -> str:
    return spec.train.run_name or f"ablate {dataset_label(spec.train.dataset)} {' '.join(varied(spec)) or 'seeds'}"


def varied(spec: AblateSpec) -> list[str]:
    """The axes of which there are several values."""
    return [axis for name, axis in AXES.items() if len(getattr(spec, name) or ()) > 1]


def evaluation_name(job: str, model_title: str) -> str:
    """Name of an evaluation's run, such as "ood mnist 1x1 K32 L3 w512 s0"."""
    return f"{job} {model_title}"


def registered_name(dataset: str, bits: int = 8) -> str:
    """Of the models of a data set, in MLflow's registry. A champion is the best of one number of bits alone, since the
    NLLs of others cannot be compared."""
    return f"glow-{dataset_label(dataset)}" + ("" if bits == 8 else f"-{bits}bit")


def noted(notes: Sequence[str]) -> str:
    """What to know of how the data were read, for a page."""
    return "\n".join(["**Data:**", *(f"- {note}" for note in notes)]) if notes else ""


def training_description(
    spec: TrainSpec, run_id: str, result: TrainResult | None = None, notes: Sequence[str] = ()
) -> str:
    """The page of a training; with `result`, what came out; `notes` are on its data."""
    scale = f", {spec.scale} scale" if spec.coupling == "affine" else ""
    what = (
        f"A Glow of {_images(spec)}: permutation {spec.permutation}, depth K = {spec.depth}, levels L = {spec.levels}, "
        f"width {spec.width}, {spec.coupling} coupling{scale}{_unusual(spec)}, seed {spec.seed}; "
        f"{count(spec.epochs, 'epoch')} with "
        f"batches of {spec.batch_size}, {spec.optimizer} at {plain(spec.learning_rate)}."
    )
    came_to = None
    if result is not None:
        came_to = (
            f"{sizes_sentence(result)} on the test set, under the model of epoch {result.best_epoch}, the "
            f"best by validation: `{result.model}`"
        )
    return _page(what, came_to, _again("train", run_id), noted(notes))


def ablation_description(spec: AblateSpec, run_id: str, came_to: str | None = None, details: str = "") -> str:
    """The page of an ablation; `came_to` is its result in a line, `details` its tables in Markdown."""
    axes = [f"{axis} {', '.join(map(plain, values))}" for name, axis in AXES.items() if (values := getattr(spec, name))]
    what = (
        f"An ablation on {_images(spec.train)}: {' x '.join(axes) or 'one configuration'}, at "
        f"{count(spec.seeds, 'seed')} each. Its trials are the runs beneath it."
    )
    return _page(what, came_to, _again("ablate", run_id), details)


def evaluation_description(
    job: str,
    run_id: str,
    model_title: str,
    trained_by: tuple[str, str] | None,
    came_to: str | None = None,
    details: str = "",
) -> str:
    """The page of an evaluation. `trained_by` are the ids of the experiment and the run that trained the model."""
    model = model_title
    if trained_by is not None:
        model = f"[{model_title}](#/experiments/{trained_by[0]}/runs/{trained_by[1]})"
    what = {
        "nll": "The negative log-likelihood of data sets under",
        "sample": "Images drawn from",
        "interpolate": "What lies between real images in the latents of",
        "ood": "Which batches of images do not belong to what it was trained on, by",
    }[job]
    return _page(f"{what} the model {model}.", came_to, _again(job, run_id), details)


def _images(spec: TrainSpec) -> str:
    return spec.dataset if spec.bits == 8 else f"{spec.dataset} at {spec.bits} bits"


def _unusual(spec: TrainSpec) -> str:
    """What the model does to its input, where that is not what a Glow does."""
    noise = f", {spec.dequantization} dequantisation" if spec.dequantization != "uniform" else ""
    return noise + (f", {spec.input} input" if spec.input != "linear" else "")


def _again(job: str, run_id: str) -> str:
    return f"glowctl {job} --spec runs:/{run_id}/spec.json"


def _page(what: str, came_to: str | None, command: str, details: str = "") -> str:
    """`details` come last: of an ablation of many configurations they are longer than MLflow keeps."""
    result = f"**Result:** {came_to}" if came_to else ""
    head = _paragraphs(what, result, f"To repeat it: `{command}`")
    whole = _paragraphs(head, details)
    if len(whole) <= LONGEST:
        return whole
    room = max(0, LONGEST - len(_paragraphs(head, REST)) - len("\n\n"))
    return _paragraphs(head, details.strip()[:room].rpartition("\n")[0], REST)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())
