"""The settings of ``glowctl pack``: `PackSpec`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from jobs.specs.base import colour, setting

__all__ = ["PackSpec"]


class PackSpec(BaseModel):
    """The settings of a job that makes a packed data set from a collection of images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = setting(
        ..., "Data", "Data set to pack: a name, folder:PATH, parquet:PATH or arrays:PATH.", "folder:photos"
    )
    dest: str = setting(..., "Data", "Folder or bucket (s3://BUCKET/FOLDER) for the packed data set.", "photos-packed")
    image_size: int | None = setting(
        None,
        "Data",
        "Height and width of the packed images in pixels: smaller images are padded, larger ones shrunk. Without it: "
        "the size of the images, or 32 for named data sets of 28x28 such as mnist.",
        64,
    )
    background: str = setting(
        "white",
        "Data",
        "Background colour for transparent images from folder:PATH or parquet:PATH: white, black, or R,G,B, with each "
        "number from 0 to 255.",
        "black",
    )
    data_root: str | None = setting(
        None,
        "Data",
        "Folder that contains the data sets. Without it: $GLOW_DATA_ROOT, else ~/.cache/glow/data.",
        "~/data",
    )
    download: bool = setting(True, "Data", "Download files that are missing in the data root.", False)
    on_error: Literal["refuse", "skip"] = setting(
        "refuse",
        "Data",
        "What to do about an image that cannot be decoded. refuse: end with an error. skip: leave it out, and list it "
        "in DEST/left-out.txt.",
        "skip",
    )
    shard_size: int | None = setting(
        None, "Data", "Number of images per file. Without it: as many as 32 MB hold.", 4096
    )
    workers: int | None = setting(None, "Compute", "Number of cores on which images are read. Without it: all.", 8)

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        colour(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("image_size", "shard_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        return self
