"""`glowctl data`: print what a data set contains, and draw some of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image

from glow.datasets import (
    DatasetCorrupt,
    DatasetInfo,
    DatasetNotFound,
    LazyDataset,
    describe,
    open_dataset,
    own_channels,
)
from glow.datasets.buckets import is_uri
from glow.datasets.duplicates import duplicates
from glow.datasets.lazy import one_look
from glow.datasets.names import absolute_dataset, place_of
from glow.datasets.packed_index import INDEX, read_index
from glow.errors import DOWNLOAD_ADVICE
from glow.figures.pictures import image_grid
from glowctl.errors import JobError, SpecError
from glowctl.text import JsonObject, json_text, megabytes, text_table

PICTURED = 100
"""Number of images in the picture."""

CLASSES = 10
"""Number of classes that the table has columns for."""


def show_data(
    name: str, data_root: str | None, image_size: int | None, sheet: str, json: bool, look_for_duplicates: bool = False
) -> None:
    """Print what a data set contains, and draw images of its first split.

    Args:
        name: name of the data set, or the folder of a packed one.
        data_root: folder of the data sets; None for the default (`glow.datasets.data_root`).
        image_size: height and width that the images shall have; None for their own size.
        sheet: image file to write, with some images of the data set.
        json: print JSON instead of lines.
        look_for_duplicates: count equal images, for which all images are read, and add the fingerprint of each split.

    Raises:
        SpecError: if the name is unknown, or if the images cannot be used as a data set.
        JobError: if the data are not on this machine or cannot be read, or if the picture cannot be written.
    """
    name = _named(name)
    try:
        with one_look():  # because a file that is added between two listings would move images to other splits
            shape = None if image_size is None else (own_channels(name), image_size, image_size)
            info = describe(name, data_root, image_shape=shape)
            # A known data set whose files are missing has no splits. To open one raises the error that says so.
            splits = {
                split: open_dataset(name, split, data_root, image_shape=shape) for split in info.splits or ("train",)
            }
        grid = _grid(next(iter(splits.values())))
        looked_at = splits if look_for_duplicates else {}
        equal = duplicates(looked_at).assign(fingerprint=[dataset.fingerprint() for dataset in looked_at.values()])
    except (DatasetNotFound, DatasetCorrupt) as error:
        download = f"run glowctl train --dataset {name}, which downloads it"  # this command downloads nothing
        remedy = error.remedy.replace(DOWNLOAD_ADVICE, download)
        raise JobError(error.problem, remedy=remedy, code=error.code) from error
    except ValueError as error:
        raise SpecError(str(error), code="data-set-unusable") from error
    facts = _facts(name, info, splits) | {"picture": _saved(grid, sheet)}
    if json:
        typer.echo(json_text(facts | ({"duplicates": equal.to_dict("index")} if look_for_duplicates else {})))
        return
    for title, fact in facts.items():
        if not isinstance(fact, (dict, list)):
            typer.echo(f"{title.replace('_', ' '):<12}{fact}")
    for note in info.notes:
        typer.echo(f"note: {note}")
    typer.echo(text_table(_rows(info, splits)))
    if look_for_duplicates:
        counts = equal.reset_index(names="equal images").astype(str)
        typer.echo(text_table([counts.columns.tolist(), *counts.to_numpy().tolist()]))


def _named(name: str) -> str:
    """Return the full name of a data set; the folder of a packed one is a name too."""
    bare = place_of(name) is None
    return absolute_dataset(f"packed:{name}" if bare and (is_uri(name) or Path(name, INDEX).is_file()) else name)


def _facts(name: str, info: DatasetInfo, splits: Mapping[str, LazyDataset]) -> JsonObject:
    facts: JsonObject = {
        "data_set": name,
        "shape": "x".join(map(str, info.image_shape)),
        "size": megabytes(sum(dataset.nbytes for dataset in splits.values())),
        "classes": info.num_classes,
        "images": {split: len(dataset) for split, dataset in splits.items()},
        "class_names": list(info.class_names),
    }
    place = place_of(name)
    if place is not None and place.kind == "packed":
        _, index = read_index(name)
        facts |= {"source": index.source, "left_out": index.left_out, "fingerprint": index.fingerprint}
    return facts


def _rows(info: DatasetInfo, splits: Mapping[str, LazyDataset]) -> list[list[str]]:
    more = ["..."] if info.num_classes > CLASSES else []
    rows = [["split", "images", *info.class_names[:CLASSES], *more]]
    for split, dataset in splits.items():
        of_class = dataset.labels.bincount(minlength=info.num_classes).tolist()
        rows.append([split, f"{len(dataset):,}", *(f"{number:,}" for number in of_class[:CLASSES]), *more])
    return rows


def _grid(dataset: LazyDataset) -> np.ndarray:
    """Return images of a split, chosen with a fixed seed, as one image."""
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:PICTURED]
    return image_grid(dataset.pick(chosen.sort().values).numpy())


def _saved(grid: np.ndarray, sheet: str) -> str:
    """Write the picture, and return the file."""
    try:
        Image.fromarray(grid).save(sheet)
    except (OSError, ValueError) as error:
        raise JobError(
            f"the picture {sheet} cannot be written ({error})",
            remedy="name another file with --sheet",
            code="picture-not-written",
        ) from error
    return sheet
