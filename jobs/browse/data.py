"""What a data set holds, for `glowctl data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import typer
from PIL import Image

from glow.datasets import DatasetInfo, LazyDataset, describe, open_dataset
from glow.datasets.names import absolute_dataset, place_of
from glow.datasets.packed import INDEX, read_index
from glow.figures import image_grid
from jobs.errors import JobError, SpecError
from jobs.text import JsonObject, json_text, megabytes, text_table

__all__ = ["show_data"]

PICTURED = 100
"""Images in a contact sheet."""

CLASSES = 10
"""Columns of the table."""


def show_data(name: str, data_root: str | None, sheet: str, json: bool) -> None:
    """Prints what a data set holds, and draws images of its first split in the file `sheet`.

    Raises SpecError for an unknown name, DatasetNotFound or DatasetCorrupt for data that cannot be had, JobError for a
    picture that cannot be written.
    """
    name = _named(name)
    try:
        info = describe(name, data_root)
        splits = {split: open_dataset(name, split, data_root) for split in info.splits}
    except ValueError as error:
        raise SpecError(str(error)) from error
    facts = _facts(name, info, splits) | {"picture": _drawn(splits, sheet)}
    if json:
        typer.echo(json_text(facts))
        return
    for title, fact in facts.items():
        if not isinstance(fact, (dict, list)):
            typer.echo(f"{title.replace('_', ' '):<12}{fact}")
    for note in info.notes:
        typer.echo(f"note: {note}")
    typer.echo(text_table(_rows(info, splits)))


def _named(name: str) -> str:
    """A packed data set may be named by its folder alone."""
    return absolute_dataset(f"packed:{name}" if place_of(name) is None and Path(name, INDEX).is_file() else name)


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


def _drawn(splits: Mapping[str, LazyDataset], sheet: str) -> str:
    """Draws images of the first split, and gives the file."""
    dataset = next(iter(splits.values()))
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:PICTURED]
    try:
        Image.fromarray(image_grid(dataset.pick(chosen.sort().values).numpy())).save(sheet)
    except (OSError, ValueError) as error:
        raise JobError(f"the picture {sheet} cannot be written ({error}): name another with --sheet") from error
    return sheet
