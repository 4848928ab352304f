"""`glowctl estimate`, ``--max-hours`` and ``--max-price``: arithmetic, and real commands on an embedded Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from glow.datasets.corruptions import CORRUPTIONS
from glowctl.display.displays import sent_event
from glowctl.display.events import Estimated
from glowctl.display.lines import text_of
from glowctl.errors import FAILURE, JobError, SpecError
from glowctl.estimate.cost import BETWEEN_S, STORED_S, makespan, refuse, training_seconds
from glowctl.estimate.timing import TimedTraining
from glowctl.ray_runtime.resources import Resources
from glowctl.specs.training import make_train_spec
from glowctl.text import json_text
from glowctl.training.prepare import Work
from tests.jobs.command_line import glowctl
from tests.jobs.trained import train_into

HOUR = Estimated(
    seconds=3600.0,
    units=2.0,
    unit="core",
    memory_megabytes=700.0,
    disk_megabytes=12.0,
    network_megabytes=0.0,
    price=2.4,
)

TIMED = TimedTraining(
    began=0.0,
    step=1.0,
    validated=0.1,
    scored=0.01,
    drawn=100.0,
    saved=1000.0,
    checkpoint=10,
    weights=4,
    row=100.0,
    memory=1e9,
    gpu_memory=None,
)

SMOKE = ("train", "--preset", "smoke", "--epochs", "400", "--cpus-per-worker", "1")


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        ({"max_hours": 0.9}, "--max-hours 0.9"),
        ({"price": 1.2, "max_price": 2.0}, "--max-price 2"),
        ({"max_hours": 1.1}, None),
        ({"price": 1.2, "max_price": 2.5, "max_hours": 1.0}, None),
        ({}, None),
    ],
)
def test_a_limit_refuses_what_exceeds_it(limits, flag):
    spec = make_train_spec("smoke", limits)
    if flag is None:
        refuse(HOUR, spec)
        return
    with pytest.raises(JobError, match=flag) as refused:
        refuse(HOUR, spec)
    assert (refused.value.exit_code, refused.value.code) == (FAILURE, "limit-exceeded")


def test_a_largest_price_needs_the_price_of_an_hour():
    with pytest.raises(SpecError, match="--price"):
        make_train_spec("smoke", {"max_price": 5.0})


def seconds_of(workers: int = 1, **settings: Any) -> float:
    """The seconds of a training with 30 training, 10 validation and 20 test images, and the measurements `TIMED`."""
    splits = {"train": range(30), "validation": range(10), "test": range(20)}
    base = {"batch_size": 16, "epochs": 4, "sample_every": 0, "checkpoint_every": "4"}
    spec = make_train_spec("smoke", base | settings)
    return training_seconds(cast(Work, SimpleNamespace(spec=spec, splits=splits)), TIMED, workers)


def test_each_part_of_a_training_counts_as_often_as_it_happens():
    once = seconds_of()
    scored = 60 + 10 * len(CORRUPTIONS)
    assert once == pytest.approx(4 * 2 * 1.0 + 4 * 10 * 0.1 + scored * 0.01 + 100 + 1000 + STORED_S)
    assert seconds_of(checkpoint_every="1") == pytest.approx(once + 3 * (1000 + STORED_S))
    assert seconds_of(checkpoint_every="2steps") == pytest.approx(once + 7 * (1000 + STORED_S))  # epochs and steps
    assert seconds_of(sample_every=2) == pytest.approx(once + 2 * 100)
    assert seconds_of(test_every=1) == pytest.approx(once + 4 * 20 * 0.1)
    assert seconds_of(workers=2) == pytest.approx(once - (4 * 10 * 0.1 + scored * 0.01) / 2)


def test_trials_take_the_place_that_is_free_first():
    assert makespan([100.0, 10.0, 20.0, 5.0], places=2) == pytest.approx(100)
    assert makespan([10.0, 10.0, 10.0], places=2) == pytest.approx(20 + BETWEEN_S)
    assert makespan([10.0] * 3, places=5) == pytest.approx(10)


def test_the_price_is_that_of_gpus_or_else_of_cores():
    cores, gpus = Resources((2, 2), gpus=0, cpus=3), Resources((2, 2), gpus=0.5, cpus=3)
    assert cores.cost(7200, 2, None) == {"core_seconds": 43200, "gpu_seconds": 0}
    assert cores.cost(7200, 2, 0.5)["price"] == pytest.approx(12 * 0.5)
    assert gpus.cost(7200, 2, 0.5)["price"] == pytest.approx(2 * 0.5)


def test_an_estimate_is_the_same_event_here_and_from_a_cluster():
    assert sent_event(json_text(HOUR.to_dict())) == HOUR
    text = text_of(replace(HOUR, network_megabytes=3.0, gpu_memory_megabytes=1234.0))
    assert text is not None
    assert all(
        part in text for part in ("1:00:00", "2 cores", "700 MB", "1,234 MB of its GPU", "12 MB", "3 MB", "2.40")
    )
    assert "network" not in str(text_of(HOUR))


def estimate_of(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `glowctl estimate`, check that it leaves nothing behind, and return its event."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    done = glowctl(folder, "estimate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    (event,) = map(json.loads, done.stdout.splitlines())
    assert event["event"] == "estimate"
    assert event["seconds"] > 1
    assert 100 < event["memory_megabytes"] < 5000
    return event


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_is_estimated_and_one_that_exceeds_a_limit_is_refused(tmp_path: Path):
    told = estimate_of(tmp_path, *SMOKE, "--price", "3600")
    assert told["price"] == pytest.approx(told["seconds"])
    assert (told["units"], told["unit"]) == (1, "core")
    refused = glowctl(tmp_path, *SMOKE, "--max-hours", "0.001", "--json")
    assert refused.returncode == 1
    events = [json.loads(line) for line in refused.stdout.splitlines()]
    assert [event["event"] for event in events] == ["estimate", "error"]
    assert events[-1]["code"] == "limit-exceeded"
    assert "--max-hours 0.001" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.ray
@pytest.mark.nightly
def test_a_run_within_its_limits_records_its_estimate_and_its_price(tmp_path: Path):
    from mlflow import MlflowClient

    done = glowctl(tmp_path, "train", "--preset", "smoke", "--max-hours", "5", "--price", "36", "--json")
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout.splitlines()[-1])["run_id"]
    metrics = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id).data.metrics
    assert metrics["estimated_seconds"] > 1
    assert metrics["price"] == pytest.approx(metrics["core_seconds"] / 100)


@pytest.mark.ray
@pytest.mark.nightly
def test_an_ablation_is_estimated_from_its_trials_and_refused_before_it_begins(tmp_path: Path):
    ablation = ("ablate", "--preset", "smoke", "--epochs", "300", "--depths", "1,4", "--seeds", "3")
    alone = ("--concurrent", "1", "--cpus-per-trial", "1")
    six, two = estimate_of(tmp_path, *ablation, *alone), estimate_of(tmp_path, *ablation[:-1], "1", *alone)
    assert six["seconds"] > 1.5 * two["seconds"]
    refused = glowctl(tmp_path, *ablation, "--max-price", "0.00001", "--price", "1")
    assert (refused.returncode, "--max-price" in refused.stderr) == (1, True)
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.slow
@pytest.mark.ray
def test_an_evaluation_is_estimated(tmp_path: Path):
    run_id = train_into(tmp_path)
    few, more = (
        estimate_of(tmp_path, "ood", "--model", run_id, "--ood-datasets", names, "--rescore", "--cpus-per-worker", "1")
        for names in ("noise", "noise,constant,digits")
    )
    assert more["disk_megabytes"] > few["disk_megabytes"] > 0


def test_only_new_jobs_are_estimated(tmp_path: Path):
    done = glowctl(tmp_path, "estimate", "train", "--resume", "some run")
    assert (done.returncode, "--resume" in done.stderr) == (2, True)
