"""The events of an evaluation of a trained model: its progress and its results."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.display.events import Event, Number
from jobs.text import Row


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
    """

    dataset: str
    split: str
    images: int
    non_finite: int
    from_run: str | None
    background_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Nll(Event, kind="nll"):
    """The negative log-likelihoods of data sets, in bits/dim.

    Attributes:
        run: the name of the evaluation's run.
        run_id: the id of that run.
        split: the split that was scored.
        rows: one row per ``dataset``: the number of ``images``, the mean ``bits_per_dim`` with its interval, the
            ``bits_per_dim_median``, ``bits_per_dim_original`` (the mean in bits per value of the images before padding;
            NaN unless all images had one size and were padded), and the number of scores that are ``non_finite``.
        per_class: one row per ``dataset`` and ``class_name``, with ``images``, ``bits_per_dim`` and
            ``bits_per_dim_median``.
        place: the folder or address of the results.
        open_with: the command that shows the run in MLflow's UI.
        bounds: the importance-weighted bounds (`glow.scoring.importance_weighted`), one row per ``dataset``: the number
            of ``noise_samples`` per image, the mean bound as ``bits_per_dim``, and its ``gain``, the mean NLL over
            single noise samples minus the bound, with intervals; empty for one sample.
    """

    run: str
    run_id: str
    split: str
    rows: list[Row]
    per_class: list[Row]
    place: str
    open_with: str
    bounds: list[Row] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Samples(Event, kind="samples"):
    """Samples have been drawn.

    Attributes:
        run: the name of the evaluation's run.
        run_id: the id of that run.
        temperatures: the temperatures.
        images: number of samples at each temperature.
        non_finite: number of samples, at all temperatures together, with a pixel that is not finite.
        coupling: the coupling of the model (``--coupling``).
        scale: the scale of the model's couplings (``--scale``).
        pictures: the paths or addresses of the pictures of the samples.
        open_with: the command that shows the run in MLflow's UI.
    """

    run: str
    run_id: str
    temperatures: list[Number]
    images: int
    non_finite: int = 0
    coupling: str = "affine"
    scale: str = "sigmoid"
    pictures: list[str]
    open_with: str


@dataclass(frozen=True, kw_only=True)
class Interpolation(Event, kind="interpolation"):
    """Images have been interpolated between pairs of real ones.

    Attributes:
        run: the name of the evaluation's run.
        run_id: the id of that run.
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
        open_with: the command that shows the run in MLflow's UI.
    """

    run: str
    run_id: str
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
    open_with: str


@dataclass(frozen=True, kw_only=True)
class Ood(Event, kind="ood"):
    """The result of out-of-distribution tests: how often batches of images are called out-of-distribution (OOD).

    Attributes:
        run: the name of the evaluation's run.
        run_id: the id of that run.
        protocol: the protocol of the typicality test (``--protocol``).
        alpha: the confidence level of the thresholds; a share of 1 - alpha of in-distribution batches is called OOD.
        bootstraps: number of bootstrap batches per threshold.
        repeats: number of repetitions with other batches.
        in_distribution: the model's own data set.
        rows: one row per detector, data set and batch size, as `glow.ood.OodResult` describes its ``ratios``.
        control: how often the model's own test images are called OOD, as ``control`` of `glow.ood.OodResult`.
        passing: the classes of other data sets that are detected least often, as ``per_class`` of `glow.ood.OodResult`.
        recommended: the detector that detects corrupted held-out images best; None if no corruptions were scored.
        regret: for each data set and batch size the AUROC of the recommended detector, and that of the detector which
            is best there (`glow.ood.regret`).
        caught: for each ``corruption`` the ``batch_sizes``: for the severities 1, 2 and so on, the smallest M at which
            the recommended detector calls 95 % of the batches OOD, at M and at every larger M that was tested; None
            where no tested M is large enough.
        place: the folder or address of the results.
        open_with: the command that shows the run in MLflow's UI.
    """

    run: str
    run_id: str
    protocol: str
    alpha: float
    bootstraps: int
    repeats: int
    in_distribution: str
    rows: list[Row]
    control: list[Row]
    passing: list[Row]
    recommended: str | None = None
    regret: list[Row] = field(default_factory=list)
    caught: list[Row] = field(default_factory=list)
    place: str
    open_with: str
