"""Encoded images in Parquet files, as Hugging Face exports them."""

import json
import re
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from glow.datasets import (
    DatasetCorrupt,
    DatasetNotFound,
    describe,
    load_dataset,
    open_dataset,
    own_channels,
    parquet,
    status,
)
from glow.datasets.base import ImageUnreadable
from tests.glow.buckets import png
from tests.refusals import refused

RNG = np.random.default_rng(0)
NAMES = ("cat", "dog")


def images(n, size=(4, 6)):
    return RNG.integers(0, 256, (n, *size), dtype=np.uint8)


def write(file, pixels, labels=None, *, column="image", embedded=True, names=NAMES, row_group_size=7):
    """A file as Hugging Face writes it: a struct of bytes and path, and the names of classes in the schema."""
    encoded = [png(image) for image in pixels]
    columns = {column: [{"bytes": one, "path": "x.png"} for one in encoded] if embedded else encoded}
    if labels is not None:
        columns["label"] = labels
    table = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": list(names)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=row_group_size)


def grey(pixels):
    return torch.from_numpy(pixels)[:, None]


def test_files_belong_to_the_split_that_their_names_start_with(tmp_path):
    first, second, test = images(20), images(10), images(12)
    write(tmp_path / "data" / "train-00000-of-00002.parquet", first, [0, 1] * 10)
    write(tmp_path / "data" / "train-00001-of-00002.parquet", second, [1, 0] * 5)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", test, [0, 1] * 6)
    name = f"parquet:{tmp_path}"
    info = describe(name)
    assert (info.original_shape, info.class_names) == ((1, 4, 6), NAMES)
    assert info.splits == ("train", "validation", "test")
    found, labels = load_dataset(name, "test")
    assert torch.equal(found, grey(test))
    assert labels.tolist() == [0, 1] * 6
    train, validation = load_dataset(name, "train")[0], load_dataset(name, "validation")[0]
    both = grey(np.concatenate([first, second]))
    assert len(train) + len(validation) == 30
    assert {image.numpy().tobytes() for image in (*train, *validation)} == {image.numpy().tobytes() for image in both}
    assert status(name).state == "found"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    pixels = images(3)
    write(tmp_path / "elsewhere" / "0.parquet", pixels)
    write(tmp_path / "set" / "train" / "0.parquet", images(20))
    (tmp_path / "set" / "test").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "train" / "up").symlink_to("..")
    name = f"parquet:{tmp_path}/set"
    assert torch.equal(load_dataset(name, "test")[0], grey(pixels))
    assert len(open_dataset(name, "train")) == 18
    (note,) = describe(name).notes
    assert note.startswith("1 path is ")
    assert f"{tmp_path}/set/train/up" in note


def test_a_description_lists_the_files_once(tmp_path, monkeypatch):
    pq.write_table(pa.table({"image": [png(np.zeros((4, 8), np.uint8))]}), tmp_path / "a.parquet")
    listed = Mock(wraps=parquet.parquet_files)
    monkeypatch.setattr(parquet, "parquet_files", listed)
    assert describe(f"parquet:{tmp_path}").image_shape == (1, 4, 8)
    assert listed.call_count == 1


def test_any_positions_are_read_across_files_and_row_groups(tmp_path):
    first, second = images(20), images(10)
    write(tmp_path / "test" / "0000.parquet", first)
    write(tmp_path / "test" / "0001.parquet", second)
    dataset = open_dataset(f"parquet:{tmp_path}", "test")
    positions = torch.tensor([29, 0, 20, 19, 7, 6])
    assert torch.equal(dataset.pick(positions), grey(np.concatenate([first, second]))[positions])


@pytest.mark.parametrize("embedded", [True, False])
def test_a_file_without_splits_is_dealt_and_bytes_may_be_a_column(tmp_path, embedded):
    pixels = images(60)
    file = tmp_path / "photos.parquet"
    write(file, pixels, [0, 1] * 30, embedded=embedded, column="img", names=None)
    name = f"parquet:{file}"
    assert sum(len(open_dataset(name, split)) for split in ("train", "validation", "test")) == 60
    assert describe(name).class_names == ("0", "1")


