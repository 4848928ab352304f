"""Evaluations read images as the training of their model did, and note what is special about them. No Ray."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from glow import Glow, save_checkpoint
from glow.config import GlowConfig
from glow.datasets import describe
from glowctl.display.events import Event, Interpolation, Noted
from glowctl.evaluation import interpolate, nll, ood
from glowctl.evaluation.run import evaluation_run, prepare_evaluation
from glowctl.specs.base import validated
from glowctl.specs.evaluation import InterpolateSpec, NllSpec, OodSpec
from glowctl.specs.training import make_train_spec
from glowctl.tracking.runs import find_run
from tests.jobs.glyphs import write_glyphs


@pytest.fixture
def here(tmp_path):
    """A folder with transparent images, and a model that was trained on it with a black background."""
    folder = tmp_path / "glyphs/test"
    write_glyphs(folder, 10, grey=99)
    model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=1, width=4))
    model.initialize(torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8))
    save_checkpoint(model, tmp_path / "model/checkpoint")
    spec = make_train_spec("smoke", {"dataset": f"folder:{folder.parent}", "background": "black"})
    (tmp_path / "model/spec.json").write_text(spec.to_json())
    return tmp_path


def settings(here, **more):
    where = {"tracking_uri": f"sqlite:///{here}/mlflow.db", "output": str(here / "out")}
    return {"model": str(here / "model"), **where, **more}


@pytest.mark.parametrize(("given", "level"), [(None, 0), ("white", 255), ("7,7,7", 7)])
def test_transparent_images_have_the_background_of_the_training(here, given, level):
    work = nll.prepare(validated(NllSpec, settings(here, rescore=True, background=given))).evaluation
    images = work.opened(f"folder:{here / 'glyphs'}", "test").images(0, 10)
    assert images.unique().tolist() == sorted({99, level})
    pair = {"from_image": str(here / "glyphs/test/00.png"), "to_image": str(here / "glyphs/test/01.png")}
    own = interpolate.prepare(validated(InterpolateSpec, settings(here, background=given, **pair)))
    assert torch.equal(own.ends[:, 0], images[:2])
    chosen = interpolate.prepare(validated(InterpolateSpec, settings(here, background=given, pairs_per_class=1)))
    assert chosen.ends.unique().tolist() == sorted({99, level})
    assert chosen.evaluation.notes == work.notes


def test_two_image_files_are_interpolated(here, monkeypatch):
    """A stand-in for the task of Ray, which `test_interpolations_end_at_the_real_images` runs, repeats the first."""

    def between(reference, ends, steps, *how):
        return np.repeat(ends[0][:, None], steps, axis=1), np.zeros(1), 0

    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=between))
    monkeypatch.setattr(interpolate, "between", task)
    monkeypatch.setattr(interpolate, "put_model", lambda model: None)
    monkeypatch.setattr(interpolate, "result_of", lambda result: result)
    pair = {"from_image": str(here / "glyphs/test/00.png"), "to_image": str(here / "glyphs/test/01.png")}
    work = interpolate.prepare(validated(InterpolateSpec, settings(here, steps=10, **pair)))
    events: list[Event] = []
    assert (interpolate.run(work, events.append) == work.ends[0].numpy()).all()
    assert isinstance(events[-1], Interpolation)
    assert (events[-1].pairs, events[-1].steps, events[-1].inexact_rows) == (1, 10, 1)
    table = pd.read_parquet(Path(events[-1].picture).with_suffix(".parquet"))
    assert table[["from", "to"]].to_dict("records") == [{"from": pair["from_image"], "to": pair["to_image"]}]


def test_notes_on_the_data_are_shown_and_recorded(here):
    work = nll.prepare(validated(NllSpec, settings(here, rescore=True))).evaluation
    (note,) = work.notes
    example = f"{here}/glyphs/test/00.png"
    assert note.startswith("10 ")
    assert example in note
    assert "0, 0, 0" in note  # the RGB of the background
    events: list[Event] = []
    with evaluation_run(work, "nll", events.append) as run:
        run.describe("a result", "a table")
    assert [event for event in events if isinstance(event, Noted)] == [Noted(note)]
    tags = find_run(work.uri, "glow", run.record.run_id).data.tags
    assert tags["glow.notes"] == note
    assert f"**Data:**\n- {note}\n\na table" in tags["mlflow.note.content"]


def test_comparable_data_sets_are_looked_for_where_the_training_had_its_own(here, monkeypatch):
    spec = make_train_spec("smoke", {"dataset": f"folder:{here / 'glyphs'}", "data_root": str(here / "data")})
    (here / "model/spec.json").write_text(spec.to_json())
    roots = []

    def described(name, root):
        roots.append(root)
        return describe(name, root)

    monkeypatch.setattr(ood, "describe", described)
    assert "noise" in ood._known(prepare_evaluation(validated(OodSpec, settings(here))))
    assert set(roots) == {str(here / "data")}
    roots.clear()
    ood._known(prepare_evaluation(validated(OodSpec, settings(here, data_root=str(here / "given")))))
    assert set(roots) == {str(here / "given")}


def test_the_models_are_found_again_from_any_folder(here, monkeypatch):
    monkeypatch.chdir(here)
    images = {"ood_datasets": f"folder:{here / 'glyphs'},noise", "trained_on": "digits", "gradients": False}
    named = {"model": "model", "background_model": "model", "batch_sizes": "1,2", "alpha": 0.9}
    work = ood.prepare(validated(OodSpec, settings(here, **images, **named))).evaluation
    for kept in (work.given, work.spec):
        assert kept.model == kept.background_model == str(here / "model")
