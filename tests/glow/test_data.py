"""Data sets, on tiny files that are written here and, if they are on this machine, on the real files."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from glow.datasets import (
    DatasetCorrupt,
    DatasetNotFound,
    data_root,
    dataset_names,
    describe,
    fingerprint,
    load_dataset,
    open_dataset,
    status,
)
from glow.datasets.registry import PUBLISHED
from tests.refusals import refused

REAL = Path(os.environ.get("GLOW_DATA_ROOT") or Path(__file__).parents[3] / "shared" / "data")
needs_real_files = pytest.mark.skipif(
    not (REAL / "MNIST/raw/train-images-idx3-ubyte").is_file(),
    reason="no real data: set GLOW_DATA_ROOT to a folder with MNIST",
)


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch):
    monkeypatch.delenv("GLOW_DATA_ROOT", raising=False)


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(root, images, labels, folder="MNIST/raw", stem="train"):
    raw = root / folder
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (raw / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return raw


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path):
    """25 images of each digit to train on, interleaved, and 10 to test on; pixel (0, 0) is the file order."""
    train, test = random_images(250, 28, 28), random_images(10, 28, 28, seed=1)
    train[:, 0, 0] = np.arange(250)
    write_idx(tmp_path, train, np.arange(250) % 10)
    write_idx(tmp_path, test, np.arange(10), stem="t10k")
    return tmp_path


def save_images(folder, count, size=(6, 4), mode="L", suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, size[1], size[0]) if mode == "L" else (count, size[1], size[0], 3)
    for index, pixels in enumerate(random_images(*shape, seed=len(folder.name))):
        Image.fromarray(pixels).save(folder / f"{index:03}.{suffix}")


# Names, roots, descriptions


def test_importing_and_reading_digits_cost_no_more_than_torch():
    code = (
        "import sys, glow.datasets; glow.datasets.load_dataset('digits', 'test'); "
        "print({'torchvision', 'sklearn', 'PIL', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_names_end_with_those_that_contain_a_path():
    names = dataset_names()
    assert {"digits", "mnist", "emnist-letters", "cifar10", "svhn", "noise", "photos"} < set(names)
    with_path = tuple(name for name in names if name.endswith(":PATH"))
    assert {"folder:PATH", "arrays:PATH", "packed:PATH"} <= set(with_path)
    assert names[-len(with_path) :] == with_path


@pytest.mark.parametrize("ask", [load_dataset, describe, status])
@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnits", "mnist"), ("FashionMNIST", "fashion-mnist"), ("folder:", "folder:PATH")],
)
def test_unknown_name(ask, name, hint):
    with pytest.raises(ValueError, match=rf"{name}' \(did you mean {hint}.*\): .*digits, mnist"):
        ask(name)


def test_unknown_split():
    with pytest.raises(ValueError, match=r"'val'.*train, validation, test"):
        load_dataset("digits", "val")


@pytest.mark.parametrize("shape", [(1, 0, 8), (8, 8)])
def test_impossible_shape(shape):
    with pytest.raises(ValueError, match=rf"image_shape .*{re.escape(str(shape))}"):
        load_dataset("digits", image_shape=shape)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache/glow/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path.home() / ".cache/glow/data"
    monkeypatch.setenv("GLOW_DATA_ROOT", str(tmp_path / "env"))
    assert data_root() == tmp_path / "env"
    assert data_root(tmp_path) == tmp_path
    assert data_root("~/x") == Path.home() / "x"


def test_describe(mnist):
    info = describe("mnist", mnist)
    assert (info.original_shape, info.image_shape) == ((1, 28, 28), (1, 32, 32))
    assert info.num_classes == 10
    assert info.class_names == tuple("0123456789")
    assert info.splits == ("train", "validation", "test")
    assert describe("mnist", mnist, image_shape=(3, 8, 8)).image_shape == (3, 8, 8)
    assert describe("noise", image_shape=(3, 8, 8)).original_shape == (3, 8, 8)
    assert describe("cifar10", mnist).splits == ()


# Splits


def test_official_split(mnist):
    images, labels = load_dataset("mnist", root=mnist)
    held_out, held_out_labels = load_dataset("mnist", "validation", mnist)
    assert images.shape == (230, 1, 32, 32)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.is_contiguous()
    assert images[:, 0, 2, 2].tolist() == list(range(230))  # 2 of 25 per class are held out: the last rows
    assert held_out[:, 0, 2, 2].tolist() == list(range(230, 250))
    assert held_out_labels.tolist() == 2 * list(range(10))
    assert not images[:, :, [0, 1, -2, -1]].any()
    assert not images[:, :, :, [0, 1, -2, -1]].any()
    test, test_labels = load_dataset("mnist", "test", mnist)
    assert test[:, 0, 2:-2, 2:-2].tolist() == random_images(10, 28, 28, seed=1).tolist()
    assert test_labels.tolist() == list(range(10))


def test_digits_are_always_dealt_the_same():
    splits = {split: load_dataset("digits", split) for split in ("train", "validation", "test")}
    from sklearn.datasets import load_digits

    everything = np.minimum(load_digits().images * 16, 255).astype(np.uint8)
    where = {image.tobytes(): index for index, image in enumerate(everything)}
    found = {split: [where[i.numpy().tobytes()] for i in images] for split, (images, _) in splits.items()}
    assert [len(indices) for indices in found.values()] == [1266, 176, 355]
    indices = found["train"] + found["validation"] + found["test"]
    assert sorted(indices) == list(range(1797))  # disjoint, and nothing is lost
    assert all(indices == sorted(indices) for indices in found.values())
    assert found["validation"][:8] == [11, 17, 29, 41, 43, 52, 59, 60]
    assert found["test"][:8] == [8, 9, 39, 46, 47, 49, 50, 51]
    for split, (images, labels) in splits.items():
        assert images.shape[1:] == (1, 8, 8)
        assert images.max() == 255
        assert labels.tolist() == load_digits().target[found[split]].tolist()


def test_per_class(mnist):
    images, labels = load_dataset("mnist", root=mnist, per_class=3)
    assert images[:, 0, 2, 2].tolist() == list(range(30))
    assert labels.bincount().tolist() == [3] * 10
    with pytest.raises(ValueError, match=r"per_class=24,.* '0' has 23 .*'train'"):
        load_dataset("mnist", root=mnist, per_class=24)
    with pytest.raises(ValueError, match=r"per_class .*\b0$"):
        load_dataset("mnist", root=mnist, per_class=0)


def test_empty_split(tmp_path):
    write_idx(tmp_path, random_images(9, 28, 28), np.zeros(9))
    with pytest.raises(ValueError, match="'validation' of mnist "):
        load_dataset("mnist", "validation", tmp_path)


# Made data


def test_photos_have_a_size():
    whole, _ = load_dataset("photos", "test", image_shape=(1, 427, 640), per_class=1)
    assert whole.shape == (2, 1, 427, 640)
    for shape in ((3, 428, 32), (3, 32, 641)):
        with pytest.raises(ValueError, match=f"427 .* 640 .* {shape[1]}x{shape[2]}"):
            load_dataset("photos", image_shape=shape)


@pytest.mark.parametrize("name", ["noise", "constant"])
def test_made_data(name):
    first, labels = load_dataset(name, "test", image_shape=(3, 5, 4))
    assert first.shape == (1000, 3, 5, 4)
    assert not labels.any()
    assert torch.equal(first, load_dataset(name, "test", image_shape=(3, 5, 4))[0])
    assert not torch.equal(first, load_dataset(name, "validation", image_shape=(3, 5, 4))[0])
    assert load_dataset(name)[0].shape == (10_000, 1, 32, 32)
    assert 120 < first.float().mean() < 135
    assert first.unique().numel() == 256
    is_constant = (first == first[:, :, :1, :1]).all().item()
    assert is_constant == (name == "constant")
    assert (first[:, 0] != first[:, 1]).any()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 20)])
def test_photos_are_patches_of_two_photographs(split, shape):
    from sklearn.datasets import load_sample_image
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    images, labels = load_dataset("photos", split, image_shape=shape)
    assert images.shape == (10_000 if split == "train" else 1_000, *shape)
    assert (images.dtype, images.is_contiguous()) == (torch.uint8, True)
    assert torch.equal(images, load_dataset("photos", split, image_shape=shape)[0])
    assert torch.equal(labels, torch.arange(len(images)) % 2)
    names = describe("photos").class_names
    assert names == ("china", "flower")
    for index in range(4):
        photo = torch.from_numpy(load_sample_image(f"{names[labels[index]]}.jpg").copy()).permute(2, 0, 1)
        photo = rgb_to_grayscale(photo) if shape[0] == 1 else photo
        patches = photo.unfold(1, shape[1], 1).unfold(2, shape[2], 1)
        alike = (patches[..., 0, 0] == images[index, :, :1, :1]).all(0)  # few begin with the same pixel
        assert (patches[:, alike] == images[index, :, None]).flatten(2).all(2).all(0).any()


# Conversion


def test_smaller_images_are_padded_on_all_sides(mnist):
    unpadded, _ = load_dataset("mnist", "test", mnist, image_shape=(1, 28, 28))
    images, _ = load_dataset("mnist", "test", mnist, image_shape=(1, 31, 40))
    assert torch.equal(images[:, :, 1:29, 6:34], unpadded)
    assert images.sum() == unpadded.sum()


def test_larger_images_shrink_from_the_unpadded_original(mnist):
    from torchvision.transforms.v2.functional import resize

    unpadded, _ = load_dataset("mnist", "test", mnist, image_shape=(1, 28, 28))
    images, _ = load_dataset("mnist", "test", mnist, image_shape=(1, 8, 8))
    assert torch.equal(images, resize(unpadded, [8, 8], antialias=True))
    wide, _ = load_dataset("mnist", "test", mnist, image_shape=(1, 8, 14))  # keeps the aspect ratio
    assert torch.equal(wide[..., 3:11], images)
    assert wide.sum() == images.sum()


def test_grey_to_rgb(mnist):
    grey, _ = load_dataset("mnist", "test", mnist)
    rgb, _ = load_dataset("mnist", "test", mnist, image_shape=(3, 32, 32))
    assert rgb.is_contiguous()
    assert torch.equal(rgb, grey.repeat(1, 3, 1, 1))


def test_rgb_to_grey(tmp_path):
    for index, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        (tmp_path / "test").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / "test" / f"{index}.png")
    images, _ = load_dataset(f"folder:{tmp_path}", "test", image_shape=(1, 4, 4))
    assert images[:, 0, 0, 0].tolist() == [76, 149, 29]  # ITU-R 601: 0.2989, 0.587, 0.114


# EMNIST


def test_letters_are_turned_upright_and_partial_files_are_enough(tmp_path):
    upright = random_images(3, 28, 28)
    labels = np.array([1, 26, 1])
    write_idx(tmp_path, upright.transpose(0, 2, 1), labels, "EMNIST/raw", "emnist-letters-test")
    images, classes = load_dataset("emnist-letters", "test", tmp_path)
    assert images[:, 0, 2:-2, 2:-2].tolist() == upright.tolist()
    info = describe("emnist-letters", tmp_path)
    assert [info.class_names[label] for label in classes] == ["A", "Z", "A"]
    assert info.splits == ("test",)
    found = status("emnist-letters", tmp_path)
    assert found.state == "partial: test only"
    assert "emnist-letters-train-images-idx3-ubyte" in found.advice
    assert "emnist-letters-test" not in found.advice
    for split in ("train", "validation"):
        with refused("dataset-files-missing", DatasetNotFound, match=r"emnist-letters .*train"):
            load_dataset("emnist-letters", split, tmp_path)


# Missing files and downloads


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist", "test", tmp_path)
    message = str(caught.value)
    assert isinstance(caught.value, DatasetNotFound)
    assert caught.value.code == "dataset-files-missing"
    for part in (
        "t10k-images-idx3-ubyte and t10k-labels",
        str(tmp_path / "MNIST/raw"),
        "download=True",
        "https://ossci",
        "GLOW_DATA_ROOT",
    ):
        assert part in message
    assert "train" not in message
    assert "\n" not in message
    assert status("mnist", tmp_path).state == "missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("put", "found"),
    [
        (lambda file: file.with_name(f"{file.name}.gz").write_bytes(b"x"), r"ubyte\.gz .*gunzip"),
        (lambda file: file.mkdir(), "ubyte .*folder"),
    ],
    ids=["compressed", "folder"],
)
def test_what_is_in_the_place_of_a_missing_file_is_named(mnist, put, found):
    file = mnist / "MNIST/raw/train-images-idx3-ubyte"
    file.unlink()
    put(file)
    with pytest.raises(DatasetNotFound, match=rf"mnist .*train.* \(.*{found}.*\): .*download=True"):
        load_dataset("mnist", root=mnist)
    assert re.fullmatch(rf"partial: test only \(.*{found}.*\)", status("mnist", mnist).state)


def test_download_brings_only_what_is_missing(mnist, monkeypatch):
    for file in (mnist / "MNIST/raw").glob("t10k*"):
        file.unlink()
    before = fingerprint(load_dataset("mnist", root=mnist)[0])

    def download(root, train, download):
        assert (train, download) == (False, True)
        write_idx(Path(root), random_images(5, 28, 28), np.zeros(5))
        write_idx(Path(root), random_images(5, 28, 28, seed=7), np.arange(5), stem="t10k")

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    images, _ = load_dataset("mnist", "test", mnist, download=True)
    assert images[:, 0, 2:-2, 2:-2].tolist() == random_images(5, 28, 28, seed=7).tolist()
    assert fingerprint(load_dataset("mnist", root=mnist)[0]) == before
    assert [path.name for path in mnist.iterdir()] == ["MNIST"]


@pytest.mark.parametrize(
    "error",
    [URLError("no network"), RuntimeError("Error downloading x:\nTried y, got:\nno network"), EOFError()],
)
def test_failed_download(tmp_path, monkeypatch, error):
    def download(root, train, download):
        raise error

    monkeypatch.setattr("torchvision.datasets.KMNIST", download)
    cause = "EOFError" if isinstance(error, EOFError) else "no network"
    with refused("download-failed", DatasetNotFound, match=rf"kmnist .*\(.*{cause}.*\)") as caught:
        load_dataset("kmnist", root=tmp_path, download=True)
    assert "train-images-idx3-ubyte" in caught.value.remedy
    assert str(tmp_path / "KMNIST/raw") in caught.value.remedy
    assert not list(tmp_path.iterdir())


# Corrupt files


@pytest.mark.parametrize(
    ("kind", "damage", "problem"),
    [
        ("images-idx3", lambda data: data[:1000], "cut short"),
        ("images-idx3", lambda data: b"", "empty"),
        ("images-idx3", lambda data: b"\x1f\x8b" + data, "IDX"),
        ("images-idx3", lambda data: data + b"x", "IDX"),
        ("images-idx3", lambda data: idx_bytes(random_images(250, 8, 8)), r"\b28x28\b"),
        ("images-idx3", lambda data: idx_bytes(random_images(0, 28, 28)), "empty"),
        ("labels-idx1", lambda data: data[:20], "cut short"),
        ("labels-idx1", lambda data: idx_bytes(np.zeros(249)), r"\b249 .*\b250\b"),
        ("labels-idx1", lambda data: b"\0\0\x0b\1" + data[4:], "IDX"),
        ("labels-idx1", lambda data: idx_bytes(np.full(250, 10)), r"\b0 to 9\b"),
    ],
)
def test_corrupt_idx(mnist, kind, damage, problem):
    file = mnist / f"MNIST/raw/train-{kind}-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetCorrupt) as caught:
        load_dataset("mnist", root=mnist)
    error = caught.value
    assert not isinstance(error, FileNotFoundError)
    assert error.code == "dataset-damaged"
    assert error.problem.startswith(f"{file} ")
    assert re.search(problem, error.problem.removeprefix(str(file)))
    assert "download=True" in error.remedy
    assert status("mnist", mnist).state == f"corrupt: {error.problem}"
    load_dataset("mnist", "test", mnist)  # the other files still work


# CIFAR-10 and SVHN


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Ten images per batch, with torchvision patched so that these are the published files."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for seed, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        batch = {"data": random_images(10, 3072, seed=seed), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))
    for published in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(CIFAR10, published)]
        monkeypatch.setattr(CIFAR10, published, files)
    monkeypatch.setitem(CIFAR10.meta, "md5", md5(folder / "batches.meta"))
    return tmp_path


def test_cifar10(cifar10):
    images, labels = load_dataset("cifar10", "test", cifar10)
    assert images.tolist() == random_images(10, 3072, seed=5).reshape(10, 3, 32, 32).tolist()
    assert images.is_contiguous()
    assert labels.tolist() == list(range(10))
    assert load_dataset("cifar10", root=cifar10)[0].shape == (50, 3, 32, 32)
    assert status("cifar10", cifar10).state == "found"
    assert describe("cifar10").class_names[3] == "cat"


def test_cifar10_corrupt_or_missing(cifar10):
    file = cifar10 / "cifar-10-batches-py/data_batch_2"
    file.write_bytes(b"\x80\x02not a pickle")
    with refused("dataset-damaged", DatasetCorrupt, match=r"MD5 .*data_batch_2"):
        load_dataset("cifar10", root=cifar10)
    file.unlink()
    with pytest.raises(DatasetNotFound) as missing:
        load_dataset("cifar10", root=cifar10)
    assert f"data_batch_2 into {file.parent}" in missing.value.remedy


def test_svhn(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images_NCHW = random_images(4, 3, 32, 32)
    file = tmp_path / "test_32x32.mat"
    savemat(file, {"X": images_NCHW.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9], [2]], np.uint8)})
    with refused("dataset-damaged", DatasetCorrupt, match=r"MD5 .*test_32x32\.mat"):
        load_dataset("svhn", "test", tmp_path)
    url, name, _ = SVHN.split_list["test"]
    monkeypatch.setitem(SVHN.split_list, "test", [url, name, md5(file)])
    images, labels = load_dataset("svhn", "test", tmp_path)
    assert images.tolist() == images_NCHW.tolist()
    assert labels.tolist() == [0, 1, 9, 2]
    assert status("svhn", tmp_path).state == "partial: test only"
    with pytest.raises(DatasetNotFound, match=r"train_32x32\.mat"):
        load_dataset("svhn", "train", tmp_path)


# Files other than the published ones


def test_files_other_than_the_published_are_noted(mnist):
    raw = mnist / "MNIST/raw"
    for split, stem in (("train", "train"), ("validation", "train"), ("test", "t10k")):
        (note,) = open_dataset("mnist", split, mnist, per_class=1).notes
        assert note.startswith("mnist ")
        for kind in ("images-idx3", "labels-idx1"):
            file = raw / f"{stem}-{kind}-ubyte"
            assert re.search(rf"{file.name} \D*MD5 {md5(file)}, not {PUBLISHED[f'MNIST/raw/{file.name}']}", note)


def test_as_many_images_as_published_are_expected_where_no_md5_is_known(tmp_path):
    write_idx(tmp_path, random_images(2, 28, 28), np.array([1, 26]), "EMNIST/raw", "emnist-letters-test")
    (note,) = open_dataset("emnist-letters", "test", tmp_path).notes
    _, file, counts = note.partition("emnist-letters-test-images-idx3-ubyte")
    assert file
    assert re.findall(r"\d+", counts) == ["2", "20800"]


def test_nothing_is_noted_of_published_files(mnist, monkeypatch):
    files = [path.relative_to(mnist) for path in (mnist / "MNIST/raw").iterdir()]
    monkeypatch.setattr("glow.datasets.registry.PUBLISHED", {str(file): md5(mnist / file) for file in files})
    assert open_dataset("mnist", root=mnist).notes == open_dataset("digits").notes == open_dataset("noise").notes == ()


# Folders


def test_flat_folder_is_one_class(tmp_path):
    save_images(tmp_path / "cats", 20)
    (tmp_path / "cats/notes.txt").write_text("not an image")
    (tmp_path / "cats/.hidden.png").write_text("not an image")
    name = f"folder:{tmp_path / 'cats'}"
    info = describe(name)
    assert info.class_names == ("cats",)
    assert info.original_shape == info.image_shape == (1, 4, 6)
    assert info.splits == ("train", "validation", "test")
    counts = [len(load_dataset(name, split)[0]) for split in info.splits]
    assert counts == [14, 2, 4]
    assert status(name).state == "found"


def test_class_folders_are_dealt_in_order_of_their_paths(tmp_path):
    save_images(tmp_path / "b", 10)
    save_images(tmp_path / "aa" / "deeper", 10)
    (tmp_path / "empty").mkdir()
    name = f"folder:{tmp_path}"
    assert describe(name).class_names == ("aa", "b")
    splits = [load_dataset(name, split) for split in ("train", "validation", "test")]
    assert [labels.bincount().tolist() for _, labels in splits] == [[7, 7], [1, 1], [2, 2]]
    assert all(labels.tolist() == sorted(labels.tolist()) for _, labels in splits)
    images = torch.cat([images for images, _ in splits])
    assert len({image.numpy().tobytes() for image in images}) == 20


@pytest.mark.parametrize("validation", [None, "val", "validation"])
def test_folder_with_official_splits(tmp_path, validation):
    for part, count in (("train", 20), ("test", 3), *([(validation, 5)] if validation else [])):
        save_images(tmp_path / part / "cat", count)
        save_images(tmp_path / part / "dog", count)
    save_images(tmp_path / "test" / "eel", 1)
    name = f"folder:{tmp_path}"
    assert describe(name).class_names == ("cat", "dog", "eel")
    counts = {split: load_dataset(name, split)[1].bincount().tolist() for split in describe(name).splits}
    expected = ([20, 20], [5, 5]) if validation else ([18, 18], [2, 2])
    assert counts == {"train": expected[0], "validation": expected[1], "test": [3, 3, 1]}
    held_out, _ = load_dataset(name, "validation", per_class=None)
    if not validation:
        last = np.array(Image.open(tmp_path / "train/cat/018.png"))
        assert held_out[0, 0].tolist() == last.tolist()
    with pytest.raises(ValueError, match=r"per_class=1\b.*'eel'.*\b0\b.*'train'"):
        load_dataset(name, per_class=1)


def test_folder_with_test_images_only(tmp_path):
    save_images(tmp_path / "test", 3)
    name = f"folder:{tmp_path}"
    images, labels = load_dataset(name, "test")
    assert len(images) == 3
    assert not labels.any()
    assert status(name).state == "partial: test only"
    with refused("split-not-found", DatasetNotFound, match=r"'train' \(only test\)") as caught:
        load_dataset(name)
    assert "train/" in caught.value.remedy


def test_folder_of_mixed_sizes(tmp_path):
    save_images(tmp_path / "a", 10)
    save_images(tmp_path / "b", 10, size=(20, 10), mode="RGB")
    name = f"folder:{tmp_path}"
    for ask in (load_dataset, describe):
        with pytest.raises(ValueError, match=r"\(.*6x4, .*20x10\).*image_shape"):
            ask(name)
    images, _ = load_dataset(name, image_shape=(1, 8, 8))
    assert images.shape == (14, 1, 8, 8)
    assert not images[0, 0, :2].any()
    assert describe(name, image_shape=(1, 8, 8)).original_shape == (1, 8, 8)


def test_folder_errors(tmp_path):
    nowhere = f"folder:{tmp_path / 'nowhere'}"
    with refused("dataset-not-found", DatasetNotFound, match=nowhere):
        load_dataset(nowhere)
    assert status(nowhere).state == "missing"
    with refused("no-images", DatasetNotFound, match=str(tmp_path)):
        describe(f"folder:{tmp_path}")
    save_images(tmp_path / "a", 1)
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=rf"{tmp_path} .*\(loose\.png\)") as loose:
        load_dataset(f"folder:{tmp_path}")
    found = status(f"folder:{tmp_path}")
    assert found.state.startswith(f"corrupt: {tmp_path} ")
    assert found.advice[1:-1] in str(loose.value)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_folder_with_a_file_that_cannot_be_decoded(tmp_path, content):
    save_images(tmp_path / "test", 2, size=(40, 40))
    file = tmp_path / "test/001.png"
    file.write_bytes(file.read_bytes()[:700] if content == "truncated" else content)
    with refused("image-damaged", DatasetCorrupt, match=r"001\.png"):
        load_dataset(f"folder:{tmp_path}", "test")
    assert status(f"folder:{tmp_path}").state.startswith("corrupt: " if content == b"" else "partial: test only")


# Status and fingerprint


def test_status_of_what_is_there(mnist):
    for name in ("digits", "noise", "constant", "photos", "mnist"):
        assert (status(name, mnist).state, status(name, mnist).advice) == ("found", "Nothing to do.")


def test_fingerprint():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    assert fingerprint(images) == "a159ac4a548b2fd0"
    assert fingerprint(images.repeat(1, 2, 1, 1)[:, :1]) == "a159ac4a548b2fd0"  # not contiguous
    others = [images.reshape(2, 1, 4, 3), images.to(torch.int8), images.flip(0)]
    assert len({fingerprint(other) for other in (images, *others)}) == 4


# Piece by piece


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten images: grey, and larger ones in colour."""
    save_images(tmp_path / "folder/a", 10)
    save_images(tmp_path / "folder/b", 10, size=(20, 10), mode="RGB")
    return f"folder:{tmp_path / 'folder'}"


