"""Known data sets whose images are published as files: each is found where its publisher or torchvision puts it."""

import pytest
from PIL import Image

from glow.datasets import describe, load_dataset, open_dataset, status
from glow.datasets.incoming import open_incoming
from glow.datasets.known_folders import LAYOUTS

FILES = {
    "textures": ("dtd/images/banded/banded_0002.jpg", "dtd/images/blotchy/blotchy_0003.jpg"),
    "tiny-imagenet": ("tiny-imagenet-200/val/images/val_0.JPEG", "tiny-imagenet-200/val/images/val_1.JPEG"),
    "places365": ("val_256/Places365_val_00000001.jpg", "val_256/Places365_val_00000002.jpg"),
    "celeba": ("celeba/img_align_celeba/000001.jpg", "celeba/img_align_celeba/000002.jpg"),
    "gtsrb": ("gtsrb/GTSRB/Final_Test/Images/00000.ppm", "gtsrb/GTSRB/Final_Test/Images/00001.ppm"),
    "notmnist": ("notMNIST_small/A/a.png", "notMNIST_small/B/b.png"),
    "omniglot": (
        "omniglot-py/images_evaluation/Angelic/character01/0965_01.png",
        "omniglot-py/images_evaluation/Atlantean/character01/1000_01.png",
    ),
}
CLASSES = {"textures": ("banded", "blotchy"), "notmnist": ("A", "B"), "omniglot": ("Angelic", "Atlantean")}


@pytest.fixture
def root(tmp_path):
    for name, files in FILES.items():
        channels, height, width = LAYOUTS[name].shape
        for grey, file in zip((40, 200), files, strict=True):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if channels == 3 else "L", (width, height), (grey,) * channels).save(tmp_path / file)
    return tmp_path


def test_every_layout_is_tried():
    assert set(FILES) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_images_are_the_test_split(name, root):
    images, labels = load_dataset(name, "test", root, image_shape=(3, 32, 32))
    assert images[:, 0, 16, 16].tolist() == pytest.approx([40, 200], abs=2)  # JPEG changes values a little
    info = describe(name, root, image_shape=(3, 32, 32))
    assert (info.splits, info.original_shape) == (("test",), LAYOUTS[name].shape)
    assert info.class_names == CLASSES.get(name, (name,))
    assert labels.tolist() == ([0, 1] if name in CLASSES else [0, 0])
    assert status(name, root).state == "partial: test only"
    assert info.shrunk == (name not in ("gtsrb", "notmnist"))


def test_only_the_official_test_images_of_celeba_are_used(root):
    folder = root / "celeba" / "img_align_celeba"
    for number in range(3, 19_966):
        (folder / f"{number:06}.jpg").touch()
    dataset = open_dataset("celeba", "test", root, image_shape=(3, 32, 32))
    assert len(dataset) == 19_962
    with pytest.raises(OSError, match=r"000004\.jpg"):
        dataset.images(0, 1)


def test_images_of_one_channel_are_made_for_a_model_of_grey_images(root):
    assert load_dataset("textures", "test", root, image_shape=(1, 32, 32))[0].shape == (2, 1, 32, 32)


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_images_are_named_with_where_they_belong_and_where_they_are(name, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_dataset(name, "test", tmp_path, image_shape=(3, 32, 32))
    for fact in (name, str(tmp_path / LAYOUTS[name].folder), LAYOUTS[name].page, "GLOW_DATA_ROOT"):
        assert fact in str(missing.value)
    assert status(name, tmp_path).state == "missing"
    assert describe(name, tmp_path).splits == ()


def test_there_is_nothing_to_train_on(root):
    with pytest.raises(FileNotFoundError, match="textures has no images for split 'train' \\(only test\\)"):
        load_dataset("textures", "train", root, image_shape=(3, 32, 32))


def test_a_batch_to_check_can_be_named_so(root):
    (part,) = open_incoming(["notmnist"], (1, 28, 28), root=root)
    assert part.names == ["notmnist test 0", "notmnist test 1"]
