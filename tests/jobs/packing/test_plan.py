"""The plan of a packing, and the checks before anything is written."""

import errno
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from glow.datasets import DatasetNotFound, LazyDataset, files, folder, load_dataset, parquet
from glowctl.display.displays import PlainLines
from glowctl.display.events import Event, Packed
from glowctl.errors import JobError, SpecError
from glowctl.packing import run as packing
from glowctl.packing.plan import Done, Shard, done_file, prepare
from glowctl.packing.run import Readers, pack_shards, readers_for
from glowctl.specs.base import validated
from glowctl.specs.request import PackSpec
from tests.glow.buckets import png, refusing_store


def planned(source: str, dest: str | Path, **settings):
    """Plan a packing as a new command does, whose processes have not opened the source yet."""
    packing._source.cache_clear()
    packing._known.cache_clear()
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
    with pytest.raises(JobError, match=f"{tmp_path}/packed .*: .*DEST") as caught:
        planned("digits", tmp_path / "packed").begin()
    assert caught.value.code == "dest-not-empty"
    assert (tmp_path / "packed" / "mine.txt").read_text() == "precious"


def test_a_packing_is_not_continued_with_other_settings(tmp_path):
    planned("digits", tmp_path / "packed").begin()
    planned("digits", tmp_path / "packed").begin()  # continues
    with pytest.raises(JobError, match=f"{tmp_path}/packed .*DEST") as caught:
        planned("digits", tmp_path / "packed", image_size=16).begin()
    assert caught.value.code == "packing-differs"


def test_after_a_damaged_image_a_packing_is_continued_with_skip_or_a_good_copy(photos, tmp_path):
    def again(dest, **settings):
        plan = planned(f"folder:{photos.parent}", tmp_path / dest, shard_size=8, **settings)
        plan.begin()
        return plan

    good = (photos / "05.png").read_bytes()
    whole = [
        shard for shard in again("skipped").shards if shard not in {Shard("train", n, 8 * n, 8 * n + 8) for n in (0, 5)}
    ]
    for dest in ("skipped", "replaced"):
        write(again(dest), whole)
        row = packed(again(dest), Shard("train", 0, 0, 8))
        assert row["code"] == "image-damaged"
        assert "copy" in row["remedy"].partition("--on-error skip")[0]
        assert "remove" not in row["remedy"]
    skip = again("skipped", on_error="skip")
    assert set(skip.done()) == set(whole)
    write(skip, set(skip.shards) - set(whole))
    assert len(again("skipped", on_error="skip").done()) == len(skip.shards)
    assert set(again("skipped").done()) == set(whole)  # without skip, nothing may be left out
    assert skip.complete().left_out == 2
    for name in ("03.png", "40.png"):
        (photos / name).write_bytes(good)
    replaced = again("replaced")
    write(replaced, set(replaced.shards) - set(replaced.done()))
    assert replaced.complete().left_out == 0


def test_a_packing_is_not_continued_with_shards_of_another_size(tmp_path):
    """The first shard is the same at both sizes, because it holds the whole split."""
    for split, images in {"train": 10, "test": 50}.items():
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((images, 8, 8), np.uint8))
    dest, file = tmp_path / "packed", tmp_path / "packed" / "packing.json"
    plan = planned(f"arrays:{tmp_path}", dest, shard_size=20)
    plan.begin()
    write(plan, plan.shards[:3])
    other = planned(f"arrays:{tmp_path}", dest, shard_size=40)
    assert other.shards[0] == plan.shards[0]
    with pytest.raises(JobError) as caught:
        other.begin()
    assert caught.value.code == "packing-differs"
    plan.begin()
    assert set(plan.done()) == set(plan.shards[:3])
    file.write_text("{")
    with pytest.raises(JobError) as caught:
        plan.begin()
    assert caught.value.code == "packing-differs"


