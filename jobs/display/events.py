"""What a job says while it runs: one frozen dataclass for each kind of event.

An event goes to a display of this process, to a file as a JSON line (``--json``), or from a job on a cluster to its
client, as a JSON line too (`jobs.display.wire`). An evaluation's events are in `jobs.display.evaluation_events`; what
the processes of a training send to the one that drives it is in `jobs.training.messages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

from jobs.display.rows import Difference, Number
from jobs.text import JsonObject, Row
from jobs.tracking import Champion

__all__ = [
    "OF_TRIAL",
    "Ablating",
    "AblationStopped",
    "AblationSummary",
    "AttemptStarted",
    "Checked",
    "Epoch",
    "Event",
    "Node",
    "Noted",
    "Packed",
    "Packing",
    "Plan",
    "Repaired",
    "Reported",
    "Resize",
    "Restart",
    "Show",
    "Started",
    "Step",
    "Stopped",
    "Submitted",
    "TrainResult",
    "TrialEnded",
    "TrialEvent",
    "Unknown",
    "Waiting",
]

OF_TRIAL = "trial_"
"""What the name of an event begins with in JSON where a trial's training says it."""


@dataclass(frozen=True)
class Event:
    """A thing that a job says. `kind` is its name in JSON.

    A field that is None by default says nothing while it is None, and is then left out of the JSON.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "") -> None:
        cls.kind = kind

    def to_dict(self) -> JsonObject:
        """The event as JSON has it: its name as ``event``, then its fields."""
        facts = asdict(self)
        unsaid = {field.name for field in fields(self) if field.default is None and facts[field.name] is None}
        return {"event": self.kind, **{name: value for name, value in facts.items() if name not in unsaid}}


Show = Callable[[Event], None]
"""Takes the events of a job, one by one."""


@dataclass(frozen=True)
class Unknown(Event):
    """An event of another version of glowctl, which this one cannot read. Only JSON shows it, as it came."""

    said: JsonObject

    def to_dict(self) -> JsonObject:
        return self.said


# A job on a cluster.


@dataclass(frozen=True)
class Submitted(Event, kind="submitted"):
    """A job has been given to a cluster; `detached` if this command does not wait for it."""

    job: str
    address: str
    detached: bool


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Checked(Event, kind="checked"):
    """What the check of a cluster found (`jobs.cluster.preflight`); `problems` are sentences. `tracking` and `storage`
    are None where they cannot be used."""

    nodes: list[Node]
    tracking: str | None
    storage: str | None
    problems: list[str]


# Data.


@dataclass(frozen=True)
class Noted(Event, kind="note"):
    """What to know of how the data were read; `message` is a sentence."""

    message: str


# A packing.


@dataclass(frozen=True, kw_only=True)
class Packing(Event, kind="packing"):
    """How many images have been packed, those of earlier commands included."""

    images: int
    of: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Packed(Event, kind="packed"):
    """A packed data set is complete; `images` are by split, `left_out` the files that could not be read."""

    place: str
    images: dict[str, int]
    image_shape: tuple[int, int, int]
    left_out: int
    fingerprint: str
    seconds: float


# A training.


@dataclass(frozen=True)
class Waiting(Event, kind="waiting"):
    """A cluster has `room` for fewer than `workers` and must grow first."""

    workers: int
    room: int


@dataclass(frozen=True, kw_only=True)
class AttemptStarted(Event):
    """The workers have begun to train, after `epoch` epochs and `step` steps of the next one.

    `startup_seconds` counts from the start of the command. `run` and `run_id` are of the training's run; a trial's
    events do not bear them."""

    workers: int
    epoch: int
    device: str
    precision: str
    parameters: int
    restarts: int
    step: int | None = None
    startup_seconds: float | None = None
    run: str | None = None
    run_id: str | None = None
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Started(AttemptStarted, kind="started"):
    """The first attempt."""


@dataclass(frozen=True, kw_only=True)
class Restart(AttemptStarted, kind="restart"):
    """An attempt after a worker was lost."""


@dataclass(frozen=True, kw_only=True)
class Resize(AttemptStarted, kind="resize"):
    """An attempt with more workers than the one before."""


@dataclass(frozen=True, kw_only=True)
class Step(Event, kind="step"):
    """Where an epoch stands. `validation_bits_per_dim` is of the epoch before."""

    epoch: int
    step: int
    steps: int
    images_per_second: float
    train_bits_per_dim: float
    validation_bits_per_dim: float
    epochs: int
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Epoch(Event, kind="epoch"):
    """The fields of `glow.training.EpochResult`, and where the training stands. `test_bits_per_dim_by_epoch` is NaN if
    the test set was not scored."""

    epoch: int
    step: int
    train_bits_per_dim: float
    validation_bits_per_dim: float
    images_per_second: float
    gradient_norm: float
    learning_rate: float
    skipped_steps: int
    seconds: float
    test_bits_per_dim_by_epoch: float
    epochs: int
    seconds_left: float


@dataclass(frozen=True)
class Stopped(Event, kind="stopped"):
    """The training was interrupted, and can go on."""

    run: str
    run_id: str


@dataclass(frozen=True)
class TrainResult(Event, kind="finished"):
    """What a training came to. Bits/dim are the test set's under the best model by validation.

    `test_bits_per_dim_original` counts the bits per pixel of the images before padding.
    """

    run: str
    run_id: str
    test_bits_per_dim: float
    test_bits_per_dim_original: float
    validation_bits_per_dim: float
    best_epoch: int
    images_per_second: float
    restarts: int
    skipped_steps: int
    seconds: float
    image_shape: tuple[int, int, int]
    original_shape: tuple[int, int, int]
    sample_grid: str
    checkpoint: str | None  # a folder
    model: str  # in MLflow's registry
    open_with: str  # the command that shows the run in the MLflow UI


# An ablation.


@dataclass(frozen=True, kw_only=True)
class Plan(Event, kind="plan"):
    """What an ablation will run. `workers` are those of a trial, `cpus` and `gpus` each worker's; `labels` are empty
    where a search chooses the trials."""

    trials: int
    configurations: int
    seeds: int
    at_a_time: int
    workers: int
    cpus: Number
    gpus: Number
    epochs: int
    labels: list[str]


@dataclass(frozen=True)
class Ablating(Event, kind="ablating"):
    """The ablation's run is there. `finished` are the labels of trials that had ended when it was resumed."""

    run: str
    run_id: str
    finished: list[str]


