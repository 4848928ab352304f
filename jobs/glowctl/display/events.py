"""The events of running jobs, one frozen dataclass per kind.

A display shows the events of this process as text, or prints each as a JSON line (``--json``). A job on a cluster sends
its events to the client, also as JSON lines (`glowctl.display.displays.sent_event`). The messages of workers to the
driver of a training are in `glowctl.training.messages`.

The names of events and fields are an interface for scripts that read ``--json``: they do not change. In rows of tables,
the 95 % interval of a column ``x`` is in ``x_low`` and ``x_high``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar

from glow.training.epoch_results import EpochResult, StepResult
from glowctl.errors import UserError
from glowctl.text import JsonObject, Row

OF_TRIAL = "trial_"
"""The prefix, in JSON, of the names of events that come from the training of a trial."""

Number = int | float
"""A number that JSON keeps as it was given: 8 stays 8, and 8.0 stays 8.0."""

KINDS: dict[str, type[Event]] = {}
"""The class of each kind of event, by its name in JSON."""


@dataclass(frozen=True)
class Event:
    """The base class of events.

    A field whose default is None is left out of the JSON while it is None.

    Attributes:
        kind: the name of the event in JSON.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "") -> None:
        cls.kind = kind
        if kind:
            KINDS[kind] = cls

    def to_dict(self) -> JsonObject:
        """Return the event as a JSON object: its name as ``event``, then its fields.

        A field that is None is left out if None is its default.
        """
        facts = asdict(self)
        unsaid = {known.name for known in fields(self) if known.default is None and facts[known.name] is None}
        return {"event": self.kind, **{name: value for name, value in facts.items() if name not in unsaid}}


Show = Callable[[Event], None]
"""A function that receives the events of a job, one by one."""


@dataclass(frozen=True, kw_only=True)
class Recorded(Event):
    """The result of a job, which is recorded in a run of MLflow.

    Attributes:
        run: the name of the run.
        run_id: the id of the run.
        open_with: the command that shows the run in MLflow's UI.
    """

    run: str
    run_id: str
    open_with: str


@dataclass(frozen=True)
class Failed(Event, kind="error"):
    """A command, or a job on a cluster, has failed; the last event of its JSON.

    It has no text, because the same error is a sentence on standard error.

    Attributes:
        code: the name of this kind of error, such as "run-not-found".
        problem: what was wrong.
        remedy: what to do about it; empty if `problem` contains that too.
        exit_code: the exit code of the command or job.
    """

    code: str
    problem: str
    remedy: str
    exit_code: int

    @classmethod
    def by(cls, error: UserError) -> Failed:
        """Return the event of an error that `glowctl.errors.explained` returned."""
        return cls(error.code, error.problem, error.remedy, error.exit_code)


# A job on a cluster.


@dataclass(frozen=True)
class Submitted(Event, kind="submitted"):
    """A job has been submitted to a cluster.

    Attributes:
        job: the id of the job.
        address: the address of the cluster.
        detached: whether this command ends without waiting for the job.
    """

    job: str
    address: str
    detached: bool


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, with its number of cores and GPUs."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Checked(Event, kind="checked"):
    """The result of the check of a cluster (`glowctl.cluster.preflight`).

    Attributes:
        nodes: the machines of the cluster.
        tracking: the URI of the MLflow store; None if it cannot be used.
        storage: the folder or bucket for outputs; None if it cannot be used.
        problems: sentences on what is wrong.
        seconds_left: seconds until the head ends if no job comes ($GLOW_IDLE_DOWN); None if a job runs or waits, or the
            head never ends.
    """

    nodes: list[Node]
    tracking: str | None
    storage: str | None
    problems: list[str]
    seconds_left: float | None = None


# Data.