def test_a_packing_whose_files_were_removed_says_so(photos, tmp_path):
    planned(f"folder:{photos.parent}", tmp_path / "packed").begin()
    (photos / "03.png").unlink()
    with pytest.raises(JobError, match=r"\b65 images, .*\b64\b.*: .*--on-error skip.*DEST") as caught:
        planned(f"folder:{photos.parent}", tmp_path / "packed").begin()
    assert caught.value.code == "packing-differs"


def test_a_shard_is_done_when_its_facts_are_written_whole(tmp_path):
    plan = planned("digits", tmp_path / "packed", shard_size=1000, on_error="skip")
    plan.begin()
    shard = plan.shards[0]
    file = tmp_path / "packed" / done_file(shard)
    said = {"images": 1000, "fingerprint": "0" * 16, "left_out": [[3, "damaged"]], "source": None}
    file.write_text(json.dumps(said)[:20])
    assert plan.done() == {}
    file.write_text(json.dumps(said))
    assert plan.done() == {shard: Done(1000, "0" * 16, [(3, "damaged")], None)}
    assert shard == Shard("train", 0, 0, 1000)


@pytest.mark.parametrize(
    ("source", "settings", "fact"),
    [
        ("packed:/data/set", {}, "packed:/data/set .*: .*--dataset packed:/data/set"),
        ("mnst", {}, r"'mnst' .*\bmnist"),
        ("digits", {"shard_size": 0}, r"--shard-size .*\b0\b"),
        ("digits", {"on_error": "ignore"}, "--on-error"),
        ("digits", {"background": "pink"}, "--background .*pink"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, source, settings, fact):
    with pytest.raises(SpecError, match=fact):
        planned(source, tmp_path / "packed", **settings)


def test_a_bucket_can_be_the_destination_and_is_continued(bucket):
    dest = bucket.uri("digits")
    plan = planned("digits", dest, shard_size=500)
    plan.begin()
    first, *others = plan.shards
    write(plan, [first])
    assert set(planned("digits", dest, shard_size=500).done()) == {first}
    with pytest.raises(JobError) as caught:
        planned("digits", dest, image_size=16).begin()
    assert caught.value.code == "packing-differs"
    write(plan, others)
    index = plan.complete()
    for split in ("train", "validation", "test"):
        images, labels = load_dataset(f"packed:{dest}", split)
        expected, expected_labels = load_dataset("digits", split)
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
    shards = sum(len(split.shards) for split in index.splits.values())
    assert len(bucket.keys()) == shards + 3 + 1  # the labels of each split, and the index
    with pytest.raises(JobError) as caught:
        planned("digits", dest)
    assert caught.value.code == "already-packed"


def write(plan, shards, threads=2):
    """Write shards as the tasks of Ray Data do, in this process."""
    for shard in shards:
        assert packed(plan, shard, threads)["problem"] == ""


def packed(plan, shard, threads=2, looks=None):
    """Write a shard, and return the row that the task of Ray Data would."""
    batch = {name: np.array([value]) for name, value in plan.task(shard).items()}
    row = pack_shards(batch, plan.spec, plan.info.image_shape, threads, looks)
    return {name: column[0] for name, column in row.items()}


def test_a_bucket_that_refuses_is_named_with_the_cause(monkeypatch, bucket):
    plan = planned("digits", bucket.uri("digits"))
    with refusing_store(monkeypatch) as uri:
        refused = replace(plan, spec=plan.spec.model_copy(update={"dest": f"{uri}/digits"}))
        for refuse in (refused.begin, refused.done, lambda: planned("digits", f"{uri}/digits")):
            with pytest.raises(DatasetNotFound, match=f"{uri}/digits .*(?i:denied)") as caught:
                refuse()
            assert caught.value.code == "bucket-unreachable"


def test_images_that_do_not_fit_on_the_disk_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.packing.plan.shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000}))
    with pytest.raises(JobError, match=rf"0 MB, .*{tmp_path} .*0 MB .*: .*--image-size") as caught:
        planned("digits", tmp_path / "packed")
    assert caught.value.code == "disk-full"