@dataclass(frozen=True)
class TrialEvent(Event):
    """What the training of a trial says."""

    trial: str
    said: Event

    def to_dict(self) -> JsonObject:
        return {"event": "", "trial": self.trial} | self.said.to_dict() | {"event": OF_TRIAL + self.said.kind}


@dataclass(frozen=True)
class TrialEnded(Event, kind="trial_ended"):
    """A trial has ended, one of `ended` among `of`. `state` is finished, stopped or failed."""

    trial: str
    state: str
    reason: str | None
    test_bits_per_dim: float
    ended: int
    of: int


@dataclass(frozen=True)
class AblationStopped(Event, kind="ablation_stopped"):
    """The ablation was interrupted, and can go on."""

    run_id: str


@dataclass(frozen=True)
class AblationSummary(Event, kind="ablated"):
    """What an ablation came to. The rows of `configurations` have a column for each of the factors and those of
    `glow.comparison.summarize`; `best` is the row of the finished trial with the lowest validation NLL. `champion` is
    None if no trial finished."""

    run: str
    run_id: str
    trials: int
    finished: int
    factors: list[str]
    configurations: list[Row]
    differences: list[Difference]
    conclusions: list[str]
    unfinished: list[str]
    best: Row | None
    champion: Champion | None
    place: str
    open_with: str

    def to_dict(self) -> JsonObject:
        return super().to_dict() | {"champion_uri": self.champion.uri if self.champion else None}


@dataclass(frozen=True)
class Repaired(Event, kind="repaired"):
    """A run's record has been brought up to date; `added` are the epochs that it lacked, by the name of the training or
    the label of the trial."""

    run: str
    run_id: str
    added: dict[str, list[int]]


# A report.


@dataclass(frozen=True)
class Reported(Event, kind="report"):
    """A report has been written; `html` and `markdown` are paths, or addresses of artifacts."""

    html: str
    markdown: str
    run_id: str
    missing: list[str]
    open_with: str
