"""The run of an ablation has the settings that its trials had. No Ray starts."""

import pytest

from glowctl.ablation.prepare import prepare
from glowctl.specs.ablation import make_ablate_spec
from glowctl.tracking.runs import find_run


@pytest.fixture
def started(uri, tmp_path):
    """A function from settings to an ablation that has begun, and its run in MLflow."""

    def start(preset: str = "smoke", **values):
        common = {"dataset": "digits", "tracking_uri": uri, "output": str(tmp_path)}
        ablation = prepare(make_ablate_spec(preset, common | values))
        return ablation, ablation.open_record({"cpus_per_worker": 1.0, "gpus_per_worker": 0.0})

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