def test_a_destination_that_is_packed_already_is_refused(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "packed.json").write_text("{}")
    with pytest.raises(JobError, match=f"--dataset packed:{tmp_path}/packed") as caught:
        planned("digits", tmp_path / "packed")
    assert caught.value.code == "already-packed"


@pytest.mark.parametrize(("on_error", "advised"), [("refuse", True), ("skip", False)])
def test_a_damaged_source_is_refused_with_the_flag_that_skips_it(tmp_path, on_error, advised):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(JobError, match=r"a\.png") as caught:
        planned(f"folder:{tmp_path}/photos", tmp_path / "packed", on_error=on_error)
    assert caught.value.code == "image-damaged"
    assert ("--on-error skip" in caught.value.remedy) == advised


@pytest.fixture
def photos(tmp_path):
    """Make a folder of 64 images of 8x8, of which numbers 3 and 40 have damaged pixels; all are in train."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    for index in range(64):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(folder / f"{index:02}.png")
    for index in (3, 40):
        damage(folder / f"{index:02}.png")
    (tmp_path / "photos" / "validation").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "validation" / "0.png")
    return folder


def damage(file):
    """Cut a PNG file within its pixels, which its header does not show."""
    file.write_bytes(file.read_bytes()[:50])


def test_only_damaged_images_are_skipped_and_the_others_are_read_together(photos, tmp_path, monkeypatch):
    plan = planned(f"folder:{photos.parent}", tmp_path / "packed", on_error="skip")
    plan.begin()
    asked = []
    images = LazyDataset.images

    def counted(self, *span):
        asked.append(span)
        return images(self, *span)

    monkeypatch.setattr(LazyDataset, "images", counted)
    write(plan, plan.shards)
    assert len(asked) <= 9 + 2 * 2 * 3  # nine pieces, and two spans in each of three halvings for each damaged image
    monkeypatch.undo()
    index = plan.complete()
    assert index.left_out == 2
    names = [Path(line.split(" ")[0]).name for line in (tmp_path / "packed/left-out.txt").read_text().splitlines()]
    assert names == ["03.png", "40.png"]
    found, _ = load_dataset(f"packed:{tmp_path}/packed", "train")
    assert found[:, 0, 0, 0].tolist() == [index for index in range(64) if index not in (3, 40)]


@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_a_file_that_the_system_cannot_read_ends_the_packing(photos, tmp_path, on_error, monkeypatch):
    plan = planned(f"folder:{photos.parent}", tmp_path / "packed", on_error=on_error, shard_size=8)
    plan.begin()
    real = Path.open

    def open_on_a_failing_disk(path, *args, **kwargs):
        if path.name == "01.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_on_a_failing_disk)
    row = packed(plan, plan.shards[0])
    assert row["code"] == "file-unreadable"
    assert "01.png" in row["problem"]
    assert "Input/output error" in row["problem"]
    assert "--on-error" not in row["remedy"]
    assert plan.shards[0] not in plan.done()


def test_memory_that_runs_out_is_no_damaged_image(photos, tmp_path, monkeypatch):
    plan = planned(f"folder:{photos.parent}", tmp_path / "packed", on_error="skip")
    plan.begin()

    def load(image):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        packed(plan, plan.shards[0])


@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_a_parquet_image_of_another_size_is_refused_and_not_left_out(tmp_path, on_error):
    encoded = [png(np.zeros(size, np.uint8)) for size in [(8, 8)] * 9 + [(12, 12)]]
    pq.write_table(pa.table({"image": encoded}), tmp_path / "test.parquet")
    plan = planned(f"parquet:{tmp_path}", tmp_path / "packed", on_error=on_error)
    plan.begin()
    row = packed(plan, plan.shards[0])
    assert row["code"] == "image-size"
    assert "row 9" in row["problem"]
    assert "--on-error" not in row["remedy"]
    write(planned(f"parquet:{tmp_path}", tmp_path / "asked", image_size=8), plan.shards)


def test_parquet_rows_without_an_image_are_left_out_one_by_one(tmp_path):
    good = png(np.zeros((8, 8), np.uint8))
    rows = pa.array([None, good, None, b"no image", good], pa.binary())
    pq.write_table(pa.table({"image": rows}), tmp_path / "test.parquet")
    plan = planned(f"parquet:{tmp_path}", tmp_path / "packed", on_error="skip")
    plan.begin()
    write(plan, plan.shards)
    index = plan.complete()
    assert (index.left_out, index.splits["test"].images) == (3, 2)


@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_threads_change_neither_images_nor_fingerprints(photos, tmp_path, on_error):
    if on_error == "refuse":
        for name in ("03.png", "40.png"):
            (photos / name).write_bytes((photos / "05.png").read_bytes())
    written = []
    for threads in (1, 3):
        plan = planned(f"folder:{photos.parent}", tmp_path / f"by-{threads}", on_error=on_error, shard_size=30)
        plan.begin()
        write(plan, plan.shards, threads)
        folder = tmp_path / f"by-{threads}"
        written.append({path.name: path.read_bytes() for path in folder.iterdir() if path.name != "packing.json"})
    assert written[0] == written[1]
    expected, _ = load_dataset(f"folder:{photos.parent}", "validation")
    assert np.array_equal(np.load(tmp_path / "by-3" / "validation-00000.npy"), expected.numpy())


def test_several_threads_decode_a_shard(photos, tmp_path, monkeypatch):
    plan = planned(f"folder:{photos.parent}", tmp_path / "packed", on_error="skip")
    plan.begin()
    together = threading.Barrier(2, timeout=60)  # raises BrokenBarrierError unless two threads are there at once
    images = LazyDataset.images

    def met(self, *span):
        if span[0] in (8, 16):
            together.wait()
        return images(self, *span)

    monkeypatch.setattr(LazyDataset, "images", met)
    write(plan, plan.shards, threads=2)
    assert set(plan.done()) == set(plan.shards)


def half_packed(source, dest, **settings):
    """Begin a packing, write its first shard, and return the plan of the command that continues it."""
    plan = planned(source, dest, **settings)
    plan.begin()
    write(plan, plan.shards[:1])
    return planned(source, dest, **settings)


@pytest.fixture
def flat(tmp_path):
    """Make a folder of 100 images of 8x8 without splits; the grey of each is its number plus 100."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(100):
        Image.new("L", (8, 8), number + 100).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.parametrize("change", ["added", "removed", "exchanged"])
