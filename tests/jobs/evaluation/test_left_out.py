"""Evaluations of models that were trained without some classes, or on few images of each. No Ray."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glow import FitConfig, Glow, fit, save_checkpoint
from glow.config import GlowConfig
from glow.datasets import open_dataset
from glowctl.errors import SpecError
from glowctl.evaluation import interpolate, nll, ood, sample
from glowctl.evaluation.find_model import find_model
from glowctl.evaluation.run import Evaluation, prepare_evaluation
from glowctl.outputs import KeptRun, remember
from glowctl.specs.base import validated
from glowctl.specs.evaluation import InterpolateSpec, NllSpec, OodSpec, SampleSpec
from glowctl.specs.training import make_train_spec
from glowctl.training.samples import GRID, draw_samples
from tests.jobs.evaluation.small_model import SHAPE, save_model, where
from tests.jobs.evaluation.test_encoder import save_encoder

TRAINED_ON = [0, 1, 3, 4, 5, 6]
"""The classes of `conditional`, which was trained without 2, 7, 8 and 9."""


def write_photos(folder: Path, counts: dict[str, dict[str, int]]) -> None:
    """Write so many random images of 8x8 for each split and class."""
    rng = np.random.default_rng(0)
    for split, classes in counts.items():
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(rng.integers(0, 256, SHAPE[1:], np.uint8))
                image.save(folder / split / name / f"{index:02}.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with photos, and a model that was trained there on 4 photos per class, without the cats."""
    counts = {"train": 6, "validation": 20, "test": 8}
    write_photos(tmp_path / "photos", {split: dict.fromkeys(("cat", "dog", "owl"), n) for split, n in counts.items()})
    results = tmp_path / "outputs/abc/results"
    save_model(results)
    given = make_train_spec("smoke", {"dataset": "folder:photos", "leave_out": "cat", "per_class": 4})
    (results / "spec.json").write_text(given.to_json())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(here: Path, **more: object) -> dict[str, object]:
    return {"model": str(here / "outputs/abc/results/checkpoint"), **where(here), **more}


def labels_of(work: Evaluation, name: str, split: str) -> list[int]:
    return work.opened(name, split).labels.bincount(minlength=3).tolist()


@pytest.mark.parametrize("place", ["photos", "./photos", "moved", "a link", "photos/../photos"])
def test_the_classes_of_the_training_count_wherever_the_images_are(here, place):
    if place == "moved":
        shutil.move(here / "photos", here / "moved")
    if place == "a link":
        (here / place).symlink_to("photos")
    name = f"folder:{place}"
    spec = validated(OodSpec, settings(here, trained_on=name, ood_datasets="noise", batch_sizes="1", alpha=0.9))
    work = ood.prepare(spec)
    sizes = {(table.dataset, table.split): len(table.images) for table in work.evaluation.tables}
    assert sizes[work.own, "train"] == 2 * 4
    assert sizes[work.own, "validation"] == 2 * 20
    assert sizes[work.own, "test"] == 2 * 8
    left_out = work.others[0]
    assert left_out.endswith("-left-out")
    assert sizes[left_out, "test"] == 8
    if place != "moved":
        scored = nll.prepare(validated(NllSpec, settings(here, datasets=name)))
        assert [len(table.images) for table in scored.evaluation.tables] == [2 * 8]


def test_other_data_sets_keep_all_their_classes(here):
    write_photos(here / "others", {"test": {"cat": 5, "dog": 5}})
    work = prepare_evaluation(validated(NllSpec, settings(here, trained_on="folder:photos")))
    assert labels_of(work, f"folder:{here}/others", "test") == [5, 5, 0]


def test_a_data_set_without_the_classes_of_the_training_is_refused(here):
    write_photos(here / "others", {"test": {"dog": 5, "owl": 5}})
    name = f"folder:{here}/others"
    work = prepare_evaluation(validated(NllSpec, settings(here, trained_on=name)))
    with pytest.raises(SpecError, match=r"'cat'.*--trained-on") as refused:
        work.opened(name, "test")
    assert refused.value.code == "trained-on-unfit"


def test_relative_paths_of_a_training_start_where_it_ran(here, tmp_path_factory, monkeypatch):
    """Without a run.json, and if its paths are gone, they start in the present folder."""

    def dataset() -> str:
        training = find_model(str(here / "outputs/abc/results"), f"sqlite:///{here}/mlflow.db", "glow").training
        assert training is not None
        assert (training.leave_out, training.per_class) == (("cat",), 4)
        return training.dataset

    assert dataset() == f"folder:{here / 'photos'}"
    spec = json.loads((here / "outputs/abc/results/spec.json").read_text())
    kept = spec | {"dataset": f"folder:{here / 'photos'}"}
    remember(str(here / "outputs/abc"), KeptRun(job="train", run_id="abc", run_name="x", spec=kept, images={}))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert dataset() == f"folder:{here / 'photos'}"
    shutil.rmtree(here / "photos")
    assert dataset() == f"folder:{elsewhere / 'photos'}"


