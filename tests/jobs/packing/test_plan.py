"""What is checked before anything is packed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.errors import JobError, SpecError
from jobs.packing.plan import Done, Shard, done_file, prepare
from jobs.specs.base import validated
from jobs.specs.packing import PackSpec


def planned(source: str, dest: Path, **settings):
    return prepare(validated(PackSpec, {"source": source, "dest": str(dest), **settings}))


def test_shards_cover_every_split_in_order(tmp_path):
    plan = planned("digits", tmp_path / "packed", shard_size=100)
    for split, dataset in plan.datasets.items():
        of = [shard for shard in plan.shards if shard.split == split]
        assert [shard.number for shard in of] == list(range(len(of)))
        assert [shard.start for shard in of] == list(range(0, len(dataset), 100))
        assert of[-1].stop == len(dataset)
    assert plan.images == 1797


def test_shards_hold_what_32_megabytes_do_by_default(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((300, 3, 256, 256), np.uint8))
    plan = planned(f"arrays:{tmp_path}/set.npz", tmp_path / "packed")
    assert plan.shards[0].stop == 32 * 2**20 // (3 * 256 * 256)


def test_a_destination_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine.txt").write_text("precious")
    with pytest.raises(JobError, match="is not empty: give a DEST that is not there yet"):
        planned("digits", tmp_path / "packed").begin()
    assert (tmp_path / "packed" / "mine.txt").read_text() == "precious"


def test_what_was_begun_with_other_settings_is_not_gone_on_with(tmp_path):
    planned("digits", tmp_path / "packed").begin()
    planned("digits", tmp_path / "packed").begin()  # the same goes on
    with pytest.raises(JobError, match="was begun with other images or settings"):
        planned("digits", tmp_path / "packed", image_size=16).begin()


def test_a_shard_is_done_when_its_facts_are_written_whole(tmp_path):
    plan = planned("digits", tmp_path / "packed", shard_size=1000)
    plan.begin()
    shard = plan.shards[0]
    file = plan.folder / done_file(shard)
    said = {"images": 1000, "fingerprint": "0" * 16, "left_out": [[3, "it is no image"]]}
    file.write_text(json.dumps(said)[:20])
    assert plan.done() == {}
    file.write_text(json.dumps(said))
    assert plan.done() == {shard: Done(1000, "0" * 16, [(3, "it is no image")])}
    assert shard == Shard("train", 0, 0, 1000)


@pytest.mark.parametrize(
    ("source", "settings", "error", "said"),
    [
        ("packed:/data/set", {}, SpecError, "packed:/data/set is packed already: use it by --dataset packed:/data/set"),
        ("mnst", {}, SpecError, "unknown data set 'mnst'"),
        ("digits", {"shard_size": 0}, SpecError, "shard_size must be at least 1, not 0"),
        ("digits", {"on_error": "ignore"}, SpecError, "on_error"),
        ("digits", {"background": "pink"}, SpecError, "background"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence(tmp_path, source, settings, error, said):
    with pytest.raises(error, match=said):
        planned(source, tmp_path / "packed", **settings)


def test_a_bucket_is_no_destination():
    with pytest.raises(SpecError, match="DEST is a folder, not s3://bucket/set"):
        planned("digits", "s3://bucket/set")


def test_images_for_which_the_disk_has_no_room_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.packing.plan.shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000}))
    with pytest.raises(JobError, match=r"the images take 0 MB, and the disk of .* has 0 MB free: make room, or give"):
        planned("digits", tmp_path / "packed")


def test_what_is_packed_already_is_said(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "packed.json").write_text("{}")
    with pytest.raises(JobError, match=r"is a packed data set already: use it by --dataset packed:"):
        planned("digits", tmp_path / "packed")


def test_images_of_different_sizes_need_a_size(tmp_path):
    (tmp_path / "photos").mkdir()
    for index, size in enumerate([8, 8, 9]):
        Image.new("L", (size, size)).save(tmp_path / "photos" / f"{index}.png")
    with pytest.raises(SpecError, match="differ in size"):
        planned(f"folder:{tmp_path}/photos", tmp_path / "packed")