def decoded(monkeypatch):
    """Return a list to which the name of every image file is added that Pillow opens from now on."""
    names, pillow_open = [], Image.open

    def open_(file, *args):
        names.append(Path(getattr(file, "name", file)).name)
        return pillow_open(file, *args)

    monkeypatch.setattr(Image, "open", open_)
    return names


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {}),
        ("digits", {"split": "validation", "per_class": 5}),
        ("mnist", {}),
        ("mnist", {"image_shape": (3, 20, 31)}),
        ("noise", {"split": "test", "image_shape": (3, 5, 4)}),
        ("constant", {"split": "test", "image_shape": (3, 5, 4)}),
        ("photos", {"split": "test", "image_shape": (1, 8, 8)}),
        ("folder", {"image_shape": (1, 8, 8)}),
        ("folder", {"image_shape": (3, 5, 4), "per_class": 2}),
    ],
)
def test_pieces_are_what_load_dataset_gives(name, options, mnist, folder):
    name = folder if name == "folder" else name
    images, labels = load_dataset(name, root=mnist, **options)
    opened = open_dataset(name, root=mnist, **options)
    assert len(opened) == len(images)
    assert torch.equal(opened.labels, labels)
    assert opened.image_shape == images.shape[1:]
    assert opened.class_names == describe(name, image_shape=options.get("image_shape")).class_names
    for step in (1, 7, len(images)):
        pieces = [opened.images(start, start + step) for start in range(0, len(images), step)]
        assert all(piece.is_contiguous() for piece in pieces)
        assert torch.equal(torch.cat(pieces), images)
        assert opened.fingerprint(chunk=step) == fingerprint(images)
    assert opened.fingerprint() == fingerprint(images)


