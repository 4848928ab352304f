"""Whole ablations through `glowctl`, on an embedded Ray with real trial processes, some of which are killed."""

import json
import os
import shutil
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from glow.checkpoint import load_checkpoint
from glowctl.ablation.run import summarize_again, sync
from glowctl.display.events import AblationSummary, Event
from glowctl.errors import JobError
from glowctl.evaluation.find_model import find_model
from glowctl.tracking.runs import find_run, recorded_images
from glowctl.tracking.store import open_store
from tests.jobs.command_line import Running, alive, check_quiet, glowctl, sentence_of, wait_until
from tests.jobs.record_facts import check_epochs, damage_files_of_ray, trials_of, uri_of

pytestmark = pytest.mark.ray

SMOKE = ("ablate", "--preset", "smoke", "--sample-every", "0")
EPOCHS = 8
FOUR_TRIALS = (*SMOKE, "--permutations", "1x1,reverse", "--seeds", "2", "--epochs", str(EPOCHS))


def run_id_of(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("ablation ")).split()[-1]


def trials_in(folder: Path, run_id: str) -> dict:
    return trials_of(uri_of(folder), find_run(uri_of(folder), "glow", run_id))


def summary_of(folder: Path, run_id: str, table: str) -> pd.DataFrame:
    return pd.read_csv(folder / "outputs" / run_id / "summary" / f"{table}.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the events of a finished ablation, on a machine where another Ray has the dashboard's port."""
    folder = tmp_path_factory.mktemp("ablation")
    with socket.socket() as dashboard:
        with suppress(OSError):  # another Ray has the port already
            dashboard.bind(("127.0.0.1", 8265))
            dashboard.listen()
        done = glowctl(folder, *FOUR_TRIALS, "--json")
    check_quiet(done)
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_plan_comes_first_and_the_comparison_last(finished):
    _, events = finished
    plan = events[0]
    assert (plan["event"], plan["trials"], plan["configurations"], plan["seeds"]) == ("plan", 4, 2, 2)
    assert plan["labels"] == ["1x1 s0", "reverse s0", "1x1 s1", "reverse s1"]
    assert (plan["workers"], plan["gpus"]) == (1, 0)
    assert events[-1]["event"] == "ablated"
    assert (events[-1]["finished"], events[-1]["unfinished"]) == (4, [])
    assert "reverse" in events[-1]["conclusions"][0]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_trials_run_side_by_side(finished):
    """Before the first trial ended, as many had started as the plan announced, or all."""
    _, events = finished
    kinds = [event["event"] for event in events]
    before = kinds[: kinds.index("trial_ended")]
    assert before.count("trial_started") == min(4, events[0]["at_a_time"]) >= 2


def test_mlflow_has_one_run_per_trial_with_all_that_a_training_records(finished):
    folder, events = finished
    client, _ = open_store(uri_of(folder), "glow")
    trials = trials_in(folder, events[-1]["run_id"])
    assert set(trials) == set(events[0]["labels"])
    for label, run in trials.items():
        permutation, seed = label.split(" s")
        assert run.info.status == "FINISHED"
        assert (run.data.params["permutation"], run.data.params["seed"]) == (permutation, seed)
        for name in ("train/bits_per_dim", "validation/bits_per_dim", "test/bits_per_dim_by_epoch"):
            assert [p.step for p in client.get_metric_history(run.info.run_id, name)] == list(range(1, EPOCHS + 1)), (
                name
            )
        assert run.data.metrics["core_seconds"] > 0
        artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert {"spec.json", "environment.json", "history.csv", "nll.png", "samples.png"} <= artifacts
        assert run.info.run_name == f"train digits {permutation} K2 L2 w16 s{seed}"
        assert len(run.outputs.model_outputs) == 1
        assert len(run.inputs.dataset_inputs) == 3


def test_the_summary_agrees_with_the_runs(finished):
    folder, events = finished
    end = events[-1]
    trials = trials_in(folder, end["run_id"])
    for row in end["configurations"]:
        scores = [trials[f"{row['permutation']} s{seed}"].data.metrics["test/bits_per_dim"] for seed in (0, 1)]
        assert row["bits_per_dim"] == pytest.approx(sum(scores) / 2)
    parent = find_run(uri_of(folder), "glow", end["run_id"])
    assert parent.info.status == "FINISHED"
    assert end["conclusions"][0] in parent.data.tags["mlflow.note.content"]
    client, _ = open_store(uri_of(folder), "glow")
    artifacts = {artifact.path for artifact in client.list_artifacts(end["run_id"])}
    expected = {"spec.json", "summary.md", "configurations.csv", "nll_by_epoch.png", "differences.png"}
    assert expected <= artifacts


def points_of(folder: Path, run_id: str) -> list[tuple]:
    """Return the points of a run in MLflow but those of the machine."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system/%'"
        return sorted(database.execute(query, (run_id,)).fetchall())


@pytest.mark.slow
def test_what_mlflow_lacks_of_an_ablation_is_copied_from_its_folder_once(finished, tmp_path):
    """One trial lacks epochs, one its end, and one its run."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    run_id, uri = finished[1][-1]["run_id"], uri_of(folder)
    place, where = str(folder / "outputs" / run_id), {"tracking_uri": uri}
    before = {label: run.info.run_id for label, run in trials_in(folder, run_id).items()}
    points = points_of(folder, before["1x1 s0"])
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("DELETE FROM metrics WHERE run_uuid = ? AND step IN (2, 3)", (before["1x1 s0"],))
    client, _ = open_store(uri, "glow")
    client.set_terminated(before["reverse s0"], "FAILED")
    client.delete_run(before["1x1 s1"])
    events: list[Event] = []
    for name in (place, run_id):
        sync(name, where, events.append)
        summary = events[-1]
        assert isinstance(summary, AblationSummary)
        assert (summary.run_id, summary.finished, summary.unfinished) == (run_id, 4, [])
        trials = trials_in(folder, run_id)
        assert {run.info.status for run in trials.values()} == {"FINISHED"}
        assert points_of(folder, before["1x1 s0"]) == points
        assert {label for label, run in trials.items() if run.info.run_id != before[label]} == {"1x1 s1"}
        for run in trials.values():
            check_epochs(uri, run)
    assert len(client.search_model_versions(f"run_id = '{before['reverse s0']}'")) == 1


@pytest.mark.slow
def test_the_folder_of_an_ablation_from_another_machine_gets_a_run(finished, tmp_path):
    shutil.copytree(finished[0] / "outputs", tmp_path / "brought")
    events: list[Event] = []
    before = finished[1][-1]
    for name in (str(tmp_path / "brought" / before["run_id"]), before["run"]):
        sync(name, {"tracking_uri": uri_of(tmp_path)}, events.append)
    first, again = events
    assert isinstance(first, AblationSummary)
    assert isinstance(again, AblationSummary)
    assert first.run_id == again.run_id != before["run_id"]
    nlls = [[row["bits_per_dim"] for row in rows] for rows in (first.configurations, before["configurations"])]
    assert nlls[0] == pytest.approx(nlls[1])
    assert {run.info.status for run in trials_in(tmp_path, first.run_id).values()} == {"FINISHED"}
    assert find_model(None, uri_of(tmp_path), "glow").digest == find_model(None, uri_of(finished[0]), "glow").digest


def test_a_trial_is_not_copied_without_its_ablation(finished):
    folder, events = finished
    trial = trials_in(folder, events[-1]["run_id"])["1x1 s0"].info.run_id
    with pytest.raises(JobError, match=events[-1]["run_id"]) as of_trial:
        sync(trial, {"tracking_uri": uri_of(folder)}, print)
    assert of_trial.value.code == "run-is-trial"


def test_the_champion_is_the_best_by_validation_and_evaluations_use_it(finished):
    folder, events = finished
    trials = trials_in(folder, events[-1]["run_id"])
    best = min(trials.values(), key=lambda run: run.data.metrics["validation/best_bits_per_dim"])
    champion = find_model("models:/glow-digits@champion", uri_of(folder), "glow")
    assert champion.run_id == best.info.run_id == find_model(None, uri_of(folder), "glow").run_id
    label = best.data.tags["glow.trial"].replace(" ", "-")
    saved = load_checkpoint(folder / "outputs" / events[-1]["run_id"] / "trials" / label / "checkpoint")
    assert saved.config == champion.config


def test_a_summary_is_made_again_from_mlflow_alone(finished, tmp_path):
    folder, events = finished
    run_id = events[-1]["run_id"]
    shutil.copytree(folder, tmp_path / "copy")
    before = summary_of(tmp_path / "copy", run_id, "configurations")
    shutil.rmtree(tmp_path / "copy" / "outputs")
    changes = {"tracking_uri": uri_of(tmp_path / "copy"), "output": str(tmp_path / "copy" / "outputs")}
    summarize_again(events[-1]["run"], changes, print)
    pd.testing.assert_frame_equal(summary_of(tmp_path / "copy", run_id, "configurations"), before)


def unfinished(folder: Path, until: int) -> list[tuple[Path, int]]:
    """Return the trials' checkpoints with fewer than `until` earlier ones, and the number of earlier ones."""
    found = [(path, int(path.name.split("_")[1])) for path in folder.glob("outputs/*/tune-*/*/checkpoint_*")]
    return [(path, before) for path, before in found if before < until]


@pytest.mark.slow
def test_a_killed_ablation_continues_each_trial_from_its_checkpoint(finished, tmp_path):
    """It is killed after its first trial, and ends with the result of the same ablation without a kill."""
    running = Running(tmp_path, *FOUR_TRIALS, "--concurrent", "2")
    running.wait_for("(1 of 4)")
    first = next(line for line in running.lines() if line.endswith("(1 of 4)")).split("]")[0][1:]
    run_id = run_id_of(running.lines())
    wait_until(lambda: bool(unfinished(tmp_path, EPOCHS - 3)), every=0.02)
    for trial in running.named("ImplicitFunc"):
        trial.suspend()  # so that the record has all the time that it needs for the first trial
    wait_until(lambda: trials_in(tmp_path, run_id)[first].info.status == "FINISHED")
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    ended = trials_in(tmp_path, run_id)[first].info.end_time
    interrupted = unfinished(tmp_path, EPOCHS - 1)
    assert interrupted
    damage_files_of_ray(tmp_path)

    resumed = glowctl(tmp_path, "ablate", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert f"[{first}] epoch" not in resumed.stdout
    trials = trials_in(tmp_path, run_id)
    assert [run.info.status for run in trials.values()] == ["FINISHED"] * 4
    assert trials[first].info.end_time == ended
    for run in trials.values():
        check_epochs(uri_of(tmp_path), run)
    folder, events = finished
    columns = ["permutation", "bits_per_dim", "bits_per_dim_low", "best", "seeds", "parameters"]
    expected = summary_of(folder, events[-1]["run_id"], "configurations")[columns]
    pd.testing.assert_frame_equal(summary_of(tmp_path, run_id, "configurations")[columns], expected)


@pytest.mark.nightly
def test_an_ablation_killed_at_the_start_of_its_record_can_be_resumed(tmp_path):
    def run_ids() -> list[str]:
        place = f"file:{tmp_path}/mlflow.db?mode=ro"
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(place, uri=True)) as database,
        ):  # there is no file at first
            return [run_id for (run_id,) in database.execute("SELECT run_uuid FROM runs")]
        return []

    running = Running(tmp_path, *SMOKE, "--seeds", "1")
    wait_until(lambda: bool(run_ids()), every=0.02)
    running.process.kill()
    running.wait()
    (run_id,) = run_ids()
    resumed = glowctl(tmp_path, "ablate", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert trials_in(tmp_path, run_id)["1x1 s0"].info.status == "FINISHED"


def killed(processes: list[psutil.Process]) -> bool:
    """Kill the processes, and return whether there were any."""
    for process in processes:
        process.kill()
    return bool(processes)


@pytest.mark.nightly
def test_a_diverged_trial_and_killed_processes_do_not_end_the_others(tmp_path):
    flags = ("--learning-rates", "3e-3,1e7", "--seeds", "1", "--schedule", "constant", "--clip-norm", "0")
    running = Running(tmp_path, *SMOKE, *flags, "--epochs", "60", "--test-every", "0")
    running.wait_for("[lr0.003 s0] epoch 4/60")
    running.wait_for("[lr1e+07 s0] failed: training diverged")
    wait_until(
        lambda: killed(running.named("ImplicitFunc.train")), every=0.02
    )  # the name of its process while it trains
    running.wait_for("[lr0.003 s0] restarted after epoch")
    for process in running.named("_QueueActor"):  # Ray may kill it when memory is short
        process.kill()
    assert running.wait() == 0
    lines = running.lines()
    restarts = [line for line in lines if line.startswith("[lr0.003 s0] restarted after epoch")]
    assert len(restarts) == 2
    assert int(restarts[1].split("after epoch ")[1].split()[0]) >= 4
    assert sum("failed:" in line for line in lines) == 1  # it was not tried again
    trials = trials_in(tmp_path, run_id_of(lines))
    states = {label: run.info.status for label, run in trials.items()}
    assert states == {"lr0.003 s0": "FINISHED", "lr1e+07 s0": "FAILED"}
    assert trials["lr0.003 s0"].data.metrics["restarts"] == 2
    assert trials["lr1e+07 s0"].data.tags["glow.error"].startswith("training diverged")
    assert any("1 trial failed" in line and "training diverged" in line for line in lines)


@pytest.mark.nightly
def test_a_trial_of_two_workers_is_interrupted_and_resumed(tmp_path):
    flags = ("--seeds", "1", "--workers-per-trial", "2", "--epochs", "60", "--checkpoint-every", "5")
    running = Running(tmp_path, *SMOKE, *flags)
    running.wait_for("[1x1 s0] epoch 12/60")
    assert len(running.train_workers()) == 2
    family = running.family()
    running.interrupt()
    assert running.wait(30) == 130
    run_id = run_id_of(running.lines())
    assert running.line_with(f"glowctl ablate --resume {run_id}")
    wait_until(lambda: not alive(family), timeout=60)
    assert find_run(uri_of(tmp_path), "glow", run_id).info.status == "KILLED"
    assert trials_in(tmp_path, run_id)["1x1 s0"].info.status == "KILLED"
    with sqlite3.connect(
        tmp_path / "mlflow.db"
    ) as database:  # as if both runs had been killed before their data sets were recorded
        database.execute("DELETE FROM inputs")

    resumed = glowctl(tmp_path, "ablate", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    started = next(line for line in resumed.stdout.splitlines() if "[1x1 s0] started" in line)
    assert int(started.split("after epoch ")[1]) >= 10
    run = trials_in(tmp_path, run_id)["1x1 s0"]
    assert (run.info.status, run.data.metrics["workers"]) == ("FINISHED", 2)
    for whole in (run, find_run(uri_of(tmp_path), "glow", run_id)):
        assert recorded_images(whole).keys() == {"digits train", "digits validation", "digits test"}

    # As if all processes had been killed when the folder had the trial's end, but not MLflow.
    client, _ = open_store(uri_of(tmp_path), "glow")
    client.update_run(run.info.run_id, status="RUNNING")
    again = glowctl(tmp_path, "ablate", "--resume", run_id)
    assert again.returncode == 0, again.stderr
    assert "[1x1 s0] started" not in again.stdout
    assert trials_in(tmp_path, run_id)["1x1 s0"].info.status == "FINISHED"


@pytest.mark.nightly
def test_a_trial_of_two_workers_restarts_no_more_often_than_asked(tmp_path):
    flags = ("--seeds", "1", "--workers-per-trial", "2", "--epochs", "300", "--max-failures", "1", "--test-every", "0")
    running = Running(tmp_path, *SMOKE, *flags)
    running.wait_for("[1x1 s0] epoch 3/300")
    wait_until(lambda: killed(running.train_workers()[:1]))
    running.wait_for("[1x1 s0] restarted after epoch")
    wait_until(lambda: killed(running.train_workers()[:1]))
    assert running.wait() == 1
    lines = running.lines()
    assert sum(line.startswith("[1x1 s0] restarted after epoch") for line in lines) == 1
    assert trials_in(tmp_path, run_id_of(lines))["1x1 s0"].info.status == "FAILED"


@pytest.mark.slow
def test_what_can_never_fit_is_refused(tmp_path):
    done = glowctl(tmp_path, *SMOKE, "--gpus-per-trial", "64")
    sentence = sentence_of(done)
    assert "1 worker with" in sentence
    assert "lower --workers-per-trial" in sentence
    assert not (tmp_path / "mlflow.db").exists()
