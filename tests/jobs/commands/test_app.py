"""The command line through its real entry point: help, and every error that a user can meet before training starts."""

import json
import socket

import pytest
from PIL import Image

from glowctl.commands.options import refuse_unused
from glowctl.specs.evaluation import SampleSpec
from glowctl.specs.training import PRESETS, TrainSpec
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
    ("train --preset desktop", ["--preset desktop", *PRESETS]),
    ("train --dataset minst", ["'minst'", "did you mean"]),
    ("train --preset smoke --levels 4", ["--levels 4 ", "8x8", "16", "at most --levels 3"]),
    ("train --preset smoke --image-size 10", ["10x10", "4"]),
    ("train --preset smoke --dataset photos --image-size 500", ["500x500", "--image-size"]),
    ("train --preset smoke --per-class 4000", ["--per-class 4000", "class '", "at most --per-class 1"]),
    ("train --preset smoke --leave-out 77,1", ["--leave-out 77,1", "'77'", "0, 1, 2"]),
    ("train --preset smoke --leave-out 0,1,2,3,4,5,6,7,8,9", ["--leave-out 0,", "fewer"]),
    ("train --preset smoke --spec x.json", ["--preset", "--spec"]),
    ("train --spec x.json", ["--spec x.json", "No such file"]),
    ("train --resume x --print-spec", ["--resume", "--print-spec"]),
    ("train --preset smoke --workers 2000 --batch-size 4000", ["2000 workers"]),
    ("train --resume x --depth 4", ["leave out --depth"]),
    ("train --address 10.0.0.1:6379", ["--address", "http://localhost:8265", "10.0.0.1:6379"]),
    ("train --detach", ["--detach", "--address"]),
    ("jobs", ["--address"]),
    ("ablate --resume x --depths 4 --seeds 2", ["leave out --depths, --seeds"]),
    ("ablate --summarize x --resume x", ["--resume", "--summarize"]),
    ("ablate --summarize x --dry-run", ["--dry-run", "--summarize", "leave out"]),
    ("ablate --dry-run --print-spec", ["--dry-run", "--print-spec", "leave out"]),
    ("sample --temperature 0.7 --temperatures 0,1", ["leave out --temperature", "--temperature 0.7", "--temperatures"]),
    ("interpolate --pairs-per-class 1 --from A.png --to B.png", ["leave out --pairs-per-class", "--from"]),
    ("ood --corruption-images 1000", ["--corruption-images 1000", "add --corruptions"]),
    ("cluster init kuberay --region eu-west-1", ["--region eu-west-1", "kuberay", "--storage and --maximum"]),
    ("cluster init aws --storage /srv/glow", ["--storage", "s3://bucket/glow", "not /srv/glow"]),
    ("cluster init aws --storage s3://ours/$(id)", ["--storage", "not s3://ours/$(id)"]),
    ("cluster init local --storage s3://ours/glow", ["--storage", "absolute path", "not s3://ours/glow"]),
    ("cluster init aws --maximum 0", ["--maximum", "at least 1", "not 0"]),
    # What Typer refuses.
    ("cluster init azure", ["'aws', 'local', 'kuberay'", "'azure'"]),
    ("train --epochs x", ["--epochs", "whole number", "'x'"]),
    ("train --permutation swap", ["--permutation", "'1x1', 'shuffle', 'reverse'", "'swap'"]),
    ("train --permutaton 1x1", ["--permutaton", "--permutation", "glowctl train --help"]),
    ("train --depth", ["--depth", "--help"]),
    ("train mnist", ["mnist", "glowctl train --help"]),
    ("trian", ["'trian'", "'train'", "glowctl --help"]),
    ("ui --port 65536", ["--port", "at most 65535", "65536"]),
    ("show", ["RUN", "glowctl show --help"]),
    ("report --runs ,", ["--runs", "','"]),
]


@pytest.mark.parametrize(("asked", "facts"), ASKED_WRONGLY)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(one_process, tmp_path, asked, facts):
    said = sentence_of(one_process(tmp_path, *asked.split()), 2)
    assert [fact for fact in facts if fact not in said] == []
    assert "error," not in said  # as pydantic begins a message
    assert not (tmp_path / "mlflow.db").exists()


def test_a_flag_that_the_spec_file_makes_useless_is_refused_and_the_file_alone_is_not(one_process, tmp_path):
    stored = SampleSpec(temperatures=(0.0, 1.0))
    (tmp_path / "spec.json").write_text(stored.model_dump_json())
    asked = ("sample", "--spec", "spec.json", "--temperature")
    assert "leave out --temperature" in sentence_of(one_process(tmp_path, *asked, "0.9"), 2)
    refuse_unused(stored, {"temperatures", "seed"})


def test_a_command_without_arguments_shows_its_help(one_process, tmp_path):
    done = one_process(tmp_path, "cluster")
    assert done.returncode == 2
    assert "status" in done.stdout


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
    facts = ["7x9", "4", "--image-size", "12"]
    if kind == "differ":
        Image.new("L", (5, 5)).save(folder / "b.png")
        facts = ["b.png", "5x5", "--image-size 32"]
    elif kind == "two splits":
        (tmp_path / "own/test").symlink_to("train")
        facts = ["own/test/a/0.png"]
    elif kind == "frames":
        Image.new("L", (9, 7)).save(folder / "b.gif", save_all=True, append_images=[Image.new("L", (9, 7), 9)])
        facts = ["b.gif", "2 frames"]
    if kind == "odd":
        (tmp_path / "own/test").mkdir()
        Image.new("L", (9, 7)).save(tmp_path / "own/test/0.png")
    said = sentence_of(one_process(tmp_path, "train", "--preset", "smoke", "--dataset", "folder:own"), 2)
    assert [fact for fact in facts if fact not in said] == []


@pytest.mark.slow
def test_a_tracking_server_that_does_not_answer_is_said(one_process, tmp_path):
    """`test_a_server_that_does_not_answer_is_said_within_seconds` holds the check itself to a time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sentence = sentence_of(one_process(tmp_path, "train", "--preset", "smoke", "--tracking-uri", uri), 1)
    assert uri in sentence


def test_an_output_that_is_a_file_is_named(one_process, tmp_path):
    (tmp_path / "outputs").write_text("")
    sentence = sentence_of(one_process(tmp_path, "train", "--preset", "smoke"), 1)
    assert "--output" in sentence
    assert str(tmp_path / "outputs") in sentence


def test_ui_refuses_a_port_that_is_taken(one_process, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = sentence_of(one_process(tmp_path, "ui", "--port", str(port)), 1)
    assert [fact for fact in (f"port {port} ", f"--port {port + 1}") if fact not in said] == []
    assert not (tmp_path / "mlflow.db").exists()


def test_what_cannot_be_copied_to_mlflow_is_named(one_process, tmp_path):
    assert str(tmp_path / "outputs" / "nothing") in sentence_of(one_process(tmp_path, "sync", "nothing"))