@pytest.mark.parametrize("name", ["digits", "mnist", "folder"])
def test_positions_are_those_of_a_slice(name, mnist, folder):
    opened = open_dataset(folder if name == "folder" else name, root=mnist, image_shape=(1, 6, 6))
    images = opened.images(0, len(opened))
    for start, stop in ((3, 3), (9, 2), (-2, len(opened) + 5), (len(opened), len(opened) + 1)):
        assert torch.equal(opened.images(start, stop), images[start:stop])
    with pytest.raises(ValueError, match=r"chunk .*-1"):
        opened.fingerprint(chunk=-1)


def test_files_of_a_folder_are_read_when_asked_for(folder, monkeypatch):
    opens = decoded(monkeypatch)
    opened = open_dataset(folder, image_shape=(1, 8, 8))
    assert (len(opened), opened.labels.tolist(), opened.image_shape) == (14, 7 * [0] + 7 * [1], (1, 8, 8))
    assert opens == []
    opened.images(3, 5)
    assert len(opens) == 2
    opened.images(0, 0)
    assert len(opens) == 2


def test_a_damaged_file_is_noticed_when_it_is_read(tmp_path):
    save_images(tmp_path / "test", 4)
    (tmp_path / "test/002.png").write_bytes(b"not an image")
    opened = open_dataset(f"folder:{tmp_path}", "test", image_shape=(1, 4, 6))
    assert len(opened.images(0, 2)) == 2
    for read in (lambda: opened.images(2, 4), opened.fingerprint):
        with refused("image-damaged", DatasetCorrupt, match=r"002\.png"):
            read()