@dataclass(frozen=True)
class Noted(Event, kind="note"):
    """A sentence on how the data were read."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Estimated(Event, kind="estimate"):
    """What a job will cost, from some of its work that was timed.

    Attributes:
        seconds: from the start of the command to its end.
        units: number of cores, or of GPUs, that its workers occupy.
        unit: "core" or "GPU".
        memory_megabytes: largest memory of a worker.
        gpu_memory_megabytes: largest memory of its GPU; None without one.
        disk_megabytes: of the files that the job leaves.
        network_megabytes: what machines send to each other and to a bucket.
        price: the price of the units for this time; None without ``--price``.
    """

    seconds: float
    units: Number
    unit: str
    memory_megabytes: float
    gpu_memory_megabytes: float | None = None
    disk_megabytes: float
    network_megabytes: float
    price: float | None = None


# A packing.


@dataclass(frozen=True, kw_only=True)
class Packing(Event, kind="packing"):
    """The progress of a packing.

    Attributes:
        images: number of images of the source that this command or an earlier one has packed, or has left out because
            they cannot be read.
        of: number of all images of the source.
        images_per_second: speed of this command.
    """

    images: int
    of: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Packed(Event, kind="packed"):
    """A packed data set is complete.

    Attributes:
        place: the folder of the packed data set.
        images: number of images per split.
        image_shape: channels, height and width of each image.
        left_out: number of files that could not be read.
        fingerprint: the fingerprint of the images.
        seconds: duration of the packing.
    """

    place: str
    images: dict[str, int]
    image_shape: tuple[int, int, int]
    left_out: int
    fingerprint: str
    seconds: float


# A training.


@dataclass(frozen=True)
class Waiting(Event, kind="waiting"):
    """The job cannot start until other jobs have ended, or the cluster has added machines.

    Attributes:
        workers: the smallest number of workers that the job needs.
        room: number of workers that fit on the machines that run now, busy or not.
        cpus: number of cores per worker.
        gpus: number of GPUs per worker.
        free_cpus: number of cores that are free now, on all machines together.
        free_gpus: number of GPUs that are free now.
        to_come: number of machines that the cluster's autoscaler can still add.
    """

    workers: int
    room: int
    cpus: Number
    gpus: Number
    free_cpus: Number
    free_gpus: Number
    to_come: int


@dataclass(frozen=True, kw_only=True)
class AttemptStarted(Event):
    """An attempt has started: the workers begin to train, from the start or from a checkpoint.

    A command makes a further attempt when a worker is lost, and when an elastic training gets more workers.

    Attributes:
        workers: number of workers.
        epoch: number of finished epochs; 0 at the start of a training.
        device: the device of the workers, such as "CPU" or the name of a GPU.
        precision: the type in which the coupling networks compute: "float32" or "bf16".
        parameters: number of parameters of the model.
        restarts: how often the training has been restarted or resumed.
        step: number of finished steps of the epoch that follows the finished ones; None if no step is finished.
        startup_seconds: seconds since the command started, at the first attempt; else None.
        run: the name of the training's run; None in the events of a trial.
        run_id: the id of that run; None in the events of a trial.
        epochs: number of epochs of the whole training.
    """

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
    """The first attempt of a command has started."""


@dataclass(frozen=True, kw_only=True)
class Restart(AttemptStarted, kind="restart"):
    """A further attempt has started, because a worker was lost."""


@dataclass(frozen=True, kw_only=True)
class Resize(AttemptStarted, kind="resize"):
    """A further attempt has started, with more workers than the attempt before it."""


@dataclass(frozen=True, kw_only=True)
class Step(StepResult, Event, kind="step"):
    """The progress of an epoch, with three fields more than `StepResult`.

    Attributes:
        validation_bits_per_dim: the validation score of the previous epoch; NaN if there is none yet.
        epochs: number of epochs of the whole training.
        seconds_left: estimated seconds to the end of the training.
    """

    validation_bits_per_dim: float
    epochs: int
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Epoch(EpochResult, Event, kind="epoch"):
    """The metrics of a finished epoch, with three fields more than `EpochResult`.

    Attributes:
        test_bits_per_dim_by_epoch: bits/dim of the test set after this epoch; NaN if it was not scored.
        epochs: number of epochs of the whole training.
        seconds_left: estimated seconds to the end of the training.
    """

    test_bits_per_dim_by_epoch: float
    epochs: int
    seconds_left: float


@dataclass(frozen=True)
class Stopped(Event, kind="stopped"):
    """A training was interrupted and can be resumed."""

    run: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class TrainResult(Recorded, kind="finished"):
    """The result of a training. "The model" is the one of the epoch with the lowest validation NLL.

    Attributes:
        test_bits_per_dim: bits/dim of the test set under the model.
        test_bits_per_dim_original: NLL of the test set in bits per value of the images before padding; equal to
            `test_bits_per_dim` if the images were not padded.
        validation_bits_per_dim: bits/dim of the validation images under the model.
        best_epoch: the epoch of the model.
        images_per_second: median speed of the epochs.
        restarts: how often the training was restarted or resumed.
        skipped_steps: number of steps that were skipped because their gradient was not finite.
        seconds: duration of the training in this command, without earlier commands of a resumed run.
        image_shape: channels, height and width of the model's images.
        original_shape: the shape of the images before they were padded or resized.
        sample_grid: the picture of the samples, a path or an address.
        checkpoint: the folder of the model; None if the output is a bucket.
        model: the URI of the model in MLflow's registry.
    """

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
    checkpoint: str | None
    model: str


# An ablation.


@dataclass(frozen=True, kw_only=True)
class Plan(Event, kind="plan"):
    """The plan of an ablation.

    Attributes:
        trials: number of trials.
        configurations: number of configurations.
        seeds: number of seeds per configuration.
        at_a_time: number of trials that run at the same time.
        workers: number of workers per trial.
        cpus: number of cores per worker.
        gpus: number of GPUs per worker.
        epochs: number of epochs per trial.
        labels: the labels of the trials; empty if a search chooses the trials.
    """

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
    """An ablation begins or is resumed.

    Attributes:
        run: the name of its run.
        run_id: the id of that run.
        finished: the labels of the trials that had finished before the ablation was resumed.
        ended: the states of all trials that had ended before, by label: "finished", "stopped" or "failed". Those that
            failed may run again.
    """

    run: str
    run_id: str
    finished: list[str]
    ended: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEvent(Event):
    """An event of the training of a trial.

    Attributes:
        trial: the label of the trial.
        said: the event that the training of this trial reported.
    """

    trial: str
    said: Event

    def to_dict(self) -> JsonObject:
        """Return `said` as a JSON object, with `OF_TRIAL` before its name, and with the label as ``trial``."""
        return {"event": "", "trial": self.trial} | self.said.to_dict() | {"event": OF_TRIAL + self.said.kind}


@dataclass(frozen=True)
class TrialEnded(Event, kind="trial_ended"):
    """A trial has ended.

    Attributes:
        trial: the label of the trial.
        state: "finished", "stopped" or "failed".
        reason: why it was stopped or failed; None if it finished.
        test_bits_per_dim: bits/dim of the test set; NaN if the trial did not finish.
        ended: number of trials that have ended.
        of: number of trials.
    """

    trial: str
    state: str
    reason: str | None
    test_bits_per_dim: float
    ended: int
    of: int


@dataclass(frozen=True)
class AblationStopped(Event, kind="ablation_stopped"):
    """An ablation was interrupted and can be resumed."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class AblationSummary(Recorded, kind="ablated"):
    """The result of an ablation.

    Attributes:
        trials: number of trials.
        finished: number of trials that finished.
        factors: the axes, which are the settings that vary.
        configurations: one row per configuration: its value on each axis, and its results and costs over its seeds,
            as `glow.comparison.summarize` describes them.
        differences: the paired differences between values of an axis, one row for each as
            `glow.comparison.paired_differences` describes them.
        conclusions: sentences on the axes.
        unfinished: sentences on the trials that did not finish.
        best: the row of the finished trial with the lowest validation NLL; None if no trial finished.
        champion: the model with the alias `champion`: its ``name`` and ``version`` in the registry, its ``run_id``, and
            whether it is ``new`` or ``scored_lower`` than the best trial on the same images; None if no trial finished.
        champion_uri: the MLflow URI of that model; None if there is none.
        place: the folder or address of the results.
    """

    trials: int
    finished: int
    factors: list[str]
    configurations: list[Row]
    differences: list[Row]
    conclusions: list[str]
    unfinished: list[str]
    best: Row | None
    champion: Row | None
    champion_uri: str | None
    place: str


