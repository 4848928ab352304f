"""Data sets in a bucket: folders, Parquet files and packed shards, read from a stand-in for S3."""

import io
import os
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from glow.datasets import DatasetCorrupt, DatasetNotFound, describe, load_dataset, open_dataset, packed, status
from glow.datasets.buckets import BucketFile, BucketFolder, in_threads
from glow.datasets.packed import BLOCK, BlockCache, BucketShards, cache_of_this_machine
from glow.datasets.packed_index import PackedIndex, PackedShard, PackedSplit, labels_file, shard_file, shard_fingerprint
from glow.training.batches import MappedImages
from tests.glow.buckets import png, refusing_store
from tests.refusals import refused

RNG = np.random.default_rng(0)


def images(n, size=(4, 6)):
    return RNG.integers(0, 256, (n, *size), dtype=np.uint8)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def put_packed(bucket, place, sizes, split="train"):
    """A packed data set whose shards have these sizes, and its images."""
    pixels, labels = images(sum(sizes))[:, None], np.arange(sum(sizes)) % 2
    shards, start = [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        bucket.put(f"{place}/{shard_file(split, number)}", npy(pixels[part]))
        shards.append(PackedShard(size, shard_fingerprint(pixels[part], labels[part])))
        start += size
    bucket.put(f"{place}/{labels_file(split)}", npy(labels))
    shape = pixels.shape[1:]
    index = PackedIndex(shape, shape, ("cat", "dog"), {split: PackedSplit(shards)}, source="folder:/photos")
    bucket.put(f"{place}/packed.json", index.to_json().encode())
    return torch.from_numpy(pixels), labels


def test_a_folder_in_a_bucket_has_classes_and_splits_as_one_on_a_disk(bucket):
    cat, dog = images(2)
    for place in ("train/cats/a.png", "test/cats/b.png", "test/.hidden/c.png", "test/notes.txt"):
        bucket.put(f"pets/{place}", png(cat))
    bucket.put("pets/test/dogs/a.png", png(dog))
    bucket.put("pets/readme.md", b"pets")
    name = f"folder:{bucket.uri('pets')}"
    info = describe(name)
    assert (info.class_names, info.splits, info.image_shape) == (
        ("cats", "dogs"), ("train", "validation", "test"), (1, 4, 6)
    )  # fmt: skip
    found, labels = load_dataset(name, "test")
    assert torch.equal(found, torch.from_numpy(np.stack([cat, dog]))[:, None])
    assert labels.tolist() == [0, 1]
    assert status(name).state == "found"


def test_a_flat_folder_in_a_bucket_is_one_class(bucket):
    for number, image in enumerate(images(20)):
        bucket.put(f"flat/{number}.png", png(image))
    assert describe(f"folder:{bucket.uri('flat')}").class_names == ("flat",)
    assert len(open_dataset(f"folder:{bucket.uri('flat')}", "train")) == 14


def test_parquet_files_in_a_bucket_are_read(bucket):
    pixels = images(10)
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": [png(image) for image in pixels]}), stream, row_group_size=4)
    bucket.put("export/test-00000-of-00001.parquet", stream.getvalue())
    expected = torch.from_numpy(pixels)[:, None]
    assert torch.equal(load_dataset(f"parquet:{bucket.uri('export')}", "test")[0], expected)
    one_file = bucket.uri("export/test-00000-of-00001.parquet")
    assert torch.equal(load_dataset(f"parquet:{one_file}", "test")[0], expected)


@pytest.mark.slow
def test_files_of_equal_name_and_size_in_two_folders_are_two_files(bucket):
    """The exports of two data sets often have the same file names."""
    sizes = set()
    for place, grey in (("dark", 10), ("light", 200)):
        stream = io.BytesIO()
        encoded = [png(np.full((4, 6), grey, np.uint8))] * 5
        pq.write_table(pa.table({"image": encoded}), stream, compression="none", use_dictionary=False)
        bucket.put(f"{place}/test-00000-of-00001.parquet", stream.getvalue())
        sizes.add(len(stream.getvalue()))
    assert len(sizes) == 1
    for place, grey in (("dark", 10), ("light", 200)):
        assert load_dataset(f"parquet:{bucket.uri(place)}", "test")[0].unique().tolist() == [grey]


def test_packed_shards_are_read_in_blocks_and_each_block_once(bucket):
    pixels, labels = put_packed(bucket, "packed", [300, 300, 100])
    name = f"packed:{bucket.uri('packed')}"
    dataset = open_dataset(name, "train")
    assert dataset.labels.tolist() == labels.tolist()
    positions = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dataset.pick(positions), pixels[positions])
    assert status(name).state.startswith("partial")  # no other splits
    for number in range(3):
        bucket.client.delete_object(Bucket=bucket.name, Key=f"packed/{shard_file('train', number)}")
    assert torch.equal(open_dataset(name, "train").images(), pixels)  # from the disk
    assert "missing" in status(name).state


