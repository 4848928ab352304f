import json
import shutil

import pytest

from glow.checkpoint import CheckpointError
from jobs.errors import JobError
from jobs.evaluation.find_model import find_model
from jobs.outputs import usable_output
from jobs.tracking import Record, TrackingError, promote
from jobs.training.prepare import prepare_resume
from jobs.training.publish import release
from tests.jobs.trained import NAME, train_into, work_in


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, f"sqlite:///{folder}/mlflow.db", train_into(folder)


def test_a_model_is_found_by_every_name_it_has(store):
    folder, uri, run_id = store
    promote(uri, "glow", run_id, "champion")
    newest = find_model(None, uri, "glow")
    for name in (
        run_id,
        run_id[:8],
        NAME,
        f"runs:/{run_id}/model",
        "models:/glow-digits/1",
        "models:/glow-digits/latest",
        "models:/glow-digits@latest",
        "models:/glow-digits@champion",
    ):
        found = find_model(name, uri, "glow")
        assert (found.digest, found.run_id) == (newest.digest, run_id), name
        assert found.training is not None
        assert found.training.dataset == "digits"
    beside = find_model(str(folder / "trained" / "checkpoint"), uri, "glow")
    assert (beside.digest, beside.run_id) == (newest.digest, None)
    assert find_model(beside.reference, uri, "glow").digest == newest.digest
    assert newest.reference == run_id
    assert beside.training is not None  # by the spec that lies beside the checkpoint
    assert beside.training.class_conditional


def test_another_training_makes_another_digest(store, tmp_path):
    _, uri, _ = store
    folder, _, _ = store
    shutil.copytree(folder / "trained" / "checkpoint", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"scale": "bounded"}))
    assert find_model(str(tmp_path / "other"), uri, "glow").digest != find_model(None, uri, "glow").digest


def test_what_is_no_model_is_said_in_a_sentence(store, tmp_path):
    folder, uri, run_id = store
    with pytest.raises(TrackingError, match=r"no run 'nothing'.*no folder of that name"):
        find_model("nothing", uri, "glow")
    for name in ("runs:/0123/checkpoint", "models:/none@champion", "models:/none/1", "models:none"):
        with pytest.raises(TrackingError):
            find_model(name, uri, "glow")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors|config\.json is missing"):
        find_model(str(tmp_path), uri, "glow")
    shutil.copytree(folder / "trained" / "checkpoint", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="damaged"):
        find_model(str(tmp_path / "cut"), uri, "glow")
    other = Record.start(uri, "glow", "a test", {"glow.job": "ood"}, {})
    with pytest.raises(JobError, match="is not a training"):
        find_model(other.run_id, uri, "glow")
    running = Record.start(uri, "glow", "half done", {"glow.job": "train"}, {})
    with pytest.raises(JobError, match=f"is RUNNING and has no model yet.*--resume {running.run_id}"):
        find_model(running.run_id, uri, "glow")
    assert find_model(None, uri, "glow").run_id == run_id  # and not the newer ones, which are not finished trainings


def test_a_store_without_trainings_says_so(tmp_path):
    with pytest.raises(TrackingError, match=r"no finished train run.*glowctl train"):
        find_model(None, f"sqlite:///{tmp_path}/mlflow.db", "glow")


def test_a_trial_that_has_not_ended_is_gone_on_with_by_its_ablation(store):
    _, uri, _ = store
    tags = {"glow.job": "train", "glow.spec": "{}", "glow.trial": "1x1 s0", "mlflow.parentRunId": "abc"}
    trial = Record.start(uri, "trials", "1x1 s0", tags, {})
    trial.finish("KILLED")
    with pytest.raises(JobError, match="has no model yet: go on with it by glowctl ablate --resume abc"):
        find_model(trial.run_id, uri, "trials")
    with pytest.raises(JobError, match="is a trial of an ablation: go on by glowctl ablate --resume abc"):
        prepare_resume(trial.run_id, {"tracking_uri": uri, "experiment": "trials"})


def test_without_a_name_the_best_trial_of_the_newest_ablation_is_found(store):
    """And not the newest of its trials. An ablation that was interrupted has not said yet which that is."""
    folder, uri, _ = store
    ablation = Record.start(uri, "ablations", "ablate digits", {"glow.job": "ablate"}, {})
    trials = []
    for label in ("1x1 s0", "1x1 s1"):
        tags = {"glow.job": "train", "glow.trial": label, "mlflow.parentRunId": ablation.run_id}
        trials.append(Record.start(uri, "ablations", label, tags, {}))
        release(work_in(folder, class_conditional=True), trials[-1], folder / "trained" / "checkpoint", {}, 3.0)
        trials[-1].metrics({"validation/best_bits_per_dim": len(trials)})
        trials[-1].finish("FINISHED")
    assert find_model(None, uri, "ablations").run_id == trials[0].run_id
    ablation.tag("glow.champion", trials[1].run_id)
    assert find_model(None, uri, "ablations").run_id == trials[1].run_id


def test_an_address_that_holds_a_password_is_refused(store):
    """Every evaluation would tell it: in its params, its spec and its name."""
    _, uri, _ = store
    with pytest.raises(JobError, match=r"--model s3://KEY:\*\*\*@bucket/model holds a password"):
        find_model("s3://KEY:SECRET@bucket/model", uri, "glow")
    with pytest.raises(JobError, match=r"--output s3://KEY:\*\*\*@bucket/glow holds a password"):
        usable_output("s3://KEY:SECRET@bucket/glow")