# An evaluation of a trained model.


@dataclass(frozen=True)
class Evaluating(Event, kind="evaluating"):
    """An evaluation has begun.

    Attributes:
        job: the kind of evaluation: "nll", "sample", "interpolate" or "ood".
        model: the title of the model, such as "mnist 1x1 K32 L3 w512 s0".
        run: the name of the evaluation's run.
        run_id: the id of that run.
    """

    job: str
    model: str
    run: str
    run_id: str


@dataclass(frozen=True)
class Absent(Event, kind="absent"):
    """A data set is left out because it is missing, or several because the model takes images of another shape.

    Attributes:
        message: a sentence on why, and on how to get a missing data set.
    """

    message: str


@dataclass(frozen=True)
class Scoring(Event, kind="scoring"):
    """The progress of scoring a data set: `images` out of `of` have been scored."""

    dataset: str
    split: str
    images: int
    of: int
    images_per_second: float


@dataclass(frozen=True)
class Scored(Event, kind="scored"):
    """A data set has been scored.

    Attributes:
        dataset: the label of the data set.
        split: the split that was scored.
        images: number of images in the split.
        non_finite: number of images whose score is not finite.
        from_run: the earlier run whose scores are used again; None if this run has scored the images.
        background_model: the background model that gave the scores; None if the evaluated model did.
        encoder: the encoder whose features the table has in place of scores; None for scores.
    """

    dataset: str
    split: str
    images: int
    non_finite: int
    from_run: str | None
    background_model: str | None = None
    encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Nll(Recorded, kind="nll"):
    """The negative log-likelihoods of data sets, in bits/dim.

    Attributes:
        split: the split that was scored.
        rows: one row per ``dataset``: the number of ``images``, the mean ``bits_per_dim`` with its interval, the
            ``bits_per_dim_median``, ``bits_per_dim_original`` (the mean in bits per value of the images before padding;
            NaN unless all images had one size and were padded), and the number of scores that are ``non_finite``.
        per_class: one row per ``dataset`` and ``class_name``, with ``images``, ``bits_per_dim`` and
            ``bits_per_dim_median``.
        place: the folder or address of the results.
        bounds: the importance-weighted bounds (`glow.scoring.importance_weighted`), one row per ``dataset``: the number
            of ``noise_samples`` per image, the mean bound as ``bits_per_dim``, and its ``gain``, the mean NLL over
            single noise samples minus the bound, with intervals; empty for one sample.
    """

    split: str
    rows: list[Row]
    per_class: list[Row]
    place: str
    bounds: list[Row] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Samples(Recorded, kind="samples"):
    """Samples have been drawn.

    Attributes:
        temperatures: the temperatures.
        images: number of samples at each temperature.
        non_finite: number of samples, at all temperatures together, with a pixel that is not finite.
        coupling: the coupling of the model (``--coupling``).
        scale: the scale of the model's couplings (``--scale``).
        pictures: the paths or addresses of the pictures of the samples.
    """

    temperatures: list[Number]
    images: int
    non_finite: int = 0
    coupling: str = "affine"
    scale: str = "sigmoid"
    pictures: list[str]