def test_training_reads_a_bucket_ahead_of_its_turn(bucket):
    pixels, _ = put_packed(bucket, "packed", [3 * BLOCK])
    dataset = open_dataset(f"packed:{bucket.uri('packed')}", "train").subset(torch.arange(2 * BLOCK))
    source = MappedImages(dataset, labelled=False, device=torch.device("cpu"))
    order = source.order(stream=1)
    shares = [order[start : start + 64] for start in range(0, 2 * BLOCK, 64)]
    found = torch.cat([batch.images_BCHW for batch in source.batches(shares)])
    assert torch.equal(found, pixels[torch.cat(shares)])


def test_shards_can_be_sent_to_another_process_and_are_read_by_many_threads(bucket):
    pixels, _ = put_packed(bucket, "packed", [BLOCK, 2 * BLOCK])
    of = PackedSplit([PackedShard(BLOCK, "a"), PackedShard(2 * BLOCK, "b")])
    shards = BucketShards("train", of, (1, 4, 6), BucketFolder(bucket.uri("packed")))
    sent = pickle.loads(pickle.dumps(shards))
    wrong = []

    def read(seed):
        positions = torch.randint(3 * BLOCK, (100,), generator=torch.Generator().manual_seed(seed))
        if not torch.equal(sent.pick(positions), pixels[positions]):
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_shard_that_is_not_as_the_index_says_is_refused(bucket):
    put_packed(bucket, "packed", [300])
    name, key = f"packed:{bucket.uri('packed')}", f"packed/{shard_file('train', 0)}"
    damaged = npy(images(300)[:, None]).replace(b"(300,", b"(300(")  # numpy raises no ValueError for this header
    for content in (npy(images(299)[:, None]), npy(images(300)[:, None])[:-1], damaged, b"nothing", b"", None):
        if content is None:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
        else:
            bucket.put(key, content)
        packed._offset.cache_clear()
        with refused("dataset-damaged", DatasetCorrupt):
            open_dataset(name, "train").pick(torch.tensor([299]))


def test_labels_that_do_not_fit_the_index_are_refused(bucket):
    put_packed(bucket, "packed", [300])
    for content in (b"", npy(np.arange(7))):
        bucket.put(f"packed/{labels_file('train')}", content)
        with refused("dataset-damaged", DatasetCorrupt):
            open_dataset(f"packed:{bucket.uri('packed')}", "train")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("packed:s3://{bucket}/nothing", "packing-unfinished"),
        ("folder:s3://{bucket}/nothing", "no-images"),
        ("parquet:s3://{bucket}/nothing", "dataset-not-found"),
        ("folder:s3://no-bucket-of-this-name/cats", "bucket-unreachable"),
        ("packed:gopher://bucket/cats", "bucket-unreachable"),
    ],
)
def test_what_a_bucket_lacks_is_one_sentence(bucket, name, code):
    with refused(code, DatasetNotFound) as raised:
        open_dataset(name.format(bucket=bucket.name), "train")
    assert "\n" not in str(raised.value)
    assert status(name.format(bucket=bucket.name)).state == "missing"


def test_a_file_that_is_missing_is_told_from_a_bucket_that_cannot_be_read(bucket):
    bucket.client.create_bucket(Bucket="a-bucket")  # the name is part of pyarrow's message about a missing file
    there, gone = BucketFolder("s3://a-bucket/set"), BucketFolder("s3://no-bucket-of-this-name/set")
    for part in ((), (0, 10)):
        assert there.read("train-00000.npy", *part) is None
        with refused("bucket-unreachable", DatasetNotFound, match="no-bucket-of-this-name"):
            gone.read("train-00000.npy", *part)


def test_a_bucket_that_refuses_is_not_a_data_set_without_its_files(monkeypatch, tmp_path):
    monkeypatch.setenv("GLOW_BUCKET_CACHE", str(tmp_path))
    with refusing_store(monkeypatch) as uri:
        folder = BucketFolder(f"{uri}/set")
        shards = BucketShards("train", PackedSplit([PackedShard(3, "fingerprint")]), (1, 4, 6), folder)
        for read in (
            lambda: open_dataset(f"packed:{uri}/set", "train"),
            lambda: shards.pick(torch.tensor([0])),
            lambda: packed.read_array(folder, labels_file("train"), "fingerprint"),
            lambda: folder.file("cat.png").open("rb"),
        ):
            with refused("bucket-unreachable", DatasetNotFound, match=f"{uri}/set .*(?i:denied).*credentials"):
                read()