def test_a_process_that_finds_other_files_than_the_driver_packs_nothing(flat, tmp_path, change):
    plan = planned(f"folder:{flat}", tmp_path / "packed", shard_size=10)
    plan.begin()
    if change == "added":
        Image.new("L", (8, 8)).save(flat / "000-new.png")
    elif change == "removed":
        (flat / "000.png").unlink()
    else:
        for file in flat.iterdir():
            os.utime(file)
    for shard in plan.shards:
        row = packed(plan, shard)
        if row["code"]:
            assert row["code"] == "source-changed"
            assert f"images {shard.start} to {shard.stop - 1} of {shard.split}" in row["problem"]
    greys = [grey for file in (tmp_path / "packed").glob("*-0*.npy") for grey in np.load(file)[:, 0, 0, 0].tolist()]
    assert len(greys) == len(set(greys))  # no image is in two splits
    assert len(greys) <= 20
    with pytest.raises(JobError) as caught:
        plan.complete()
    assert caught.value.code == "shards-missing"


def test_a_process_takes_over_the_listing_of_a_folder_and_looks_up_its_files_again(flat, tmp_path, monkeypatch):
    plan = planned(f"folder:{flat}", tmp_path / "packed", shard_size=5)
    plan.begin()
    in_store = object()
    monkeypatch.setattr(packing.ray, "get", {in_store: plan.looks}.get)
    monkeypatch.setattr(folder, "folder_files", Mock(side_effect=AssertionError("listed again")))
    Image.new("L", (8, 8)).save(flat / "000-new.png")  # would move images to other positions in a new listing
    first, *others = plan.shards
    assert packed(plan, first, looks=in_store)["code"] == ""
    for file in flat.iterdir():
        os.utime(file)  # after this process has opened the source
    for shard in others:
        assert packed(plan, shard, looks=in_store)["code"] == "source-changed"


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_file_that_is_gone_from_a_listing_that_was_taken_over_is_named(flat, tmp_path, monkeypatch, kind):
    place = flat
    if kind == "parquet":
        place = tmp_path / "tables"
        place.mkdir()
        encoded = [file.read_bytes() for file in sorted(flat.iterdir())]
        pq.write_table(pa.table({"image": encoded}), place / "000.parquet")
    plan = planned(f"{kind}:{place}", tmp_path / "packed", shard_size=5)
    plan.begin()
    in_store = object()
    monkeypatch.setattr(packing.ray, "get", {in_store: plan.looks}.get)
    parquet._opened.cache_clear()  # as in another process
    gone = sorted(place.iterdir())[0]
    gone.unlink()
    said = [packed(plan, shard, looks=in_store) for shard in plan.shards]
    [row] = {row["problem"]: row for row in said if row["code"]}.values()
    assert str(gone) in row["problem"]
    assert row["code"] in {"file-unreadable", "file-gone"}


