"""Evaluations take scores that earlier runs recorded. No Ray starts, because no score is missing."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from glowctl.display.events import Event, Nll, Ood
from glowctl.evaluation import nll, ood
from glowctl.specs.base import validated
from glowctl.specs.evaluation import NllSpec, OodSpec
from glowctl.tracking.runs import find_run
from tests.jobs.evaluation.small_model import SHAPE, record_scores, save_model, where


@pytest.fixture
def model(tmp_path):
    """A model in `tmp_path`/model."""
    return save_model(tmp_path / "model")


def save_arrays(folder, labels):
    """Save as many images as labels in a folder, as the splits train and test; they are the same at each call."""
    images = np.random.default_rng(0).integers(256, size=(len(labels), *SHAPE), dtype=np.uint8)
    folder.mkdir()
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return f"arrays:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now"), [([0] * 6, [0, 1, 2, 2, 1, 2]), ([0, 1, 2, 3, 4, 5], [0, 1, 1, 1, 0, 1])])
def test_scores_that_are_reused_have_the_labels_of_the_images_at_hand(tmp_path, model, before, now):
    given = {"model": str(tmp_path / "model"), "trained_on": "digits", **where(tmp_path)}
    first, corrected = (save_arrays(tmp_path / name, labels) for name, labels in (("first", before), ("now", now)))
    record_scores(nll.prepare(validated(NllSpec, given | {"datasets": first})).evaluation, model, "earlier")
    # Both data sets in one job: they share a key, but not their labels.
    work = nll.prepare(validated(NllSpec, given | {"datasets": f"{corrected},{first}"}))
    assert not work.evaluation.needs_ray
    events: list[Event] = []
    nll.run(work, events.append)
    (end,) = (event for event in events if isinstance(event, Nll))
    shown = {(row["dataset"], row["class_name"]): row["images"] for row in end.per_class}
    labels = {"arrays-now": now, "arrays-first": before}
    assert shown == {(name, str(label)): each.count(label) for name, each in labels.items() for label in each}


def test_only_padded_images_of_one_size_have_bits_per_original_pixel(tmp_path, model):
    sides = {"padded": (6, 6), "equal": (8, 8), "shrunk": (16, 16), "mixed": (6, 8)}
    for name, of_images in sides.items():
        (tmp_path / name / "test").mkdir(parents=True)
        for number, side in enumerate(of_images):
            Image.new("L", (side, side), 40 * number).save(tmp_path / name / "test" / f"{number}.png")
    datasets = ",".join(f"folder:{tmp_path}/{name}" for name in sides)
    given = {"model": str(tmp_path / "model"), "trained_on": "digits", "datasets": datasets, **where(tmp_path)}
    record_scores(nll.prepare(validated(NllSpec, given)).evaluation, model, "earlier")
    events: list[Event] = []
    nll.run(nll.prepare(validated(NllSpec, given)), events.append)
    (end,) = (event for event in events if isinstance(event, Nll))
    ratios = {row["dataset"]: row["bits_per_dim_original"] / row["bits_per_dim"] for row in end.rows}
    assert ratios.pop("folder-padded") == pytest.approx(64 / 36)
    assert len(ratios) == 3
    assert all(map(math.isnan, ratios.values()))


@pytest.mark.slow
def test_the_origin_of_the_scores_of_the_model_and_of_its_background_is_recorded(tmp_path, model):
    background = save_model(tmp_path / "background", seed=1)
    images = save_arrays(tmp_path / "images", [0] * 40)
    models = {"model": str(tmp_path / "model"), "background_model": str(tmp_path / "background")}
    how = {"trained_on": images, "ood_datasets": "noise", "batch_sizes": "1", "alpha": 0.5, "bootstraps": 50}
    work = ood.prepare(validated(OodSpec, models | how | where(tmp_path)))
    behind = work.evaluation.background
    assert behind is not None
    by_model = record_scores(work.evaluation, model, "model")
    by_background = record_scores(behind, background, "background")
    again = ood.prepare(validated(OodSpec, models | how | where(tmp_path)))
    events: list[Event] = []
    ood.run(again, events.append)
    (end,) = (event for event in events if isinstance(event, Ood))
    recorded = json.loads(find_run(work.evaluation.uri, "glow", end.run_id).data.tags["glow.scored_by"])
    wanted = {table.key: by_model for table in work.evaluation.tables}
    assert recorded == wanted | {table.key: by_background for table in behind.tables}
