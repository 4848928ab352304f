"""What an evaluation of a trained model says while it runs, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.display.events import Event
from jobs.display.rows import Caught, ClassNll, DatasetNll, NllBound, Number, OodClass, OodControl, OodRatio, OodRegret

__all__ = ["Absent", "Evaluating", "Interpolation", "Nll", "Ood", "Samples", "Scored", "Scoring"]


@dataclass(frozen=True)
class Evaluating(Event, kind="evaluating"):
    """An evaluation has begun."""

    job: str
    model: str
    run: str
    run_id: str


@dataclass(frozen=True)
class Absent(Event, kind="absent"):
    """A data set is left out; `message` says how to get it."""

    message: str


@dataclass(frozen=True)
class Scoring(Event, kind="scoring"):
    """How many `images` of how many have been scored."""

    dataset: str
    split: str
    images: int
    of: int
    images_per_second: float


@dataclass(frozen=True)
class Scored(Event, kind="scored"):
    """A data set has been scored. `from_run` is the earlier run that did it, None if it was this one."""

    dataset: str
    split: str
    images: int
    non_finite: int
    from_run: str | None


@dataclass(frozen=True, kw_only=True)
class Nll(Event, kind="nll"):
    """What data sets cost in bits/dim."""

    run: str
    run_id: str
    split: str
    rows: list[DatasetNll]
    per_class: list[ClassNll]
    place: str
    open_with: str
    bounds: list[NllBound] = field(default_factory=list)
    """Of several noise samples per image; empty of one."""


@dataclass(frozen=True, kw_only=True)
class Samples(Event, kind="samples"):
    """`images` samples were drawn at each of the temperatures."""

    run: str
    run_id: str
    temperatures: list[Number]
    images: int
    pictures: list[str]
    open_with: str


@dataclass(frozen=True, kw_only=True)
class Interpolation(Event, kind="interpolation"):
    """Rows of `steps` images lie between `pairs` of real ones. `end_error` is in grey levels of 2**`bits`; `scale` is
    that of the model's couplings."""

    run: str
    run_id: str
    pairs: int
    steps: int
    mode: str
    end_error: float
    inexact_rows: int
    non_finite: int
    scale: str
    bits: int = 8
    picture: str
    open_with: str


@dataclass(frozen=True, kw_only=True)
class Ood(Event, kind="ood"):
    """How often batches are called out-of-distribution. `in_distribution` is the model's own data set; `passing` are
    the classes of others that are told least often. `recommended` is the detector that was chosen by corrupted held-out
    images, None where none were scored; `regret` says what it comes to, and `caught` which corruptions it catches."""

    run: str
    run_id: str
    protocol: str
    alpha: float
    bootstraps: int
    repeats: int
    in_distribution: str
    rows: list[OodRatio]
    control: list[OodControl]
    passing: list[OodClass]
    recommended: str | None = None
    regret: list[OodRegret] = field(default_factory=list)
    caught: list[Caught] = field(default_factory=list)
    place: str
    open_with: str
