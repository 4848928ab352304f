"""Models are found by every name that users have for them, and refused with a sentence where there is none. No Ray."""

import json
import shutil

import pytest

from glow import Glow, GlowConfig, save_checkpoint
from glow.checkpoint import CheckpointError
from glowctl.errors import JobError
from glowctl.evaluation.find_model import find_model
from glowctl.outputs import usable_output
from glowctl.tracking.record import Record
from glowctl.tracking.registry import promote
from glowctl.tracking.uris import TrackingError
from glowctl.training.prepare import prepare_resume
from glowctl.training.publish import release
from tests.jobs.trained import NAME, train_into, work_in


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, f"sqlite:///{folder}/mlflow.db", train_into(folder)


@pytest.mark.slow
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
    in_folder = find_model(str(folder / "trained" / "checkpoint"), uri, "glow")
    assert (in_folder.digest, in_folder.run_id) == (newest.digest, None)
    assert find_model(in_folder.reference, uri, "glow").digest == newest.digest
    assert newest.reference == run_id
    assert in_folder.training is not None  # read from the spec.json next to the checkpoint
    assert in_folder.training.class_conditional


def test_another_training_makes_another_digest(store, tmp_path):
    _, uri, _ = store
    folder, _, _ = store
    shutil.copytree(folder / "trained" / "checkpoint", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"scale": "bounded"}))
    assert find_model(str(tmp_path / "other"), uri, "glow").digest != find_model(None, uri, "glow").digest


def test_what_is_no_model_is_refused_in_a_sentence(store, tmp_path):
    folder, uri, run_id = store
    with pytest.raises(TrackingError, match=r"'nothing'.*folder.*: .*--model") as unknown:
        find_model("nothing", uri, "glow")
    assert unknown.value.code == "run-not-found"
    for name in ("runs:/0123/checkpoint", "models:/none@champion", "models:/none/1", "models:none"):
        with pytest.raises(TrackingError):
            find_model(name, uri, "glow")
    with pytest.raises(CheckpointError, match=rf"{tmp_path} .*model\.safetensors") as empty:
        find_model(str(tmp_path), uri, "glow")
    assert empty.value.code == "checkpoint-missing"
    shutil.copytree(folder / "trained" / "checkpoint", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="damaged"):
        find_model(str(tmp_path / "cut"), uri, "glow")
    other = Record.start(uri, "glow", "a test", {"glow.job": "ood"}, {})
    with pytest.raises(JobError, match=other.run_id) as refused:
        find_model(other.run_id, uri, "glow")
    assert refused.value.code == "run-of-another-job"
    running = Record.start(uri, "glow", "half done", {"glow.job": "train"}, {})
    with pytest.raises(JobError, match="RUNNING") as early:
        find_model(running.run_id, uri, "glow")
    assert early.value.code == "run-without-model"
    assert f"glowctl train --resume {running.run_id}" in early.value.remedy
    assert find_model(None, uri, "glow").run_id == run_id  # and not the newer ones, which are not finished trainings


def test_an_untrained_model_is_refused(store, tmp_path):
    _, uri, _ = store
    save_checkpoint(Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=1, width=4)), tmp_path / "new")
    with pytest.raises(CheckpointError, match="new") as refused:
        find_model(str(tmp_path / "new"), uri, "glow")
    assert refused.value.code == "model-untrained"


def test_a_folder_of_several_models_is_refused(store, tmp_path):
    folder, uri, _ = store
    for name in ("one", "two"):
        shutil.copytree(folder / "trained" / "checkpoint", tmp_path / name)
    with pytest.raises(CheckpointError, match="one, two") as refused:
        find_model(str(tmp_path), uri, "glow")
    assert refused.value.code == "several-models"


def test_a_store_without_trainings_advises_to_train(tmp_path):
    with pytest.raises(TrackingError) as none:
        find_model(None, f"sqlite:///{tmp_path}/mlflow.db", "glow")
    assert none.value.code == "no-finished-run"
    assert "glowctl train" in none.value.remedy


def test_a_trial_that_has_not_ended_is_continued_by_its_ablation(store):
    _, uri, _ = store
    tags = {"glow.job": "train", "glow.spec": "{}", "glow.trial": "1x1 s0", "mlflow.parentRunId": "abc"}
    trial = Record.start(uri, "trials", "1x1 s0", tags, {})
    trial.finish("KILLED")
    with pytest.raises(JobError, match="KILLED") as killed:
        find_model(trial.run_id, uri, "trials")
    with pytest.raises(JobError, match=trial.run_id) as resumed:
        prepare_resume(trial.run_id, {"tracking_uri": uri, "experiment": "trials"})
    assert [error.value.code for error in (killed, resumed)] == ["run-without-model", "run-is-trial"]
    assert all("glowctl ablate --resume abc" in error.value.remedy for error in (killed, resumed))


def test_without_a_name_the_best_trial_of_the_newest_ablation_is_found(store):
    """The newest trial is not taken. An ablation that was interrupted has no tag yet that names the best trial."""
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


def test_an_address_with_a_password_is_refused(store):
    """Every evaluation would publish it in its params, its spec and its name."""
    _, uri, _ = store
    with pytest.raises(JobError, match=r"--model s3://KEY:\*\*\*@bucket/model .*password"):
        find_model("s3://KEY:SECRET@bucket/model", uri, "glow")
    with pytest.raises(JobError, match=r"--output s3://KEY:\*\*\*@bucket/glow .*password"):
        usable_output("s3://KEY:SECRET@bucket/glow")