@dataclass(frozen=True, kw_only=True)
class Interpolation(Recorded, kind="interpolation"):
    """Images have been interpolated between pairs of real ones.

    Attributes:
        pairs: number of pairs, which is the number of rows.
        steps: number of images per row, including the two ends.
        mode: the path between the latents of the two ends: "linear", or "slerp" for an arc.
        end_error: the largest difference between a pixel of an end and of its real image, before rounding. The unit is
            a grey level, of which the model has 2**`bits`.
        inexact_rows: number of rows with an end that, after rounding, is not equal to its real image.
        non_finite: number of images with a pixel that is not finite.
        coupling: the coupling of the model (``--coupling``).
        scale: the scale of the model's couplings (``--scale``).
        bits: bits per value of the model's images.
        picture: the path or address of the picture of the rows.
    """

    pairs: int
    steps: int
    mode: str
    end_error: float
    inexact_rows: int
    non_finite: int
    coupling: str = "affine"
    scale: str
    bits: int = 8
    picture: str


@dataclass(frozen=True, kw_only=True)
class Ood(Recorded, kind="ood"):
    """The result of out-of-distribution tests: how often batches of images are called out-of-distribution (OOD).

    Attributes:
        protocol: the protocol of the typicality test (``--protocol``).
        alpha: the confidence level of the thresholds; a share of 1 - alpha of in-distribution batches is called OOD.
        bootstraps: number of bootstrap batches per threshold.
        repeats: number of repetitions with other batches.
        in_distribution: the model's own data set.
        rows: one row per detector, data set and batch size, as `glow.ood.OodResult` describes its ``ratios``.
        control: how often the model's own test images are called OOD, as ``control`` of `glow.ood.OodResult`.
        groups: the means over near and over far data sets, as `glow.ood.group_means` describes them.
        passing: the classes of other data sets that are detected least often, as ``per_class`` of `glow.ood.OodResult`.
        recommended: the detector that detects corrupted held-out images best, with an encoder also those of left-out
            classes; None if no corruptions were scored.
        regret: for each data set and batch size the AUROC of the recommended detector, and that of the detector which
            is best there (`glow.ood.regret`).
        caught: for each ``corruption`` the ``batch_sizes``: for the severities 1, 2 and so on, the smallest M at which
            the recommended detector calls 95 % of the batches OOD, at M and at every larger M that was tested; None
            where no tested M is large enough.
        place: the folder or address of the results.
    """

    protocol: str
    alpha: float
    bootstraps: int
    repeats: int
    in_distribution: str
    rows: list[Row]
    control: list[Row]
    groups: list[Row] = field(default_factory=list)
    passing: list[Row]
    recommended: str | None = None
    regret: list[Row] = field(default_factory=list)
    caught: list[Row] = field(default_factory=list)
    place: str


