"""Packed data sets and arrays, on files that are written here."""

import io
import json
import os
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from glow.datasets import DatasetCorrupt, DatasetNotFound, describe, load_dataset, open_dataset, own_channels, status
from glow.datasets.packed_index import (
    INDEX,
    PackedIndex,
    PackedShard,
    PackedSplit,
    labels_file,
    shard_file,
    shard_fingerprint,
)

SHAPE = (3, 4, 6)
SIZE = 10  # images per shard


def write_packed(folder, counts, seed=0, shape=SHAPE):
    """Write a packed data set of random images; return the images and labels by split."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    splits, written = {}, {}
    for split, n in counts.items():
        images = draw.integers(0, 256, (n, *shape), dtype=np.uint8)
        labels = draw.integers(0, 2, n)
        shards = []
        for number, start in enumerate(range(0, n, SIZE)):
            part = images[start : start + SIZE]
            np.save(folder / shard_file(split, number), part)
            shards.append(PackedShard(len(part), shard_fingerprint(part, labels[start : start + SIZE])))
        np.save(folder / labels_file(split), labels)
        splits[split] = PackedSplit(shards)
        written[split] = images, labels
    index = PackedIndex(shape, (3, 8, 12), ("cat", "dog"), splits, "folder:/somewhere")
    (folder / INDEX).write_text(index.to_json())
    return written


@pytest.fixture
def packed(tmp_path):
    return tmp_path / "set", write_packed(tmp_path / "set", {"train": 25, "validation": 10, "test": 7})


def test_images_and_labels_are_those_that_were_packed(packed):
    folder, written = packed
    for split, (images, labels) in written.items():
        found, found_labels = load_dataset(f"packed:{folder}", split)
        assert np.array_equal(found, images)
        assert np.array_equal(found_labels, labels)
    info = describe(f"packed:{folder}")
    assert (info.image_shape, info.original_shape, info.class_names) == (SHAPE, (3, 8, 12), ("cat", "dog"))
    assert info.splits == ("train", "validation", "test")
    assert own_channels(f"packed:{folder}") == 3
    assert status(f"packed:{folder}").state == "found"


def test_positions_may_come_in_any_order_and_twice(packed):
    folder, written = packed
    dataset = open_dataset(f"packed:{folder}", "train")
    positions = torch.tensor([24, 0, 9, 10, 10, 23, 11])
    assert np.array_equal(dataset.pick(positions), written["train"][0][positions])
    assert len(dataset.pick(torch.tensor([], dtype=torch.int64))) == 0


def test_a_fingerprint_is_known_without_the_images_and_is_of_them(packed, tmp_path):
    folder, _ = packed
    first = open_dataset(f"packed:{folder}", "train")
    for shard in folder.glob("train-0*.npy"):
        shard.rename(shard.with_suffix(".away"))
    assert open_dataset(f"packed:{folder}", "train").fingerprint() == first.fingerprint()
    write_packed(tmp_path / "same", {"train": 25})
    write_packed(tmp_path / "other", {"train": 25}, seed=1)
    assert open_dataset(f"packed:{tmp_path}/same", "train").fingerprint() == first.fingerprint()
    assert open_dataset(f"packed:{tmp_path}/other", "train").fingerprint() != first.fingerprint()
    assert first.subset(torch.arange(3)).fingerprint() != first.fingerprint()
    assert first.subset(torch.arange(3)).fingerprint() != first.subset(torch.arange(4)).fingerprint()


def code_of_error(name, split, match):
    """Return the code of the DatasetNotFound or DatasetCorrupt that reading a split raises."""
    with pytest.raises((DatasetCorrupt, DatasetNotFound), match=match) as caught:
        load_dataset(name, split)
    assert caught.value.remedy
    return caught.value.code


def test_missing_and_damaged_files_are_named(packed, tmp_path):
    folder, _ = packed
    assert code_of_error(f"packed:{tmp_path}/no", "train", f"{tmp_path}/no .*: .*glowctl pack") == "dataset-not-found"
    (tmp_path / "empty").mkdir()
    assert code_of_error(f"packed:{tmp_path}/empty", "train", r"packed\.json.*glowctl pack") == "packing-unfinished"
    write_packed(tmp_path / "part", {"train": 5})
    assert code_of_error(f"packed:{tmp_path}/part", "test", r"'test' \(only train\)") == "split-not-found"
    assert status(f"packed:{tmp_path}/part").state == "partial: train only"
    (folder / shard_file("train", 1)).unlink()
    assert code_of_error(f"packed:{folder}", "train", r"train-00001\.npy is missing") == "dataset-damaged"
    assert f"{folder}/train-00001.npy" in status(f"packed:{folder}").state
    np.save(folder / shard_file("train", 1), np.zeros((3, *SHAPE), np.uint8))
    shapes = r"uint8 .*\(3, 3, 4, 6\) .*uint8 .*\(10, 3, 4, 6\)"
    assert code_of_error(f"packed:{folder}", "train", shapes) == "dataset-damaged"
    (folder / INDEX).write_text((folder / INDEX).read_text()[:40])
    assert code_of_error(f"packed:{folder}", "train", r"packed\.json .*\(.*\)") == "dataset-damaged"


@pytest.mark.parametrize("file", [shard_file("train", 0), labels_file("train")])
def test_an_empty_file_is_named(packed, file):
    folder, _ = packed
    (folder / file).write_bytes(b"")
    assert code_of_error(f"packed:{folder}", "train", rf"{file} cannot be read \(.+\): ") == "dataset-damaged"


def test_an_index_of_a_newer_version_is_refused(packed):
    folder, _ = packed
    said = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(said | {"version": 2}))
    with pytest.raises(DatasetCorrupt, match=r"version is 2\b.* 1\)"):
        open_dataset(f"packed:{folder}", "train")


@pytest.fixture
def ten_million(tmp_path):
    """The name of a packed data set of ten million images; its files have the right sizes and no block on the disk."""
    n, size, shape = 10_000_000, 65536, (3, 64, 64)
    folder = tmp_path / "large"
    folder.mkdir()
    shards = [PackedShard(min(size, n - start), "0" * 16) for start in range(0, n, size)]
    index = PackedIndex(shape, shape, ("a",), {"train": PackedSplit(shards)}, "folder:/x")
    (folder / INDEX).write_text(index.to_json())
    for number, (images, _) in enumerate(shards):
        with (folder / shard_file("train", number)).open("wb") as file:
            head = {"descr": "|u1", "fortran_order": False, "shape": (images, *shape)}
            np.lib.format.write_array_header_1_0(file, head)
            file.truncate(file.tell() + images * int(np.prod(shape)))
    with (folder / labels_file("train")).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (n,)})
        file.truncate(file.tell() + 8 * n)
    return f"packed:{folder}"


def test_opening_ten_million_images_takes_little_memory(ten_million):
    before = _private_bytes()
    dataset = open_dataset(ten_million, "train")
    assert len(dataset) == 10_000_000
    assert dataset.fingerprint()
    assert dataset.pick(torch.tensor([0, len(dataset) - 1])).sum() == 0
    assert _private_bytes() - before < 100 * 2**20


def _private_bytes() -> int:
    with open(f"/proc/{os.getpid()}/smaps_rollup") as rollup:
        return sum(1024 * int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty"))


@pytest.mark.parametrize(
    ("stored", "shape"),
    [((20, 3, 8, 8), (3, 8, 8)), ((20, 8, 10, 3), (3, 8, 10)), ((20, 8, 8), (1, 8, 8)), ((20, 8, 8, 1), (1, 8, 8))],
)
def test_arrays_are_read_in_all_layouts(tmp_path, stored, shape):
    images = np.random.default_rng(0).integers(0, 256, stored, dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    splits = [load_dataset(f"arrays:{tmp_path}/set.npz", split) for split in ("train", "validation", "test")]
    assert sum(len(found) for found, _ in splits) == 20  # dealt to the splits
    assert splits[0][0].shape[1:] == shape
    first = images[:, None] if images.ndim == 3 else images if stored[1] in (1, 3) else images.transpose(0, 3, 1, 2)
    every = {image.tobytes() for image in first}
    assert {image.numpy().tobytes() for found, _ in splits for image in found} == every
    assert describe(f"arrays:{tmp_path}/set.npz").class_names == ("0", "1")


def test_a_folder_of_npy_files_has_splits_and_is_mapped(tmp_path):
    draw = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 8)):
        np.save(tmp_path / f"{split}_images.npy", draw.integers(0, 256, (n, 8, 8), dtype=np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(n) % 2)
    name = f"arrays:{tmp_path}"
    sizes = {split: len(open_dataset(name, split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 36, "validation": 4, "test": 8}  # a tenth of each class of train is held out
    assert status(name).state == "found"
    (tmp_path / "test_images.npy").unlink()
    state, _, splits = status(name).state.partition(": ")
    assert (state, re.findall(r"train|validation|test", splits)) == ("partial", ["train", "validation"])
    with pytest.raises(DatasetNotFound, match=r"'test' .*: .*test_"):
        open_dataset(name, "test")


@pytest.mark.parametrize(
    ("arrays", "code", "fact"),
    [
        ({"pictures": np.zeros((5, 8, 8), np.uint8)}, "no-images", r"images, .*\(only pictures\)"),
        ({"images": np.zeros((5, 8, 8))}, "arrays-unusable", "images .*float64: .*uint8"),
        ({"images": np.zeros((5, 8, 8, 4), np.uint8)}, "arrays-unusable", r"\(5, 8, 8, 4\): .*\(N, C, H, W\)"),
        ({"images": np.zeros((5, 3, 8, 3), np.uint8)}, "arrays-unusable", r"\(5, 3, 8, 3\): .*\(N, C, H, W\)"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.zeros(4, int)}, "arrays-unusable", r"\(4,\): .*\b5\b"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.full(5, -1)}, "arrays-unusable", "labels .*-1: .*0"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.full(5, 10**9)}, "labels-too-high", "1000000000: .*0"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.array(["a"] * 5, object)}, "dataset-damaged", "npz"),
        (
            {"images": np.zeros((5, 8, 8), np.uint8), "test_images": np.zeros((5, 8, 8), np.uint8)},
            "arrays-unusable",
            "images .*split",
        ),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, code, fact):
    np.savez(tmp_path / "set.npz", **arrays)
    assert code_of_error(f"arrays:{tmp_path}/set.npz", "train", fact) == code


def test_a_file_that_is_not_npz_is_refused(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 but no more")
    assert code_of_error(f"arrays:{tmp_path}/set.npz", "train", r"set\.npz") == "dataset-damaged"
    found = status(f"arrays:{tmp_path}/set.npz")
    assert found.state.startswith(f"corrupt: {tmp_path}/set.npz ")
    assert "numpy.savez" in found.advice
    assert code_of_error(f"arrays:{tmp_path}/no.npz", "train", r"no\.npz") == "dataset-not-found"


def damaged_npz() -> Iterator[bytes]:
    """Yield .npz files in which the data of an array are compressed in a way that zlib, or nobody, can undo."""
    stream = io.BytesIO()
    np.savez_compressed(stream, images=np.random.default_rng(0).integers(0, 9, (20, 8, 8), dtype=np.uint8))
    start = stream.getvalue().index(b"images.npy") + 100
    yield stream.getvalue()[:start] + b"\xff" * 8 + stream.getvalue()[start + 8 :]
    for at, value in ((6, 1), (8, 99)):  # encrypted; an unknown compression
        content = bytearray(stream.getvalue())
        for entry, offset in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
            content[content.index(entry) + offset] = value
        yield bytes(content)


def test_empty_and_damaged_files_of_arrays_are_named(tmp_path):
    npy = io.BytesIO()
    np.save(npy, np.zeros((20, 8, 8), np.uint8))
    files = [("npz", b""), *(("npz", content) for content in damaged_npz())]
    files += [("npy", b""), ("npy", npy.getvalue().replace(b"(20,", b"(20("))]
    for kind, content in files:
        file = tmp_path / f"set.{kind}"
        file.write_bytes(content)
        code = code_of_error(f"arrays:{file}", "train", rf"{file} is not an \.{kind} file .*\(.+\): ")
        assert code == "dataset-damaged"


def test_an_npz_file_that_changed_is_read_again(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((20, 8, 8), np.uint8))
    before = open_dataset(f"arrays:{tmp_path}/set.npz", "train").fingerprint()
    time.sleep(0.01)
    np.savez(tmp_path / "set.npz", images=np.ones((20, 8, 8), np.uint8))
    assert open_dataset(f"arrays:{tmp_path}/set.npz", "train").fingerprint() != before
