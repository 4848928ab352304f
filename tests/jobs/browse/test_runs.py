"""`glowctl runs` and `glowctl show`, on runs that the tests write themselves."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from pydantic import BaseModel

from glowctl.browse.runs import ago, list_runs
from glowctl.browse.show import SETTINGS, show_run
from glowctl.errors import SpecError
from glowctl.specs.evaluation import CheckSpec, OodSpec
from glowctl.specs.monitoring import WatchSpec
from glowctl.specs.request import SPECS
from glowctl.specs.training import TrainSpec
from glowctl.tracking.record import Record
from glowctl.tracking.runs import experiment_names, named_run, run_of_id
from glowctl.tracking.store import open_store
from glowctl.tracking.uris import NoSuchRun, TrackingError
from tests.jobs.command_line import sentence_of

ABLATION = {
    "train": TrainSpec(dataset="digits").model_dump(mode="json"),
    "permutations": ["1x1", "shuffle"],
    "seeds": 2,
}

TABLE = {"columns": ["data set", "M=1"], "data": [["photos", "50.00 (48.00-52.00)"]]}
"""A table in the form in which `Record.table` writes it."""


def recorded(uri, job, name, status="FINISHED", metrics=None, params=None, experiment="glow", **tags):
    tags = {"glow.job": job, "glow.dataset": "digits"} | {key.replace("_", ".", 1): text for key, text in tags.items()}
    record = Record.start(uri, experiment, name, tags, params or {})
    if metrics:
        record.metrics(metrics, step=7)
    if status != "RUNNING":
        record.finish(status)
    return record


@pytest.fixture(scope="module")
def record(tmp_path_factory, empty_store):
    """The URI of a store with a training, an ablation with 2 of 4 trials finished, and evaluations; and two runs."""
    folder = tmp_path_factory.mktemp("listing")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    train = recorded(
        uri,
        "train",
        "my digits",
        metrics={"test/bits_per_dim": 5.5, "validation/best_bits_per_dim": 5.625, "system/cpu": 1.0},
        params={"permutation": "1x1", "depth": 8, "per_class": None, "output": "/somewhere"},
    )
    train.describe("Test set: **5.500 bits/dim**\n\n| set | M=1 |\n| --- | --- |\n| photos | 99.62 (98.12-100.00) |")
    ablation = recorded(uri, "ablate", "which one", metrics={"test/bits_per_dim": 5.25}, glow_spec=json.dumps(ABLATION))
    beneath = {"mlflow_parentRunId": ablation.run_id}
    for seed in range(2):
        recorded(
            uri, "train", f"trial {seed}", metrics={"test/bits_per_dim": 5.25 + seed}, glow_trial=f"s{seed}", **beneath
        )
    recorded(uri, "train", "trial 2", "FAILED", glow_trial="s2", glow_error="out of memory", **beneath)
    evaluated = {"glow_train_run": train.run_id, "mlflow_parentRunId": train.run_id}
    ood = recorded(
        uri,
        "ood",
        "odd ones",
        metrics={
            "ood_ratio/digits/M1": 0.0056,
            "ood_ratio/photos/M1": 0.5,
            "ood_ratio/photos/M10": 1.0,
            "density/ood_ratio/photos/M1": 0.75,
        },
        **evaluated,
    )
    client, _ = open_store(uri, "glow")
    client.log_text(ood.run_id, json.dumps(TABLE), "ood_ratios.json")
    client.create_registered_model("glow-digits")
    version = client.create_model_version("glow-digits", "file:///nowhere", train.run_id)
    client.set_registered_model_alias("glow-digits", "champion", version.version)
    nll = recorded(
        uri, "nll", "how likely", metrics={"bits_per_dim/digits": 5.5}, params={"datasets": "digits"}, **evaluated
    )
    client.log_text(nll.run_id, "{}", "spec.json")
    running = recorded(uri, "train", "goes on", "RUNNING", params={"epochs": 20})
    running.metrics({"train/bits_per_dim": 6.0, "validation/bits_per_dim": 6.125}, step=6)
    running.metrics({"train/bits_per_dim": 5.9}, step=7)
    return uri, {"train": train, "ablate": ablation}


@pytest.fixture(scope="module")
def uri(record):
    return record[0]


@pytest.fixture(scope="module")
def runs(record):
    return record[1]


@pytest.fixture
def copied(uri, tmp_path):
    """A copy of the store, which a test may write to."""
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def listed(capsys, uri, *, experiment=None, jobs=None, limit=20, trials=False):
    list_runs(uri, experiment, jobs, limit, trials, as_json=True)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def run_named(uri, name):
    return named_run(uri, experiment_names(uri), name).info.run_id


def shown(capsys, uri, name):
    show_run(uri, None, name, as_json=False)
    return capsys.readouterr().out


def test_the_newest_come_first_with_their_results(runs, uri, capsys):
    rows = {row["name"]: row for row in listed(capsys, uri)}
    assert list(rows) == ["goes on", "how likely", "odd ones", "which one", "my digits"]
    assert rows["my digits"]["result"] == {"test_bits_per_dim": 5.5}
    assert rows["which one"]["result"] == {"finished": 2, "trials": 4, "best_test_bits_per_dim": 5.25}
    assert rows["odd ones"]["result"] == {"batch_size": 1, "ood_ratio": {"digits": 0.0056, "photos": 0.5}}
    assert rows["how likely"]["result"] == {"bits_per_dim": {"digits": 5.5}}
    assert rows["goes on"]["result"] == {"epoch": 7, "epochs": 20, "validation_bits_per_dim": 6.125}
    assert rows["goes on"]["status"] == "running"
    assert rows["odd ones"]["parent"] == runs["train"].run_id


def test_trials_are_listed_under_their_ablation_when_asked_for(runs, uri, capsys):
    names = [row["name"] for row in listed(capsys, uri, trials=True)]
    assert names[names.index("which one") :][:4] == ["which one", "trial 0", "trial 1", "trial 2"]
    failed = next(row for row in listed(capsys, uri, trials=True) if row["name"] == "trial 2")
    assert (failed["status"], failed["error"]) == ("failed", "out of memory")


def test_trials_are_trainings_where_ablations_are_not_asked_for(uri, capsys):
    alone = [row["name"] for row in listed(capsys, uri, jobs="train")]
    assert alone == ["goes on", "my digits"]
    every = [row["name"] for row in listed(capsys, uri, jobs="train", trials=True)]
    assert every == ["goes on", "trial 2", "trial 1", "trial 0", "my digits"]
    list_runs(uri, None, "train", 20, True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[1:4] == ["trial", "2", "trial"]
    assert lines[2].index("trial") == lines[1].index("goes on")  # not indented under an ablation


@pytest.mark.parametrize(
    ("job", "result", "cell"),
    [
        ("sample", "4 images at temperatures 0.7, 1: `a.png`, `b.png`", "4 images at temperatures 0.7, 1"),
        ("interpolate", "2 rows of 5; off by 0.1 grey levels: `a.png`", "2 rows of 5"),
        ("report", "`report.html`, and `report.md` with pictures", "report.html, and report.md"),
    ],
)
def test_the_result_of_a_run_without_numbers_is_taken_from_its_description(copied, capsys, job, result, cell):
    recorded(copied, job, "no note")
    recorded(copied, job, "pictures").describe(f"A run.\n\n**Result:** {result}\n\nTo repeat it: `glowctl`")
    list_runs(copied, None, job, 20, False, as_json=False)
    _, line, bare = capsys.readouterr().out.splitlines()
    assert cell in line
    assert not re.search(r"[`…;]|\.png", line)
    assert re.search(r"0:0\d$", bare)
    assert [row["result"] for row in listed(capsys, copied, jobs=job)] == [{}, {}]


def test_a_run_that_was_resumed_runs_since_it_began(copied, capsys):
    client, experiment = open_store(copied, "glow")
    began = int((time.time() - 3600) * 1000)
    run_id = client.create_run(experiment, began, {"glow.job": "train"}, "resumed").info.run_id
    client.set_terminated(run_id, "KILLED", end_time=began + 5000)
    assert next(row["seconds"] for row in listed(capsys, copied) if row["name"] == "resumed") == 5
    client.update_run(run_id, status="RUNNING")
    run = run_of_id(copied, run_id)
    assert run is not None
    assert run.info.end_time == began + 5000  # MLflow keeps it
    assert next(row["seconds"] for row in listed(capsys, copied) if row["name"] == "resumed") >= 3600
    assert "running for 1:0" in shown(capsys, copied, "resumed")


def test_jobs_experiments_and_the_number_can_be_chosen(copied, capsys):
    uri = copied
    recorded(uri, "train", "elsewhere", experiment="other")
    assert [row["name"] for row in listed(capsys, uri, jobs="ood, nll")] == ["how likely", "odd ones"]
    assert [row["name"] for row in listed(capsys, uri, limit=1)] == ["elsewhere"]
    assert [row["name"] for row in listed(capsys, uri, experiment="other")] == ["elsewhere"]
    assert {row["experiment"] for row in listed(capsys, uri)} == {"glow", "other"}
    with pytest.raises(SpecError, match=r"--job 'training'") as unknown:
        list_runs(uri, None, "training", 20, False, True)
    assert unknown.value.code == "unknown-job"
    assert "train, ablate, nll" in unknown.value.remedy
    with pytest.raises(TrackingError, match="'none'"):
        list_runs(uri, "none", None, 20, False, True)


def test_in_a_pipe_a_run_is_a_line_and_nothing_is_cut_off(runs, uri, capsys):
    list_runs(uri, None, None, 20, False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["id", "run", "job", "status", "ago", "took", "result"]
    for line, facts in (
        (4, ["2 of 4", "5.250"]),
        (3, ["M=1", "digits 0.6 %", "photos 50 %"]),
        (1, ["7 of 20", "6.125"]),
    ):
        for fact in facts:
            assert fact in lines[line]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_of_80_columns_has_room_for_everything(uri, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    list_runs(uri, None, None, 20, False, as_json=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert lines[-1].startswith("3 trials ")
    assert "--trials" in lines[-1]


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(TrackingError, match=r"none\.db"):
        list_runs(f"sqlite:///{tmp_path}/none.db", None, None, 20, False, False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_runs_names_the_job_or_the_command_that_makes_some(empty_store, capsys):
    uri = f"sqlite:///{empty_store}"
    list_runs(uri, None, None, 20, False, as_json=False)
    assert "glowctl demo" in capsys.readouterr().out
    list_runs(uri, None, "nll", 20, False, as_json=False)
    [only] = capsys.readouterr().out.splitlines()
    assert re.search(rf"\bnll\b.* {re.escape(uri)}$", only)  # --trials would show no more of them
    list_runs(uri, None, "train,ood", 20, False, as_json=False)
    trainings = capsys.readouterr().out
    assert re.search(rf"\btrain\b.*\bood\b.* {re.escape(uri)}\b", trainings)
    assert "--trials" in trainings  # a trial is a training too


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (300, "5 min"), (3 * 3600, "3 h"), (12 * 86400, "12 d")])
def test_how_long_ago(seconds, text):
    assert ago((time.time() - seconds) * 1000) == text


def test_a_run_is_found_by_name_id_and_the_beginning_of_its_id(runs, uri):
    experiments, train = experiment_names(uri), runs["train"]
    for given in (train.run_id, train.run_id[:12], "my digits"):
        assert named_run(uri, experiments, given).info.run_id == train.run_id
    with pytest.raises(NoSuchRun, match="'my letters'"):
        named_run(uri, experiments, "my letters")


def test_a_beginning_that_two_ids_share_is_refused(uri, runs, monkeypatch):
    run = run_of_id(uri, runs["train"].run_id)
    monkeypatch.setattr(
        "glowctl.tracking.runs._newest",
        lambda client, experiments, which, number: [run] * 2 if "run_id" in which else [],
    )
    with pytest.raises(TrackingError, match=r"several .*abcd"):
        named_run(uri, ["1"], "abcd")


def test_show_prints_result_description_settings_metrics_and_the_way_to_the_ui(runs, uri, capsys):
    text = shown(capsys, uri, "my digits")
    for part in (
        "my digits  finished",
        "5.500 bits/dim",
        "photos 99.62 (98.12-100.00)",
        "permutation 1x1, depth 8",
        "validation/best_bits_per_dim",
        runs["train"].run_id,
        "glowctl ui --tracking-uri",
        "1 nll, 1 ood",
        "glow-digits",
        "@champion",
    ):
        assert part in text
    assert "system/cpu" not in text
    assert "/somewhere" not in text  # the output folder, which changes no result


@pytest.mark.parametrize("job", SETTINGS)
def test_every_setting_that_show_prints_is_one_of_its_job(job):
    specs: dict[str, type[BaseModel]] = {**SPECS, "check": CheckSpec, "watch": WatchSpec, "ood-trainings": OodSpec}
    fields = specs[job].model_fields | (TrainSpec.model_fields if job == "ablate" else {})
    assert set(SETTINGS[job]) <= set(fields)


def test_show_prints_how_images_were_drawn(copied, capsys):
    one = {"temperature": 0.7, "temperatures": None, "grid": "4x8", "only_class": "3", "seed": 0}
    recorded(copied, "sample", "some of one class", params=one)
    recorded(copied, "sample", "a sweep", params=one | {"temperatures": (0.5, 1.0), "only_class": None})
    assert "temperature 0.7, grid 4x8, only_class 3, seed 0" in shown(capsys, copied, "some of one class")
    assert "temperatures (0.5, 1.0), grid 4x8, seed 0" in (sweep := shown(capsys, copied, "a sweep"))
    assert "temperature 0.7" not in sweep  # which had no use


def test_show_prints_the_error_of_a_failed_run_and_the_progress_of_a_running_one(runs, uri, capsys):
    assert "out of memory" in shown(capsys, uri, "trial 2")
    running = shown(capsys, uri, "goes on")
    assert "7 of 20" in running
    assert "6.125" in running


def test_show_names_the_artifact_with_all_settings_if_there_is_one(uri, capsys):
    def heading(run: str) -> str:
        return next(line for line in shown(capsys, uri, run).splitlines() if line.startswith("settings"))

    assert "spec.json" in heading("how likely")
    assert "spec.json" not in heading("my digits")


@pytest.mark.parametrize("bars", ["| alone", "|", "| left | right |\n| here | there |", "| a |\nand\n| - |"])
def test_show_prints_lines_with_bars_that_are_no_table_as_text(copied, capsys, bars):
    recorded(copied, "train", "noted").describe(f"before\n{bars}\n\n| c1 | c2 |\n|:--|---|\n| d1 | d2 |\n\nafter")
    text = shown(capsys, copied, "noted")
    assert "c1 c2" in text
    assert "d1 d2" in text
    assert ":--" not in text
    for word in ("before", "after", *re.findall(r"\w+", bars)):
        assert word in text


def test_show_has_the_table_and_the_model_of_an_evaluation_whose_note_has_a_bar(runs, copied, capsys):
    ood = run_named(copied, "odd ones")
    open_store(copied, "glow")[0].set_tag(ood, "mlflow.note.content", "mind this\n| and that")
    text = shown(capsys, copied, "odd ones")
    assert "50.00 (48.00-52.00)" in text
    assert runs["train"].run_id in text


def test_show_for_machines_is_one_object(runs, uri, capsys):
    show_run(uri, None, runs["ablate"].run_id[:10], as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["beneath"] == {"trial": 3}
    assert facts["settings"]["seeds"] == 2
    show_run(uri, None, "odd ones", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["tables"] == {"ood_ratios": [{"data set": "photos", "M=1": "50.00 (48.00-52.00)"}]}
    assert facts["model"] == runs["train"].run_id


def test_through_the_command_without_torch_or_ray(uri, tmp_path, one_process):
    done = one_process(tmp_path, "runs", "--tracking-uri", uri, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    done = one_process(tmp_path, "show", "nothing of the kind", "--tracking-uri", uri)
    assert "'nothing of the kind'" in sentence_of(done)
    code = (
        "import sys; from glowctl.browse import runs, show, ui; "
        "sys.exit(bool({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