@dataclass(frozen=True, kw_only=True)
class OodTrainings(Recorded, kind="ood-trainings"):
    """The results of an OOD test under several models.

    Attributes:
        in_distribution: the models' own data set.
        rows: for each ``model``, which stands for all trainings that differ only in their seed, the means over these
            trainings, as `glow.ood.over_trainings` describes them. The detector ``recommended`` is the one that was
            recommended for each training.
        place: the folder or address of the results.
    """

    in_distribution: str
    rows: list[Row]
    place: str


@dataclass(frozen=True, kw_only=True)
class Check(Event, kind="check"):
    """The verdict on a batch of images.

    Attributes:
        sources: the images that were checked, as the user named them.
        model: the model, as the user named it.
        images: number of images that were judged.
        belongs: whether the batch belongs: `p_value` is above 1 - alpha.
        alpha: the share of batches of images that belong which shall be found to belong.
        p_value: the smallest of `p_values` times their number.
        p_values: the p-value of the batch by each detector.
        detector: the detector by whose p-values images are listed.
        held_out: number of images that belong, with which these were compared.
        fdr: the largest share, on average, of listed images which belong after all.
        flagged: number of images on the list of those that do not belong.
        least_listed: number of images that must be further out than all held-out ones before any can be listed.
        furthest: one row per image, the furthest first: its name as ``image``, its ``class`` (empty without classes),
            ``nll``, ``bits_per_dim``, the p-values ``p_typicality`` and ``p_DETECTOR``, the ``statistic`` of `detector`
            by which they are ordered, and whether it is ``flagged``.
            All listed images are among them, but at most 1000.
        image_shape: (C, H, W) of the model's images, to which all were converted.
        shapes: for each shape of image files before that, such as "3x640x480", the number of images.
        non_finite: number of images whose score is not finite.
        unreadable: number of images that could not be read, and were not judged.
        unreadable_images: for up to 20 of them, the name as ``image`` and the ``reason``.
        place: the folder or address of the results; None with --no-record, as `run`, `run_id` and `open_with` are.
        run: the name of the run.
        run_id: the id of the run.
        open_with: the command that shows the run in MLflow's UI.
    """

    sources: list[str]
    model: str
    images: int
    belongs: bool
    alpha: float
    p_value: float
    p_values: dict[str, float]
    detector: str
    held_out: int
    fdr: float
    flagged: int
    least_listed: int
    furthest: list[Row]
    image_shape: tuple[int, int, int]
    shapes: dict[str, int]
    non_finite: int
    unreadable: int
    unreadable_images: list[Row]
    place: str | None = None
    run: str | None = None
    run_id: str | None = None
    open_with: str | None = None


