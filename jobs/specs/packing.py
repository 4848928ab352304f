"""What `glowctl pack` is told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from jobs.specs.base import colour, setting

__all__ = ["PackSpec"]


class PackSpec(BaseModel):
    """A collection of images that becomes a packed data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = setting(..., "Data", "A data set by name, folder:PATH or arrays:PATH.", "folder:photos")
    dest: str = setting(..., "Data", "The folder that becomes the packed data set.", "photos-packed")
    image_size: int | None = setting(
        None, "Data", "Side in pixels that images are padded or shrunk to; their own if not given.", 64
    )
    background: str = setting(
        "white", "Data", "What transparent images of a folder are laid over: white, black, or R,G,B.", "black"
    )
    data_root: str | None = setting(
        None, "Data", "Folder of the data sets; $GLOW_DATA_ROOT, else a cache folder of yours if not given.", "~/data"
    )
    download: bool = setting(True, "Data", "Fetch files that are missing under the data root.", False)
    on_error: Literal["refuse", "skip"] = setting(
        "refuse", "Data", "What to do about a file that cannot be read: end, or skip it and list it.", "skip"
    )
    shard_size: int | None = setting(None, "Data", "Images in each file; as many as 32 MB hold if not given.", 4096)
    workers: int | None = setting(None, "Compute", "Processes that read images; one a core if not given.", 8)

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