def test_classes_can_be_words(tmp_path):
    pixels = images(3)
    write(tmp_path / "test.parquet", pixels, ["dog", "ant", "dog"], names=None)
    dataset = open_dataset(f"parquet:{tmp_path}", "test")
    assert dataset.class_names == ("ant", "dog")
    assert dataset.labels.tolist() == [1, 0, 1]


WORDS = ["dog", "ant", "dog"]


def labelled(tmp_path, **columns):
    """Write three images with these columns next to them, and return the name of the data set."""
    table = pa.table({"image": [png(one) for one in images(3)], **columns})
    pq.write_table(table, tmp_path / "test.parquet")
    return f"parquet:{tmp_path}"


@pytest.mark.parametrize("column", ["label", "labels", "species"])
@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array(WORDS, pa.large_string()), ("ant", "dog")),
        (pa.array(WORDS).dictionary_encode(), ("ant", "dog")),
        (pa.array(WORDS, pa.large_string()).dictionary_encode(), ("ant", "dog")),
        (pa.array([1, 0, 1]).dictionary_encode(), ("0", "1")),
    ],
)
def test_classes_are_read_as_polars_and_pandas_write_them(tmp_path, column, values, names):
    dataset = open_dataset(labelled(tmp_path, **{column: values}), "test")
    assert (dataset.class_names, dataset.labels.tolist()) == (names, [1, 0, 1])


def test_booleans_are_classes_if_the_column_is_named_so(tmp_path):
    dataset = open_dataset(labelled(tmp_path, label=[True, False, True]), "test")
    assert (dataset.class_names, dataset.labels.tolist()) == (("0", "1"), [1, 0, 1])
    assert describe(labelled(tmp_path, flipped=[True, False, True])).class_names == ("0",)


def test_the_only_column_of_plain_strings_stays_that_of_classes(tmp_path):
    name = labelled(tmp_path, breed=WORDS, source=pa.array(["a", "b", "c"]).dictionary_encode())
    assert describe(name).class_names == ("ant", "dog")


@pytest.mark.parametrize(
    "values", [[0.0, 1.0, 0.0], [[0], [1], [0]], [None, None, None], pa.array([1, 2, 3]).cast("date64")]
)
def test_classes_of_other_types_are_refused(tmp_path, values):
    assert code_of(labelled(tmp_path, label=values)) == "parquet-label-type"
    assert status(f"parquet:{tmp_path}").state.startswith("corrupt: column 'label' of ")
    assert describe(labelled(tmp_path, labels=WORDS, label=values)).class_names == ("ant", "dog")


def code_of(name, split="test", **how):
    with pytest.raises((DatasetCorrupt, DatasetNotFound)) as raised:
        load_dataset(name, split, **how)
    assert raised.value.remedy
    return raised.value.code


def rows(tmp_path, *pixels):
    """Write one image per row, and return the name of the data set."""
    pq.write_table(pa.table({"image": [png(one) for one in pixels]}), tmp_path / "test.parquet", row_group_size=2)
    return f"parquet:{tmp_path}"


def test_images_of_another_size_are_refused_unless_a_shape_is_asked_for(tmp_path):
    name = rows(tmp_path, images(1)[0], images(1, (8, 8))[0])
    assert code_of(name) == "image-size"
    own = describe(name).image_shape
    dataset = open_dataset(name, "test", image_shape=own, refuse_other_sizes=True)
    assert dataset.images(0, 1).shape == (1, *own)
    with refused("image-size", DatasetCorrupt, match=r"6x4.*row 1 of .*test\.parquet: 8x8"):
        dataset.images()
    assert load_dataset(name, "test", image_shape=(1, 8, 8))[0].shape == (2, 1, 8, 8)


@pytest.mark.parametrize("coloured", [0, 1, 4])
def test_a_set_with_a_coloured_image_is_coloured_wherever_the_image_is(tmp_path, coloured):
    pixels = list(images(5))
    pixels[coloured] = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    name = rows(tmp_path, *pixels)
    assert own_channels(name) == 3
    found, _ = load_dataset(name, "test")
    assert torch.equal(found[coloured], torch.from_numpy(pixels[coloured]).permute(2, 0, 1))
    for split in ("train", "test"):  # each split of a set has the shape of the set
        write(tmp_path / f"{split}.parquet", images(20) if split == "train" else np.stack(images(3)))
    write(tmp_path / "test-more.parquet", RNG.integers(0, 256, (3, 4, 6, 3), dtype=np.uint8))
    assert {open_dataset(name, split).image_shape for split in ("train", "test")} == {(3, 4, 6)}