def test_a_packing_of_shards_from_two_listings_is_not_completed(flat, tmp_path):
    """Another command at the same time, such as on another machine with the same bucket, has listed the files later."""
    plan = planned(f"folder:{flat}", tmp_path / "packed", shard_size=10)
    plan.begin()
    write(plan, plan.shards)
    for file in flat.iterdir():
        os.utime(file)
    other = planned(f"folder:{flat}", tmp_path / "packed", shard_size=10)
    write(other, other.shards[:1])
    with pytest.raises(JobError) as caught:
        plan.complete()
    assert caught.value.code == "source-changed"
    assert not (tmp_path / "packed" / "packed.json").exists()


@pytest.fixture
def in_this_process(monkeypatch):
    """Packings write their shards in this process, without Ray Data."""
    monkeypatch.setattr(packing, "_written", lambda plan, missing: (packed(plan, shard) for shard in missing))


@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_image_is_refused_by_name_or_left_out_and_counted(photos, tmp_path):
    source, events = f"folder:{photos.parent}", list[Event]()
    with pytest.raises(JobError, match=r"03\.png") as caught:
        packing.run(planned(source, tmp_path / "refused"), events.append)
    assert caught.value.code == "image-damaged"
    assert "--on-error skip" in caught.value.remedy
    packing.run(planned(source, tmp_path / "skipped", on_error="skip"), events.append)
    assert isinstance(events[-1], Packed)
    assert (sum(events[-1].images.values()), events[-1].left_out) == (63, 2)
    assert re.search(r"^left out +2 files", PlainLines().text(events[-1]) or "", re.MULTILINE)


@pytest.mark.usefixtures("in_this_process")
def test_a_source_that_can_no_longer_be_opened_ends_the_packing(photos, tmp_path):
    plan = planned(f"folder:{photos.parent}", tmp_path / "packed", shard_size=8)
    (photos / "class").mkdir()
    Image.new("L", (8, 8)).save(photos / "class" / "0.png")  # next to images without a class
    with pytest.raises(JobError, match="images next to these folders") as caught:
        packing.run(plan, lambda event: None)
    assert caught.value.code == "image-unreadable"


def check_source_changed(plan, *facts):
    with pytest.raises(JobError) as caught:
        plan.begin()
    assert caught.value.code == "source-changed"
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_was_exchanged_after_it_was_packed_is_refused(photos, tmp_path, change):
    source, dest = f"folder:{photos.parent}", tmp_path / "packed"
    half_packed(source, dest, shard_size=3).begin()  # nothing has changed
    file = photos / "01.png"
    if change == "size":
        status = file.stat()
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    plan = planned(source, dest, shard_size=3)
    first = done_file(plan.shards[0])
    check_source_changed(plan, "images 0 to 2 of train", f"remove {first}")
    (dest / first).unlink()
    plan.begin()
    assert plan.done() == {}