@dataclass(frozen=True)
class Watching(Event, kind="watching"):
    """The progress of a watch.

    Attributes:
        images: number of images that were judged so far.
        evidence: the evidence against the stream, as a logarithm to base 10.
        threshold: the evidence at which there is an alarm.
        unreadable: number of images that could not be read.
        alarms: number of alarms.
    """

    images: int
    evidence: float
    threshold: float
    unreadable: int
    alarms: int


@dataclass(frozen=True)
class Alarm(Event, kind="alarm"):
    """A stream of images no longer belongs. Images are counted from 1, without those that were left out or unreadable.

    Attributes:
        image: the image after which the alarm was raised.
        file: the path of this image.
        start: estimate of the first image of the change.
        earliest: the change began between this image
        latest: and this one, with a probability of about 90 %.
        start_file: the path of the image `start`; None if it is not known any more.
        detector: the detector with the most evidence.
        higher: whether its scores are too high; otherwise they are too low.
        evidence: the evidence, as a logarithm to base 10.
        threshold: the evidence at which there is an alarm.
        moved: paths of the images that contributed most to the evidence, the most important first.
        run: the name of the run.
        run_id: the id of the run.
        picture: file with a picture of these images and a curve of the evidence.
    """

    image: int
    file: str
    start: int
    earliest: int
    latest: int
    start_file: str | None
    detector: str
    higher: bool
    evidence: float
    threshold: float
    moved: list[str]
    run: str
    run_id: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class Watched(Recorded, kind="watched"):
    """A watch has ended, because nothing more can arrive or because of an alarm.

    Attributes:
        images: number of images that were judged.
        evidence: the evidence at the end, as a logarithm to base 10.
        threshold: the evidence at which there is an alarm.
        unreadable: number of images that could not be read.
        alarms: number of alarms.
        place: the folder of the results.
    """

    images: int
    evidence: float
    threshold: float
    unreadable: int
    alarms: int
    place: str


@dataclass(frozen=True)
class Rehearsed(Event, kind="rehearsed"):
    """A watch has been rehearsed on a stream of images that belong.

    Attributes:
        images: number of images of the stream.
        alarms: number of alarms, where the watch begins anew after each.
        allowed: the largest number of alarms that the guarantee lets expect.
        shuffled: number of alarms if the same images come in random order.
        passes: whether `alarms` is at most `allowed`.
        advice: what to do; one sentence.
    """

    images: int
    alarms: int
    allowed: int
    shuffled: int
    passes: bool
    advice: str


# A report.


@dataclass(frozen=True)
class Reported(Event, kind="report"):
    """A report has been written.

    Attributes:
        html: the path of the report as HTML, or its address among the artifacts.
        markdown: the same for the report as Markdown.
        run_id: the id of the run that the report is recorded in.
        missing: sentences on what the report lacks.
        open_with: the command that shows the run in MLflow's UI.
    """

    html: str
    markdown: str
    run_id: str
    missing: list[str]
    open_with: str
