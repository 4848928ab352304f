"""A run's series of images: each step has one picture, its small copy and a tag, whatever died while they were written.

MLflow writes the picture first, then the small copy that its UI shows, then the tag by which the UI knows that the run
has images. What lacks one of them is completed under the name of the picture that exists, so that no step has two.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tracking import tag_names

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

__all__ = ["whole_steps", "write_image"]

FOLDER = "images"
"""Folder of the pictures among a run's artifacts."""


def whole_steps(client: MlflowClient, run_id: str, key: str) -> set[int]:
    """Return the steps at which a run has a whole image of a series.

    Args:
        client: client of the store.
        run_id: id of the run.
        key: name of the series.
    """
    if tag_names.LOGGED_IMAGES not in client.get_run(run_id).data.tags:
        return set()  # the first image was being written
    names = _names(client, run_id)
    return {step for step, picture in _pictures(names, key).items() if _small_copy(picture) in names}


def write_image(client: MlflowClient, run_id: str, image: np.ndarray, key: str, step: int) -> None:
    """Write an image of a series, or complete the one that a process which died has begun.

    Args:
        client: client of the store.
        run_id: id of the run.
        image: uint8 (H, W, 3).
        key: name of the series.
        step: the step, which has no whole image.
    """
    begun = _pictures(_names(client, run_id), key).get(step)
    if begun is None:
        client.log_image(run_id, image, key=key, step=step, synchronous=True)
        return
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for name in (begun, _small_copy(begun)):
            file = Path(folder, name)
            Image.fromarray(image).save(file)
            client.log_artifact(run_id, str(file), FOLDER)
    client.set_tag(run_id, tag_names.LOGGED_IMAGES, "True")


def _names(client: MlflowClient, run_id: str) -> set[str]:
    return {Path(file.path).name for file in client.list_artifacts(run_id, FOLDER)}


def _pictures(names: set[str], key: str) -> dict[int, str]:
    """Return the name of the picture of each step of a series."""
    named = {name: re.match(rf"{re.escape(key)}[%+]step[%+](\d+)[%+].*\.png$", name) for name in sorted(names)}
    return {int(found[1]): name for name, found in named.items() if found}


def _small_copy(picture: str) -> str:
    """Return the name that MLflow gives to the small copy of a picture; older versions separate by % and not by +."""
    separator = "%" if "%step%" in picture else "+"
    return f"{picture.removesuffix('.png')}{separator}compressed.webp"