def test_files_that_are_not_packed_may_be_exchanged(photos, tmp_path):
    source, good = f"folder:{photos.parent}", (photos / "05.png").read_bytes()
    settings = {"shard_size": 8, "on_error": "skip"}
    half_packed(source, tmp_path / "packed", **settings).begin()
    (photos / "40.png").write_bytes(good)  # in a shard that is not written
    (photos / "03.png").write_bytes(good)  # left out of the shard that is written
    plan = planned(source, tmp_path / "packed", **settings)
    plan.begin()
    assert set(plan.done()) == {plan.shards[0]}


def test_exchanged_parquet_files_are_refused(tmp_path):
    def export(value):
        encoded = [png(np.full((8, 8), value, np.uint8))] * 10
        pq.write_table(pa.table({"image": encoded}), tmp_path / "test.parquet")

    export(0)
    plan = half_packed(f"parquet:{tmp_path}/test.parquet", tmp_path / "packed", shard_size=4)
    plan.begin()
    export(1)
    check_source_changed(planned(f"parquet:{tmp_path}/test.parquet", tmp_path / "packed", shard_size=4))


def test_exchanged_files_in_a_bucket_are_refused(bucket, tmp_path):
    for number in range(20):
        bucket.put(f"exchanged/{number:02}.png", png(np.full((8, 8), number, np.uint8)))
    source = f"folder:{bucket.uri('exchanged')}"
    half_packed(source, tmp_path / "packed", shard_size=4).begin()
    for number in range(20):
        bucket.put(f"exchanged/{number:02}.png", png(np.arange(number, number + 64, dtype=np.uint8).reshape(8, 8)))
    check_source_changed(planned(source, tmp_path / "packed", shard_size=4), "of train")


def test_the_files_of_a_folder_are_listed_and_their_headers_read_once(photos, tmp_path, monkeypatch):
    walk, survey = Mock(wraps=files.walk), Mock(wraps=folder._survey)
    monkeypatch.setattr(files, "walk", walk)
    monkeypatch.setattr(folder, "_survey", survey)
    for settings in ({"image_size": 8}, {}):
        planned(f"folder:{photos.parent}", tmp_path / "packed", **settings)
        assert sorted(call.args[0].name for call in walk.call_args_list) == ["train", "validation"]
        assert survey.call_count == 1
        walk.reset_mock()
        survey.reset_mock()


def test_parquet_files_are_listed_and_their_footers_read_once(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = {"image": [png(np.full((8, 8), value, np.uint8)) for value in range(20)], "label": [0, 1] * 10}
        pq.write_table(pa.table(rows), tmp_path / f"data/{split}.parquet")
    listed, at = Mock(wraps=parquet.parquet_files), Mock(wraps=parquet.Table.at)
    monkeypatch.setattr(parquet, "parquet_files", listed)
    monkeypatch.setattr(parquet.Table, "at", at)
    planned(f"parquet:{tmp_path}/data", tmp_path / "packed")
    assert listed.call_count == 1
    assert sorted(call.args[0].name for call in at.call_args_list) == ["test.parquet", "train.parquet"]


@pytest.mark.parametrize(
    ("cores", "most", "shards", "expected"),
    [
        ([2], None, 4, Readers(1, 2)),
        ([2], 1, 4, Readers(1, 1)),
        ([1, 1], None, 9, Readers(2, 1)),
        ([64], None, 100, Readers(16, 4)),
        ([5], None, 100, Readers(1, 5)),
        ([6, 6], None, 100, Readers(4, 3)),
        ([16], None, 2, Readers(2, 8)),
        ([64], None, 1, Readers(1, 8)),
        ([0, 4, 1], None, 100, Readers(5, 1)),
        ([8], 3, 100, Readers(1, 3)),
        ([0], None, 3, Readers(1, 1)),
    ],
)
def test_processes_use_the_cores(cores, most, shards, expected):
    found = readers_for([{"CPU": float(each)} for each in cores], most, shards)
    assert found == expected
    assert found.threads == expected.cores + 1
