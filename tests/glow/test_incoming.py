"""Images that arrive: each kind of source, and what cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from glow.datasets import load_dataset
from glow.datasets.files import folder_files
from glow.datasets.incoming import Incoming, open_incoming, pieces
from tests.glow.buckets import Bucket

SHAPE = (1, 8, 8)


@pytest.fixture
def photos(tmp_path):
    """Three folders with a grey image each, whose grey tells which it is, and a file that is no image."""
    for grey, name in enumerate(("a/0.png", "b/1.png", "2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), grey).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def read(parts, size=1000):
    """Return the names, the first pixels and the unreadable names of all images."""
    found = list(pieces(parts, size, threads=2))
    names = [name for piece in found for name in piece.names]
    greys = torch.cat([piece.images[:, 0, 4, 4] for piece in found]).tolist()
    return names, greys, [name for piece in found for name, _ in piece.unreadable]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_folder_has_the_images_of_all_its_subfolders(photos, size):
    parts = open_incoming([str(photos)], SHAPE)
    names, greys, unreadable = read(parts, size)
    assert [name.removeprefix(f"{photos}/") for name in names] == ["2.png", "a/0.png", "b/1.png"]
    assert (greys, unreadable) == ([2, 0, 1], [])
    assert parts[0].classes == ["", "a", "b"]


def test_files_and_lines_of_paths_keep_their_order(photos):
    one, two, three = str(photos / "2.png"), str(photos / "b/1.png"), str(photos / "a/0.png")
    names, greys, _ = read(open_incoming([one, "-"], SHAPE, paths=[f"{two}\n", "\n", f"{three}\r\n"]))
    assert (names, greys) == ([one, two, three], [2, 1, 0])


def test_what_cannot_be_read_is_named_and_left_out(photos):
    (photos / "empty.png").touch()
    (photos / "cut.png").write_bytes((photos / "2.png").read_bytes()[:40])
    (photos / "a/deep.png").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(photos / "16-bit.png")
    frames = [Image.new("L", (8, 8), grey) for grey in (1, 200)]
    frames[0].save(photos / "b/frames.gif", save_all=True, append_images=frames[1:])
    sources = [str(photos), str(photos / "missing.png"), str(photos / "notes.txt")]
    for size in (2, 1000):
        names, _, unreadable = read(open_incoming(sources, SHAPE), size)
        assert len(names) == 3
        assert sorted(name.rpartition("/")[2] for name in unreadable) == sorted(
            ["empty.png", "cut.png", "16-bit.png", "frames.gif", "missing.png", "notes.txt"]
        )


def test_the_shapes_of_files_are_those_before_they_were_converted(photos):
    Image.new("RGB", (20, 10), "red").save(photos / "wide.png")
    (piece,) = pieces(open_incoming([str(photos)], SHAPE))
    assert dict(zip((name.rpartition("/")[2] for name in piece.names), piece.shapes, strict=True)) == {
        **dict.fromkeys(("2.png", "0.png", "1.png"), (1, 8, 8)),
        "wide.png": (3, 10, 20),
    }


def test_a_data_set_has_the_images_of_all_splits_and_a_known_one_those_of_its_test_split(tmp_path):
    images, labels = (tensor.numpy() for tensor in load_dataset("digits", "test"))
    np.savez(tmp_path / "some.npz", images=images[:100], labels=labels[:100])
    parts = open_incoming([f"arrays:{tmp_path}/some.npz", "digits"], SHAPE)
    assert sum(len(part.names) for part in parts[:-1]) == 100
    assert len(parts[-1].names) == len(images)
    found = torch.cat([piece.images for piece in pieces(parts[:-1])]).numpy()
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in images[:100])
    by_class = {(name, kind) for part in parts for name, kind in zip(part.names, part.classes, strict=True)}
    assert ("digits test 0", str(labels[0])) in by_class
    assert {kind for _, kind in by_class} == set(map(str, range(10)))


def test_a_folder_with_splits_has_the_images_of_all_of_them(tmp_path):
    for grey, name in enumerate(("train/cat/0.png", "test/dog/0.png", "loose.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(tmp_path / name)
    (part,) = open_incoming([f"folder:{tmp_path}"], SHAPE)
    assert (read([part])[1], part.classes) == ([0, 1], ["cat", "dog"])
    assert "loose.png" in "".join(part.notes)  # it is in no split
    assert len(open_incoming([str(tmp_path)], SHAPE)[0].names) == 3


def test_a_bucket_is_read_as_a_folder_and_file_by_file(bucket: Bucket, tmp_path):
    for grey in range(3):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{grey}.png")
        bucket.put(f"photos/{grey}.png", (tmp_path / f"{grey}.png").read_bytes())
    folder = bucket.uri("photos")
    for source in (folder, f"folder:{folder}"):
        names, greys, _ = read(open_incoming([source], SHAPE))
        assert greys == [0, 1, 2]
    lines = [names[2], str(tmp_path / "1.png"), names[0], names[0].replace("0.png", "missing.png")]
    _, greys, unreadable = read(open_incoming(["-"], SHAPE, paths=lines))
    assert greys == [2, 1, 0]
    assert len(unreadable) == 1


def test_images_of_two_channels_are_refused_at_once(photos):
    with pytest.raises(ValueError, match="2"):
        open_incoming([str(photos)], (2, 8, 8))


def test_a_class_that_all_share_is_none(tmp_path):
    (tmp_path / "only").mkdir()
    Image.new("L", (8, 8), 0).save(tmp_path / "only/0.png")
    assert open_incoming([str(tmp_path)], SHAPE)[0].classes == ()
    assert folder_files(f"folder:{tmp_path}").class_names == ("only",)
    assert Incoming.of_files([tmp_path / "only/0.png"], SHAPE).classes == ()
