"""Tests of the preparation of trainings: their data, and the notes on them in the record. No Ray starts."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glow.datasets import DatasetCorrupt, describe, open_dataset
from glowctl.ablation.prepare import prepare as prepare_ablation
from glowctl.errors import SpecError
from glowctl.outputs import Found
from glowctl.packing.plan import prepare as plan_packing
from glowctl.packing.run import pack_shards
from glowctl.run_labels import training_description
from glowctl.specs.ablation import AblateSpec
from glowctl.specs.base import colour, validated
from glowctl.specs.request import PackSpec
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record
from glowctl.training.prepare import prepare
from tests.glow.buckets import png
from tests.jobs.glyphs import write_glyphs


@pytest.fixture
def glyphs(tmp_path):
    """Make twenty images of 8x8 whose glyph is in the alpha channel, over black, and one image in colour."""
    folder = tmp_path / "glyphs/a"
    write_glyphs(folder, 20, grey=0)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "colour.png")
    return f"folder:{tmp_path / 'glyphs'}"


def prepared(dataset, tmp_path, **settings):
    where = {"output": str(tmp_path / "out"), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    return prepare(make_train_spec("smoke", {"dataset": dataset, **settings, **where}))


def test_the_background_is_what_transparent_images_are_laid_over(glyphs, tmp_path):
    white, black, blue = (
        prepared(glyphs, tmp_path, **given).splits["train"].images().numpy()
        for given in ({}, {"background": "black"}, {"background": "0, 0,255"})
    )
    assert set(np.unique(white)) == {0, 1, 2, 3, 255}
    assert set(np.unique(black)) == {0, 1, 2, 3}
    assert set(np.unique(blue)) == {0, 1, 2, 3, 29}  # grey images get the luminance of the background


@pytest.fixture
def packed(tmp_path):
    """Pack a data set with a black background, as its index says."""
    digits = pack_digits(tmp_path, background="0,0,0")
    return f"packed:{digits}"


def pack_digits(tmp_path, **settings):
    plan = plan_packing(validated(PackSpec, {"source": "digits", "dest": str(tmp_path / "packed"), **settings}))
    plan.begin()
    for shard in plan.shards:
        batch = {name: np.array([value]) for name, value in plan.task(shard).items()}
        assert pack_shards(batch, plan.spec, plan.info.image_shape)["problem"] == [""]
    plan.complete()
    return tmp_path / "packed"


@pytest.mark.parametrize("given", [{}, {"background": "black"}])
def test_a_training_on_packed_images_records_their_background_for_evaluations(packed, tmp_path, given):
    work = prepared(packed, tmp_path, **given)
    assert {colour(spec.background) for spec in (work.spec, work.given)} == {(0, 0, 0)}
    assert any("0,0,0" in note for note in work.notes)
    assert prepared(work.spec.dataset, tmp_path, background=work.spec.background).notes == work.notes
    ablation = prepare_ablation(AblateSpec(train=work.spec.model_copy(update={"background": "white", **given})))
    for spec in (ablation.given, ablation.spec):
        assert colour(spec.trial_spec(spec.trials()[0]).background) == (0, 0, 0)


def test_another_background_than_that_of_packed_images_is_refused(packed, tmp_path):
    with pytest.raises(SpecError, match=r"--background 9,9,9: packed:.* --background 0,0,0.*: .*pack") as raised:
        prepared(packed, tmp_path, background="9,9,9")
    assert raised.value.code == "background-differs"
    index = tmp_path / "packed" / "packed.json"
    said = json.loads(index.read_text())
    del said["made_with"]["background"]  # not known
    index.write_text(json.dumps(said))
    assert prepared(packed, tmp_path, background="9,9,9").notes == ()


def test_the_advice_to_pack_has_the_background(glyphs, tmp_path):
    with pytest.raises(SpecError, match=r"--image-size 8 --background 0,0,255,") as raised:
        prepared(glyphs, tmp_path, background="0, 0,255", image_size=8, images_in="files")
    assert raised.value.code == "not-packed"


def test_what_to_know_of_the_data_is_in_the_record(glyphs, tmp_path):
    work = prepared(glyphs, tmp_path, background="black", image_size=8)
    folder = glyphs.removeprefix("folder:")
    colours, transparency = work.notes
    assert all(fact in colours for fact in ("20", f"{folder}/a/00.png", "1", f"{folder}/a/colour.png"))
    assert all(fact in transparency for fact in ("20", f"{folder}/a/00.png", "0, 0, 0"))
    assert work.tags()["glow.notes"].splitlines() == list(work.notes)
    assert work.params()["background"] == "black"
    page = training_description(work.spec, "0" * 32, notes=work.notes)
    assert page.endswith(f"**Data:**\n- {work.notes[0]}\n- {work.notes[1]}")


def test_data_that_are_as_they_should_be_need_no_note(tmp_path):
    work = prepared("digits", tmp_path)
    assert work.notes == ()
    assert "glow.notes" not in work.tags()
    assert "Data:" not in training_description(work.spec, "0" * 32, notes=work.notes)


def test_files_other_than_the_published_are_noted_once(tmp_path):
    raw = tmp_path / "KMNIST/raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 100), ("t10k", 10)):
        sizes = [count.to_bytes(4, "big"), (28).to_bytes(4, "big"), (28).to_bytes(4, "big")]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"".join(sizes) + bytes(count * 784))
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[0] + labels)
    train, test = prepared("kmnist", tmp_path, data_root=str(tmp_path)).notes
    assert all(fact in train for fact in ("kmnist", "train-images-idx3-ubyte", "100 images", "60000"))
    assert all(fact in test for fact in ("kmnist", "t10k-images-idx3-ubyte", "MD5"))


def test_splits_that_share_a_file_are_refused(glyphs, tmp_path):
    (tmp_path / "own").mkdir()
    for split in ("train", "test"):
        (tmp_path / "own" / split).symlink_to(tmp_path / "glyphs")
    with pytest.raises(SpecError) as error:
        prepared(f"folder:{tmp_path / 'own'}", tmp_path)
    assert all(f"own/{split}" in str(error.value) for split in ("train", "test"))


def test_a_file_that_is_added_while_a_training_is_prepared_puts_no_image_into_two_splits(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for grey in range(100, 200):
        Image.new("L", (8, 8), grey).save(folder / f"{grey}.png")
    new = iter(range(100))

    def adding(opened):
        Image.new("L", (8, 8), (grey := next(new))).save(folder / f"{grey:03}.png")  # the first of all paths
        return opened

    monkeypatch.setattr("glowctl.training.prepare.describe", lambda *a, **k: adding(describe(*a, **k)))
    monkeypatch.setattr("glowctl.training.data.open_dataset", lambda *a, **k: adding(open_dataset(*a, **k)))
    splits = prepared(f"folder:{folder}", tmp_path).splits
    assert next(new) == 4  # one file after the description and one after each split
    greys = [grey for images in splits.values() for grey in images.images()[:, 0, 0, 0].tolist()]
    assert sorted(greys) == list(range(100, 200))


def test_parquet_images_of_another_size_are_converted_only_to_an_image_size(tmp_path):
    sizes = [(8, 8)] * 39 + [(12, 12)]
    pixels = [png(np.zeros(size, np.uint8)) for size in sizes]
    pq.write_table(pa.table({"image": pixels}), tmp_path / "photos.parquet")
    name = f"parquet:{tmp_path / 'photos.parquet'}"
    with pytest.raises(DatasetCorrupt, match=r"row 39 .*12x12") as raised:
        prepared(name, tmp_path)
    assert raised.value.code == "image-size"
    assert prepared(name, tmp_path, image_size=8).config.image_shape == (1, 8, 8)


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr("glowctl.training.data.memory_left", lambda: 1000)


def test_images_that_exceed_the_free_memory_are_refused_with_both_ways_out(glyphs, tmp_path, no_memory):
    with pytest.raises(SpecError, match=r"glowctl pack folder:.*--images-in memory") as raised:
        prepared(glyphs, tmp_path, image_size=8)
    assert raised.value.code == "images-exceed-memory"


def test_images_are_held_whatever_memory_is_free_if_the_user_says_so(glyphs, packed, tmp_path, no_memory):
    for dataset, size in ((glyphs, 8), (packed, None)):
        work = prepared(dataset, tmp_path, image_size=size, images_in="memory")
        assert all(images.in_memory is not None for images in work.splits.values())


@pytest.mark.parametrize(
    ("settings", "share"),
    [({"warmup_steps": 300, "epochs": 8}, "14 %"), ({"warmup_steps": 10, "epochs": 8}, None)],
    ids=["the warm-up is longer than the training", "the warm-up is short"],
)
def test_a_training_that_stays_below_its_learning_rate_says_so(tmp_path, settings, share):
    work = prepared("digits", tmp_path, **settings)
    steps = settings["epochs"] * math.ceil(len(work.splits["train"]) / 64)
    notes = [note for note in work.to_tell if "learning rate" in note]
    if share is None:
        assert notes == []
    else:
        (note,) = notes
        assert all(
            fact in note for fact in (share, "300 warm-up steps", f"{steps} steps", "--warmup-steps", "--epochs")
        )
        kept = work.to_keep(cast(Record, SimpleNamespace(run_id="abc", name="a name")))
        resumed = replace(work, resumed=Found(kept, work.spec.output, "abc", None))
        assert not any("learning rate" in note for note in resumed.to_tell)
