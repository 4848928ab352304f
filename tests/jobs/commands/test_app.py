"""The command line through its real entry point: help, and every error that a user can meet before training starts."""

import json
import os
import socket

import pytest
from PIL import Image

from jobs.specs.presets import PRESETS
from jobs.specs.training import TrainSpec
from tests.jobs.command_line import glowctl, sentence_of


def test_help_lists_the_commands(tmp_path):
    done = glowctl(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("train", "nll", "sample", "interpolate", "ood", "evaluate", "demo", "ui", "doctor"):
        assert command in done.stdout


def test_help_of_train_lists_every_setting_by_theme_with_an_example(one_process, tmp_path):
    done = one_process(tmp_path, "train", "--help", COLUMNS="200")
    for theme in ("Data", "Model", "Optimisation", "Compute", "Record"):
        assert f"─ {theme} ─" in done.stdout
    for name in TrainSpec.model_fields:
        assert f"--{name.replace('_', '-')}" in done.stdout
    assert "(default 8; e.g. --depth 32)" in done.stdout


def test_print_spec_shows_what_would_run_and_can_be_given_back(one_process, tmp_path):
    done = one_process(tmp_path, "train", "--preset", "smoke", "--depth", "3", "--no-download", "--print-spec")
    values = json.loads(done.stdout)
    assert values["depth"] == 3
    assert values["download"] is False
    assert values["width"] == PRESETS["smoke"]["width"]
    (tmp_path / "spec.json").write_text(done.stdout)
    again = one_process(tmp_path, "train", "--spec", "spec.json", "--width", "24", "--print-spec")
    assert json.loads(again.stdout) == values | {"width": 24}


ASKED_WRONGLY = [
    ("train --preset desktop", "paper, laptop, best, smoke"),
    ("train --dataset minst", r"unknown data set 'minst' (did you mean"),
    ("train --preset smoke --levels 4", "8x8 is not divisible by 16: use at most 3 levels"),
    ("train --preset smoke --image-size 10", "10x10 is not divisible by 4"),
    (
        "train --preset smoke --dataset photos --image-size 500",
        "there are none of 500x500; pass a smaller --image-size",
    ),
    (
        "train --preset smoke --background red",
        "background must be white, black, or R,G,B, each from 0 to 255, not 'red'",
    ),
    ("nll --background 0,0,256", "background must be white, black, or R,G,B, each from 0 to 255, not '0,0,256'"),
    ("train --resume x --background black", "a resumed run keeps its settings: leave out --background"),
    ("train --preset smoke --image-size 9", "pass an --image-size that is a multiple of 4, such as 12"),
    ("train --preset smoke --per-class 4000", "per_class=4000, but class '0' has"),
    ("train --preset smoke --spec x.json", "--preset and --spec each say what to start from"),
    ("train --spec x.json", "cannot read the spec x.json"),
    ("train --resume x --print-spec", "leave out --resume"),
    ("train --preset smoke --workers 2000 --batch-size 4000", "cannot be shared by 2000 workers"),
    ("train --seed -1", "seed must be between 0 and"),
    ("train --resume x --depth 4", "a resumed run keeps its settings: leave out --depth"),
    ("train --workers 0", "workers is a number"),
    ("train --address 10.0.0.1:6379", "--address is the address of a Ray dashboard"),
    ("train --detach", "give its --address too"),
    ("jobs", "give its --address"),
    ("cluster status", "give its --address"),
    ("ablate --resume x --depths 4 --seeds 2", "keeps its settings: leave out --depths, --seeds"),
    ("ablate --summarize x --depths 4", "keeps its settings: leave out --depths"),
    ("ablate --summarize x --resume x", "give one of them"),
    ("ablate --summarize x --dry-run", "--dry-run is for a new ablation"),
    ("ood --corruptions fog", "corruptions names 'fog', which there is not: choose from all, noise, blur"),
    ("train --mutation 1", "mutation must be from 0 to below 1"),
    ("ablate --depths 0", "depth must be at least 1, not 0"),
]


@pytest.mark.parametrize(("asked", "message"), ASKED_WRONGLY)
def test_what_was_asked_wrongly_is_one_sentence_and_exit_code_2(one_process, tmp_path, asked, message):
    assert message in sentence_of(one_process(tmp_path, *asked.split()), 2)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_flag_that_is_none_is_answered_by_its_name(one_process, tmp_path):
    done = one_process(tmp_path, "train", "--permutaton", "1x1")
    assert done.returncode == 2
    assert "--permutation" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_is_named_with_where_and_how_to_get_it(one_process, tmp_path):
    done = one_process(tmp_path, "train", "--dataset", "kmnist", "--no-download", "--data-root", str(tmp_path))
    sentence = sentence_of(done, 1)
    assert "train-images-idx3-ubyte" in sentence
    assert str(tmp_path / "KMNIST" / "raw") in sentence
    assert "leave out --no-download" in sentence  # and not the library's download=True
    assert "download=True" not in sentence


@pytest.mark.parametrize("kind", ["differ", "odd", "two splits", "frames"])
def test_images_that_cannot_be_trained_on_are_named_in_words_of_the_command_line(one_process, tmp_path, kind):
    folder = tmp_path / "own/train/a"
    folder.mkdir(parents=True)
    for index in range(10):
        Image.new("L", (9, 7), index).save(folder / f"{index}.png")
    message = "7x9 is not divisible by 4: pass an --image-size that is a multiple of 4, such as 12"
    if kind == "differ":
        Image.new("L", (5, 5)).save(folder / "b.png")
        message = "b.png: 5x5); pass --image-size, such as --image-size 32"
    elif kind == "two splits":
        (tmp_path / "own/test").symlink_to("train")
        message = "own/test/a/0.png, of two splits, are one file; take it out of one of them"
    elif kind == "frames":
        Image.new("L", (9, 7)).save(folder / "b.gif", save_all=True, append_images=[Image.new("L", (9, 7), 9)])
        message = "b.gif has 2 frames or pages, of which only one could be read; extract them to files of their own"
    if kind == "odd":
        (tmp_path / "own/test").mkdir()
        Image.new("L", (9, 7)).save(tmp_path / "own/test/0.png")
    assert message in sentence_of(one_process(tmp_path, "train", "--preset", "smoke", "--dataset", "folder:own"), 2)


def test_damaged_data_is_named(one_process, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut off")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01 cut off")
    sentence = sentence_of(one_process(tmp_path, "train", "--dataset", "mnist", GLOW_DATA_ROOT=str(tmp_path)), 1)
    assert "train-images-idx3-ubyte" in sentence
    assert "replace it with a good copy" in sentence


def test_a_tracking_server_that_does_not_answer_is_said(one_process, tmp_path):
    """`test_a_server_that_does_not_answer_is_said_within_seconds` holds the check itself to a time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sentence = sentence_of(one_process(tmp_path, "train", "--preset", "smoke", "--tracking-uri", uri), 1)
    assert "does not answer" in sentence


def test_resuming_what_is_not_there_is_one_sentence(one_process, tmp_path):
    assert "no run 'first'" in sentence_of(one_process(tmp_path, "train", "--resume", "first"), 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    sentence = sentence_of(glowctl(tmp_path, "train", "--preset", "smoke", "--tracking-uri", "sqlite:////tmp/x.db"), 1)
    assert "cannot be written" in sentence


def test_an_output_that_is_a_file_is_named(one_process, tmp_path):
    (tmp_path / "outputs").write_text("")
    assert "cannot be written" in sentence_of(one_process(tmp_path, "train", "--preset", "smoke"), 1)


def test_doctor_says_what_there_is_and_what_is_wrong(one_process, tmp_path):
    done = one_process(tmp_path, "doctor", "--data-root", str(tmp_path), COLUMNS="200")
    assert done.returncode == 0, done.stdout
    for thing in ("python", "torch", "gpu", "ray", "mlflow", "tracking", "data root", "digits", "mnist", "svhn"):
        assert thing in done.stdout
    assert "missing" in done.stdout
    (tmp_path / "mlflow.db").write_text("not a database, however long one looks at it" * 20)
    done = one_process(tmp_path, "doctor", "--data-root", str(tmp_path), COLUMNS="200")
    assert done.returncode == 1
    assert "is not an MLflow store" in done.stdout


def test_ui_refuses_a_port_that_is_taken(one_process, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in sentence_of(one_process(tmp_path, "ui", "--port", str(port)), 1)


def test_a_run_is_not_repaired_where_there_is_no_store_and_none_is_made(one_process, tmp_path):
    assert "there is no MLflow store" in sentence_of(one_process(tmp_path, "repair", "nothing"))
    assert list(tmp_path.iterdir()) == []