def test_a_shard_that_is_removed_while_it_is_read_is_named(bucket):
    put_packed(bucket, "packed", [600])
    dataset = open_dataset(f"packed:{bucket.uri('packed')}", "train")
    dataset.pick(torch.tensor([0]))
    bucket.client.delete_object(Bucket=bucket.name, Key=f"packed/{shard_file('train', 0)}")
    with pytest.raises(DatasetCorrupt, match=f"{shard_file('train', 0)} is missing"):
        dataset.pick(torch.tensor([599]))


def test_the_cache_keeps_to_its_size_and_removes_what_was_used_least_recently(tmp_path):
    cache = BlockCache(tmp_path, limit=100_000)
    for number in range(200):
        cache.get(f"block {number}", lambda: bytes(1000))
        cache.get("often", lambda: bytes(1000))
    used = sum(file.stat().st_size for file in tmp_path.glob("??/*"))
    assert used <= 100_000 * (1 + 1 / 16)
    assert cache.has("often")
    assert cache.has("block 199")
    assert not cache.has("block 0")


def test_unfinished_files_of_killed_processes_go(tmp_path):
    (tmp_path / "ab").mkdir()
    left, new = tmp_path / "ab" / "left.part", tmp_path / "ab" / "new.part"
    for file in (left, new):
        file.write_bytes(b"half")
    os.utime(left, (0, 0))
    BlockCache(tmp_path, limit=10**6).get("key", lambda: b"block")
    assert not left.exists()
    assert new.exists()


def test_a_cache_that_cannot_be_written_costs_only_speed(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    cache = BlockCache(tmp_path / "file", limit=10**6)
    assert cache.get("key", lambda: b"fetched") == b"fetched"
    assert cache.get("key", lambda: b"again") == b"again"


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 7])
def test_blocks_that_a_crash_cut_short_are_fetched_again(bucket, tmp_path, left):
    pixels, labels = put_packed(bucket, "packed", [300])
    name = f"packed:{bucket.uri('packed')}"
    open_dataset(name, "train").images()
    blocks = list((tmp_path / "cache").glob("??/*"))
    assert len(blocks) == 3  # the labels, and two blocks of images
    for block in blocks:
        block.write_bytes(block.read_bytes()[:left])
    dataset = open_dataset(name, "train")
    assert dataset.labels.tolist() == labels.tolist()
    assert torch.equal(dataset.images(), pixels)
    assert all(block.stat().st_size > left for block in blocks)


@pytest.mark.parametrize("size", ["many", "0", "-1", "inf", "nan"])
def test_a_size_that_is_none_is_refused(monkeypatch, size):
    monkeypatch.setenv("GLOW_BUCKET_CACHE_GB", size)
    with refused("cache-size") as raised:
        cache_of_this_machine()
    assert repr(size) in str(raised.value)


@pytest.mark.slow
def test_the_survey_of_a_folder_reads_each_file_once_and_several_at_a_time(bucket, monkeypatch):
    for number in range(200):
        bucket.put(f"survey/{number:03}.png", png(np.full((6, 4), number, np.uint8)))
    together = threading.Barrier(2, timeout=60)  # raises BrokenBarrierError unless two threads are there at once
    opened = []
    read = BucketFile.open

    def met(file, mode):
        opened.append(file.name)
        if file.name in ("000.png", "001.png"):
            together.wait()
        return read(file, mode)

    monkeypatch.setattr(BucketFile, "open", met)
    info = describe(f"folder:{bucket.uri('survey')}")
    assert info.image_shape == (1, 6, 4)
    assert sorted(opened) == [f"{number:03}.png" for number in range(200)]


@pytest.mark.slow
def test_the_survey_names_the_first_damaged_file_and_passes_over_all_if_asked(bucket):
    for number in range(100):
        bucket.put(f"damaged/{number:03}.png", b"no" if number in (70, 90) else png(np.zeros((6, 4), np.uint8)))
    name = f"folder:{bucket.uri('damaged')}"
    with pytest.raises(DatasetCorrupt, match=r"070\.png"):
        describe(name)
    assert describe(name, skip_unreadable=True).image_shape == (1, 6, 4)


def test_threads_work_only_a_little_ahead():
    folder = BucketFolder("s3://bucket/many")
    asked = []

    def files():
        for n in range(10_000):
            asked.append(n)
            yield folder.file(str(n))

    results = in_threads(lambda file: file.name, files())
    assert next(results) == "0"
    assert len(asked) < 1000
    results.close()
