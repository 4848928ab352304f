"""The run of an ablation, and its repair, have the settings that its trials had. No Ray: files are written."""

import json

import pytest

from glow import Glow, save_checkpoint
from jobs.ablation import repair as repair_module
from jobs.ablation.prepare import prepare
from jobs.ablation.run import _open_record
from jobs.display.events import Event, Repaired
from jobs.specs.ablation import make_ablate_spec
from jobs.tracking import Record, find_run, tag_names
from jobs.training.history import EpochMetrics
from jobs.training.progress import Progress


@pytest.fixture
def started(uri, tmp_path):
    """A function from settings to an ablation that has begun, and its run in MLflow."""

    def start(preset: str = "smoke", **values):
        common = {"dataset": "digits", "tracking_uri": uri, "output": str(tmp_path)}
        ablation = prepare(make_ablate_spec(preset, common | values))
        return ablation, _open_record(ablation, {"cpus_per_worker": 1.0, "gpus_per_worker": 0.0})

    return start


def test_the_run_of_an_ablation_has_the_settings_that_all_trials_had(started, uri):
    ablation, record = started(
        widths="24", depths="1,2", seeds=2, workers_per_trial=2, cpus_per_trial=1, gpus_per_trial=0, run_name="a name"
    )
    params = find_run(uri, "glow", record.run_id).data.params
    trials = [ablation.spec.trial_spec(values) for values in ablation.spec.trials()]
    for name in ("width", "workers", "cpus_per_worker", "gpus_per_worker"):
        assert {str(getattr(trial, name)) for trial in trials} == {params[name]}, name
    assert "depth" not in params
    assert (params["seed"], params["run_name"], params["workers_per_trial"]) == ("0", "a name", "2")


def test_a_repaired_trial_has_the_workers_of_a_trial(started, uri, tmp_path, monkeypatch):
    """The preset of the demo trains with two workers, and its trials with one, which is their default."""
    ablation, record = started("demo", permutations="1x1", seeds=1, epochs=2)
    (values,) = ablation.spec.trials()
    label, trial = ablation.spec.label(values), ablation.spec.trial_spec(values)
    assert (ablation.spec.train.workers, trial.workers) == ("2", "1")
    tags = {tag_names.TRIAL: label, tag_names.PARENT: record.run_id, tag_names.SPEC: json.dumps(trial.model_dump())}
    run = Record.start(uri, "glow", "train x", tags, {})
    folder = save_checkpoint(
        Glow(ablation.work.config), tmp_path / record.run_id / "train" / label.replace(" ", "-") / "checkpoint_1"
    )
    Progress([EpochMetrics(1, 3.0, 2.0, time=1.8e9)], []).write(folder)
    for ended in (run, record):
        ended.finish("KILLED")
    monkeypatch.setattr(repair_module, "_saved_trials", lambda place, spec: {})  # Ray Tune's files
    events: list[Event] = []
    repair_module.repair(record.run_id, {"tracking_uri": uri}, events.append)
    assert isinstance(events[0], Repaired)
    assert events[0].figures == {label: ["parameters", "workers"]}
    assert find_run(uri, "glow", run.run_id).data.metrics["workers"] == 1
