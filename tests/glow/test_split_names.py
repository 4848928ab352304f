"""Names of splits in folders, Parquet files and arrays of a user: which are read, and which are refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glow.datasets import DatasetCorrupt, describe, open_dataset, status
from tests.glow.buckets import png


def folder(path, **counts):
    """Save so many images, in two classes, in each of the folders."""
    for sub, count in counts.items():
        for index in range(count):
            file = path / sub / "ab"[index % 2] / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (6, 4), index).save(file)
    return f"folder:{path}"


def parquet(path, **counts):
    """Write a Parquet file with so many images for each name."""
    for name, count in counts.items():
        encoded = [png(np.full((4, 6), index, np.uint8)) for index in range(count)]
        pq.write_table(pa.table({"image": encoded}), path / f"{name.replace('_', '-')}.parquet")
    return f"parquet:{path}"


def arrays(path, **counts):
    """Save an .npy file with so many images for each name."""
    for name, count in counts.items():
        np.save(path / f"{name}_images.npy", np.zeros((count, 4, 6), np.uint8))
    return f"arrays:{path}"


def npz(path, **counts):
    """Save one .npz file with so many images for each name."""
    for name, count in counts.items():
        np.savez(path / f"{name}.npz", images=np.zeros((count, 4, 6), np.uint8))
    return f"arrays:{path}"


def in_bucket(path, **counts):
    """The folder under a URI, which is listed as that of a bucket."""
    folder(path, **counts)
    return f"folder:file://{path}"


def sizes(name):
    return {split: len(open_dataset(name, split)) for split in describe(name).splits}


def code_of(name):
    with pytest.raises(DatasetCorrupt) as raised:
        describe(name)
    assert raised.value.remedy
    return raised.value.code


EVERYWHERE = pytest.mark.parametrize("make", [folder, in_bucket, parquet, arrays, npz])


@EVERYWHERE
@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("training", "dev", "testing"),
        ("TRAIN", "Validation", "test"),
    ],
)
def test_splits_have_the_same_names_everywhere(tmp_path, make, train, validation, test):
    name = make(tmp_path, **{train: 20, validation: 5, test: 3})
    assert sizes(name) == {"train": 20, "validation": 5, "test": 3}
    assert describe(name).notes == ()


@EVERYWHERE
@pytest.mark.parametrize("names", [("val", "validation"), ("dev", "valid"), ("training", "train")])
def test_two_names_of_a_split_are_refused_everywhere(tmp_path, make, names):
    name = make(tmp_path, **{"train": 20, "test": 3} | dict.fromkeys(names, 4))
    assert code_of(name) == "split-named-twice"
    assert status(name).state.startswith("corrupt")


@EVERYWHERE
def test_what_is_in_no_split_is_noted(tmp_path, make):
    name = make(tmp_path, train=20, test=3, cats=5)
    assert sizes(name) == {"train": 18, "validation": 2, "test": 3}
    (note,) = describe(name).notes
    assert "cats" in note
    assert note.startswith({parquet: "1 file is ", npz: "1 file is ", arrays: "1 array is "}.get(make, "5 files are "))


@pytest.mark.parametrize("make", [folder, in_bucket])
@pytest.mark.parametrize("lone", ["Test", "Train", "training", "testing", "dev", "valid", "val"])
def test_a_class_with_the_name_of_a_split_stays_a_class(tmp_path, make, lone):
    name = make(tmp_path, **{lone: 20, "cats": 20})
    assert describe(name).class_names == tuple(sorted([lone, "cats"]))
    assert sizes(name) == {"train": 28, "validation": 4, "test": 8}
    assert describe(name).notes == ()


def test_an_empty_folder_is_not_a_second_name(tmp_path):
    (tmp_path / "validation").mkdir()
    assert sizes(folder(tmp_path, train=20, val=4, test=3)) == {"train": 20, "validation": 4, "test": 3}


def test_a_link_to_what_is_in_a_split_is_not_noted(tmp_path):
    name = folder(tmp_path, train=20, test=3)
    (tmp_path / "latest").symlink_to("train")
    assert describe(name).notes == ()
    (tmp_path / "loose.png").write_bytes((tmp_path / "train/a/000.png").read_bytes())
    assert re.findall(r"^1 file .*: (.*)", describe(name).notes[0]) == ["loose.png"]


@pytest.mark.parametrize("word", ["devices", "values", "testimony", "trainers"])
def test_a_word_that_only_begins_like_a_split_is_none(tmp_path, word):
    name = parquet(tmp_path, cats=20, **{word: 20})
    assert sizes(name) == {"train": 28, "validation": 4, "test": 8}


@pytest.mark.parametrize(
    "names", [("trainset", "testset"), ("train2017", "test2017"), ("trainval", "tests"), ("train_a", "Test_b")]
)
def test_parquet_files_keep_the_splits_of_earlier_versions(tmp_path, names):
    train, test = names
    assert sizes(parquet(tmp_path, **{train: 20, test: 3})) == {"train": 18, "validation": 2, "test": 3}


def test_the_folder_of_a_parquet_file_may_have_another_name_than_the_file(tmp_path):
    (tmp_path / "validation").mkdir()
    parquet(tmp_path / "validation", dev=4, **{"0": 2})
    assert sizes(parquet(tmp_path, train=20))["validation"] == 6
