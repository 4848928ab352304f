"""`glowctl data`: what it says about data sets that it cannot show."""

import json

import pytest
from PIL import Image

from glow.datasets import open_dataset
from glowctl.browse.data import show_data
from glowctl.errors import JobError, explained
from tests.jobs import command_line


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_a_data_set_that_is_not_here_is_named_with_how_to_get_it(tmp_path, name):
    with pytest.raises(JobError) as raised:
        show_data(name, str(tmp_path), None, str(tmp_path / "sheet.png"), json=False)
    said = str(explained(raised.value))
    assert raised.value.code == "dataset-files-missing"
    for fact in (name, f"glowctl train --dataset {name}", str(tmp_path), "GLOW_DATA_ROOT"):
        assert fact in said
    assert "download=True" not in said
    assert "--no-download" not in said  # which this command lacks


def test_damaged_files_are_named_with_how_to_get_others(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut off")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01 cut off")
    with pytest.raises(JobError, match=r"train-images-idx3-ubyte.*glowctl train --dataset mnist") as raised:
        show_data("mnist", str(tmp_path), None, str(tmp_path / "sheet.png"), json=False)
    assert "--no-download" not in str(explained(raised.value))


def test_images_of_several_sizes_are_shown_at_the_size_that_the_remedy_asks_for(one_process, tmp_path):
    (tmp_path / "own/train").mkdir(parents=True)
    for side in range(5, 25):
        Image.new("L", (side, side), 99).save(tmp_path / f"own/train/{side}.png")
    said = command_line.sentence_of(one_process(tmp_path, "data", "folder:own"), 2)
    assert "--image-size 32" in said
    done = one_process(tmp_path, "data", "folder:own", "--image-size", "32", "--json")
    assert json.loads(done.stdout)["shape"] == "1x32x32"
    assert (tmp_path / "contact-sheet.png").is_file()
    said = command_line.sentence_of(one_process(tmp_path, "data", "folder:own", "--image-size", "0"), 2)
    assert "--image-size must be at least 1" in said


def test_a_damaged_image_is_named_and_not_the_picture(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(20):
        picture = folder / f"{number}.png"
        Image.effect_noise((64, 64), 50).save(picture)
        picture.write_bytes(picture.read_bytes()[:1000])
    with pytest.raises(JobError, match=r"own/\d+\.png") as raised:
        show_data(f"folder:{folder}", None, None, str(tmp_path / "sheet.png"), json=False)
    assert raised.value.code == "image-damaged"


def test_a_file_that_is_added_while_the_splits_are_opened_does_not_count(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for grey in range(100, 200):
        Image.new("L", (8, 8), grey).save(folder / f"{grey}.png")
    shown = []
    for adds in (False, True):

        def opened(name, split, *args, adds=adds, **kwargs):
            dataset = open_dataset(name, split, *args, **kwargs)
            if adds:
                for number in range(10):
                    Image.new("L", (8, 8)).save(folder / f"0-{split}-{number}.png")
            return dataset

        monkeypatch.setattr("glowctl.browse.data.open_dataset", opened)
        show_data(f"folder:{folder}", None, None, str(tmp_path / "sheet.png"), json=True)
        shown.append(json.loads(capsys.readouterr().out)["images"])
    assert shown[0] == shown[1]
    assert len(list(folder.iterdir())) == 130


def test_images_that_occur_in_two_splits_are_counted(tmp_path, capsys):
    for split, greys in (("train", [*range(100, 120), 100]), ("test", [119, 50, 51])):
        (tmp_path / split).mkdir()
        for number, grey in enumerate(greys):
            Image.new("L", (8, 8), grey).save(tmp_path / split / f"{number}.png")
    shown = str(tmp_path / "sheet.png")
    show_data(f"folder:{tmp_path}", None, None, shown, json=True, look_for_duplicates=True)
    counted = json.loads(capsys.readouterr().out)["duplicates"]
    assert counted["test"]["in train"] + counted["test"]["in validation"] == 1
    assert sum(counted[split]["again"] for split in counted) + counted["train"]["in validation"] == 1
    show_data(f"folder:{tmp_path}", None, None, shown, json=False, look_for_duplicates=True)
    assert counted["test"]["fingerprint"] in capsys.readouterr().out
