"""A command's request in a form that can be sent to a cluster: `Request`.

A command line becomes specs, specs become a request, and `glowctl.dispatch.perform` carries it out, on this machine or
as a job on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from glowctl.specs.ablation import AblateSpec
from glowctl.specs.base import Positive, Spec, as_text, colour, same_as, setting, validated
from glowctl.specs.evaluation import EvaluationSpec, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from glowctl.specs.training import TrainSpec


class PackSpec(Spec):
    """The settings of a job that makes a packed data set from a collection of images."""

    source: str = setting(..., "Data", "folder:photos")
    """Data set to pack: a name, folder:PATH, parquet:PATH or arrays:PATH."""
    dest: str = setting(..., "Data", "photos-packed")
    """Folder or bucket (s3://BUCKET/FOLDER) for the packed data set."""
    image_size: Positive | None = setting(None, "Data", 64)
    """Height and width of the packed images in pixels: smaller images are padded, larger ones shrunk. Without it: the
    size of the images, or 32 for named data sets of 28x28 such as mnist."""
    background: Annotated[str, as_text(colour)] = same_as(TrainSpec, "background")
    data_root: str | None = same_as(TrainSpec, "data_root")
    download: bool = same_as(TrainSpec, "download")
    on_error: Literal["refuse", "skip"] = setting("refuse", "Data", "skip")
    """What to do about an image that cannot be decoded. refuse: end with an error. skip: leave it out, and list it in
    DEST/left-out.txt."""
    shard_size: Positive | None = setting(None, "Data", 4096)
    """Number of images per file. Without it: as many as 32 MB hold."""
    workers: Positive | None = setting(None, "Compute", 8)
    """Number of cores on which images are read. Without it: all."""


EVALUATIONS: dict[str, type[EvaluationSpec]] = {
    "nll": NllSpec,
    "sample": SampleSpec,
    "interpolate": InterpolateSpec,
    "ood": OodSpec,
}
"""The settings of each evaluation of a trained model, by the name of its command."""

SPECS: dict[str, type[BaseModel]] = {"train": TrainSpec, "ablate": AblateSpec, "pack": PackSpec, **EVALUATIONS}
"""The settings of every job, by the name of its command."""


class Request(BaseModel):
    """A job to do, with its validated settings.

    The settings are validated when they are made from the command line, and again where a request arrives as JSON.

    Attributes:
        do: what to do; `glowctl.dispatch.perform` has the function for each.
        specs: the settings of the jobs to run, by the name of the job's command.
        run: name or id of an existing run to continue or to summarize; None for a new one.
        changes: settings that replace those of `run`, or the defaults of ``glowctl demo``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal[
        "train",
        "resume_training",
        "ablate",
        "plan",
        "resume_ablation",
        "summarize",
        "evaluate",
        "demo",
        "pack",
        "estimate",
    ]
    specs: dict[str, Any] = {}
    run: str | None = None
    changes: dict[str, object] = {}

    @classmethod
    def of(cls, do: Any, *specs: BaseModel) -> Request:
        """Return a request to run the jobs of these specs."""
        names = {kind: name for name, kind in SPECS.items()}
        return cls(do=do, specs={names[type(spec)]: spec for spec in specs})

    @field_validator("specs", mode="before")
    @classmethod
    def _from_json(cls, specs: Mapping[str, Any]) -> dict[str, BaseModel]:
        return {
            name: spec if isinstance(spec, BaseModel) else validated(SPECS[name], spec) for name, spec in specs.items()
        }

    @property
    def title(self) -> str:
        """A few words for the list of a cluster's jobs, such as "train mnist"."""
        if self.run is not None:
            return f"{self.do.replace('_', ' ')} {self.run}"
        if self.do == "evaluate":
            models = {model for spec in self.specs.values() if (model := getattr(spec, "model", None))}
            return " ".join([*self.specs, *models])
        return " ".join([self.do, *([self.dataset] if self.dataset else [])])

    @property
    def dataset(self) -> str | None:
        """The data set to train on or to pack; None for other jobs."""
        return self.setting("dataset") or self.setting("source")

    def setting(self, name: str) -> str | None:
        """Return the first value that a setting has in `specs`, or else its value in `changes`; None if it has none."""
        every = (getattr(getattr(spec, "train", spec), name, None) for spec in self.specs.values())
        return next((str(value) for value in (*every, self.changes.get(name)) if value), None)