def test_errors_other_than_damaged_pixels_are_noticed_when_opening(mnist, folder):
    for name in ("mnist", folder):
        with pytest.raises(ValueError, match=r"channels .* 2:"):
            open_dataset(name, root=mnist, image_shape=(2, 8, 8))
        with pytest.raises(ValueError, match="per_class=99"):
            open_dataset(name, root=mnist, image_shape=(1, 8, 8), per_class=99)
    with pytest.raises(ValueError, match="differ in size"):
        open_dataset(folder)
    with pytest.raises(ValueError, match="split 'val'"):
        open_dataset("mnist", "val", mnist)
    with pytest.raises(DatasetNotFound, match=r"kmnist .*train"):
        open_dataset("kmnist", root=mnist)


# The real files


@needs_real_files
def test_real_mnist_is_the_files_and_never_holds_out_the_first_4000():
    raw = torch.from_numpy(np.fromfile(REAL / "MNIST/raw/train-images-idx3-ubyte", np.uint8, offset=16))
    raw = raw.reshape(-1, 1, 28, 28)
    raw_labels = np.fromfile(REAL / "MNIST/raw/train-labels-idx1-ubyte", np.uint8, offset=8)
    train, labels = load_dataset("mnist", "train", REAL, image_shape=(1, 28, 28))
    held_out, _ = load_dataset("mnist", "validation", REAL, image_shape=(1, 28, 28))
    assert (len(train), len(held_out)) == (54_004, 5_996)
    assert open_dataset("mnist", "train", REAL).notes == open_dataset("mnist", "test", REAL).notes == ()
    assert load_dataset("mnist", "test", REAL)[0].shape == (10_000, 1, 32, 32)
    total = train.sum(dtype=torch.int64) + held_out.sum(dtype=torch.int64)
    assert total.item() / (60_000 * 784 * 255) == pytest.approx(0.1307, abs=5e-5)
    first = np.sort(np.concatenate([np.flatnonzero(raw_labels == digit)[:4000] for digit in range(10)]))
    balanced, balanced_labels = load_dataset("mnist", "train", REAL, image_shape=(1, 28, 28), per_class=4000)
    assert torch.equal(balanced, raw[first])
    assert balanced_labels.tolist() == raw_labels[first].tolist()
    for digit in range(10):
        of_digit = raw[raw_labels == digit]
        assert torch.equal(train[labels == digit], of_digit[: len(of_digit) - len(of_digit) // 10])


@needs_real_files
def test_real_letters_are_upright():
    if "test" not in describe("emnist-letters", REAL).splits:
        pytest.skip(f"no EMNIST letters under {REAL}")
    images, labels = load_dataset("emnist-letters", "test", REAL)
    assert labels.unique().numel() == 26
    mean_A = images[labels == 0].float().mean(0)[0]  # narrow at the top, wide at the bottom
    columns = torch.arange(32.0)

    def width(rows):
        weight = rows.sum(0) / rows.sum()
        centre = (weight * columns).sum()
        return (weight * (columns - centre) ** 2).sum().sqrt()

    assert width(mean_A[5:12]) < 0.8 * width(mean_A[20:27])
    mean_L = images[labels == 11].float().mean(0)[0]
    assert mean_L[20:].sum() > 1.3 * mean_L[:12].sum()