def pairs_of(here: Path, counts: dict[str, int], **more: object) -> interpolate.InterpolateWork:
    write_photos(here / "few", {"test": counts})
    spec = make_train_spec("smoke", {"dataset": f"folder:{here / 'few'}", "leave_out": "owl"})
    (here / "outputs/abc/results/spec.json").write_text(spec.to_json())
    return interpolate.prepare(validated(InterpolateSpec, settings(here, **more)))


def test_classes_with_fewer_than_two_test_images_have_no_pairs(here):
    write_photos(here / "few", {"train": {"ant": 2}})
    work = pairs_of(here, {"bee": 3, "cat": 1, "dog": 2, "owl": 4})
    assert work.pairs["class_name"].tolist() == ["bee", "dog"]
    (note,) = work.evaluation.notes
    assert note.startswith("2 classes")
    assert note.endswith(": ant, cat")


@pytest.mark.parametrize(
    ("counts", "facts"),
    [
        (
            {"bee": 7, "cat": 1, "dog": 5, "owl": 9},
            ["--pairs-per-class 3", "'dog' has 5", "--pairs-per-class 2 or"],
        ),
        ({"bee": 1, "cat": 1, "owl": 9}, ["no class", "--from", "--to"]),
    ],
)
def test_too_many_pairs_are_refused_with_a_number_that_is_possible(here, counts, facts):
    with pytest.raises(SpecError) as refused:
        pairs_of(here, counts, pairs_per_class=3)
    assert refused.value.code == "too-few-images"
    for fact in facts:
        assert fact in str(refused.value)


@pytest.fixture(scope="module", params=[None, 0.9], ids=["weights", "average"])
def conditional(request):
    """A class-conditional model of the digits, trained for three steps without some classes."""
    digits = open_dataset("digits", "train").of_classes(["2", "7", "8", "9"], others=True)
    torch.manual_seed(0)
    model = Glow(GlowConfig(image_shape=SHAPE, levels=1, depth=1, width=4, num_classes=10))
    config = FitConfig(epochs=1, batch_size=64, ema=request.param)
    fit(model, digits.images(0, 192), digits.labels[:192], config=config)
    return model


def test_samples_are_of_classes_that_the_model_was_trained_on(conditional, monkeypatch):
    assert conditional.trained_classes.tolist() == TRAINED_ON
    drawn: list[torch.Tensor] = []

    def sample_real(n, temperature, generator, labels):
        drawn.append(labels)
        return torch.zeros(n, *SHAPE)

    monkeypatch.setattr(conditional, "sample_real", sample_real)
    draw_samples(conditional, 1, 0.7, open_dataset("digits", "validation"))
    labels = sample._labels(torch.arange(GRID), GRID, conditional.trained_classes, None)
    for found in (labels, *drawn):
        assert found.unique().tolist() == TRAINED_ON
        assert found.bincount()[TRAINED_ON].min() == GRID // len(TRAINED_ON)
    assert sample._labels(torch.arange(2), 2, conditional.trained_classes, 3).tolist() == [3, 3]


@pytest.mark.parametrize("known", [{}, {"trained_on": "digits"}])
def test_a_class_that_was_left_out_is_refused(conditional, tmp_path, known):
    save_checkpoint(conditional, tmp_path / "checkpoint")
    values = {"model": str(tmp_path / "checkpoint"), **where(tmp_path), **known}
    with pytest.raises(SpecError, match=r"--class 7.*use one of 0, 1, 3, 4, 5, 6$") as refused:
        sample.prepare(validated(SampleSpec, values | {"only_class": "7"}))
    assert refused.value.code == "class-untrained"
    assert sample.prepare(validated(SampleSpec, values | {"only_class": "3"})).label == 3


def test_with_an_encoder_held_out_images_of_left_out_classes_recommend_and_are_not_tested(here):
    asked = settings(here, ood_datasets="noise", batch_sizes="1", alpha=0.9)
    content = {"encoder": save_encoder(here / "encoder.pt"), "encoder_size": 8}
    without, work = (ood.prepare(validated(OodSpec, asked | more)) for more in ({}, content))
    left_out = "folder-photos-left-out"
    tables = {(table.dataset, table.split): table for table in work.evaluation.tables}
    assert len(tables[left_out, "validation"].images) == 20
    assert len(tables[left_out, "test"].images) == 8
    assert set(tables) - {(each.dataset, each.split) for each in without.evaluation.tables} == {
        (left_out, "validation")
    }
    assert work.evaluation.features is not None
    assert [table.fingerprint for table in work.evaluation.features.tables] == [
        each.fingerprint for each in tables.values()
    ]
    assert work.others == without.others