def save(file, **columns):
    """Write three grey images with these columns next to them."""
    pq.write_table(pa.table({"image": [png(one) for one in images(3)], **columns}), file)


@pytest.mark.parametrize("labelled_split", ["train", "test"])
@pytest.mark.parametrize("others", [{}, {"id": [5, 6, 7]}])
def test_a_file_without_the_classes_that_others_have_is_refused(tmp_path, labelled_split, others):
    for split in ("train", "test"):
        save(tmp_path / f"{split}.parquet", **others, **({"label": [0, 1, 0]} if split == labelled_split else {}))
    lacking = "test" if labelled_split == "train" else "train"
    for split in ("train", "test"):
        with refused("parquet-columns-differ", DatasetCorrupt) as raised:
            load_dataset(f"parquet:{tmp_path}", split)
        assert re.search(rf"/{lacking}\.parquet .*'label'.*/{labelled_split}\.parquet", raised.value.problem)
    assert status(f"parquet:{tmp_path}").state.startswith("corrupt")


def test_files_of_a_split_need_the_same_column_of_images(tmp_path):
    write(tmp_path / "test-0.parquet", images(3))
    write(tmp_path / "test-1.parquet", images(3), column="img")
    assert code_of(f"parquet:{tmp_path}") == "parquet-columns-differ"


def test_only_rows_without_an_image_are_unreadable(tmp_path):
    pixels = images(5)
    encoded = [png(one) for one in pixels]
    pq.write_table(pa.table({"image": [*encoded[:3], None, encoded[4]]}), tmp_path / "test.parquet")
    dataset = open_dataset(f"parquet:{tmp_path}", "test", image_shape=(1, 4, 6))
    assert torch.equal(dataset.pick(torch.tensor([0, 1, 2, 4])), grey(pixels[[0, 1, 2, 4]]))
    with refused("parquet-without-images", ImageUnreadable, match=r"^row 3 of "):
        dataset.images(3, 4)


@pytest.mark.parametrize("bad", [b"no image", None])
@pytest.mark.parametrize("image_shape", [None, (1, 8, 8)])
def test_an_unreadable_first_image_is_refused_or_passed_over(tmp_path, bad, image_shape):
    name = f"parquet:{tmp_path}"
    pq.write_table(pa.table({"image": pa.array([bad, png(images(1)[0])], pa.binary())}), tmp_path / "test.parquet")
    with pytest.raises(ImageUnreadable):
        describe(name, image_shape=image_shape)
    passed_over = describe(name, image_shape=image_shape, skip_unreadable=True)
    assert passed_over.image_shape == (image_shape or (1, 4, 6))
    pq.write_table(pa.table({"image": pa.array([bad], pa.binary())}), tmp_path / "test.parquet")
    with pytest.raises(ImageUnreadable):
        describe(name, image_shape=image_shape, skip_unreadable=True)


def test_what_is_wrong_with_a_file_has_a_code_and_a_remedy(tmp_path):
    name = f"parquet:{tmp_path}"
    assert code_of(name) == code_of("parquet:nowhere") == "dataset-not-found"
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no more")
    assert code_of(name) == "parquet-damaged"
    assert status(name).state.startswith("corrupt")
    one = [png(images(1)[0])]
    pq.write_table(pa.table({"image": one, "mask": one}), tmp_path / "test.parquet")
    assert code_of(name) == "parquet-columns"
    pq.write_table(pa.table({"image": [*one, None]}), tmp_path / "test.parquet")
    assert code_of(name) == "parquet-without-images"
    pq.write_table(pa.table({"image": [b"no image"]}), tmp_path / "test.parquet")
    assert code_of(name, image_shape=(1, 8, 8)) == "image-damaged"
    pq.write_table(pa.table({"image": one, "label": [-1]}), tmp_path / "test.parquet")
    assert code_of(name) == "parquet-classes"
    assert code_of(name, "train") == "split-not-found"
    pq.write_table(pa.table({"image": one, "label": [10**9]}), tmp_path / "test.parquet")
    assert code_of(name) == "labels-too-high"
