"""Tests of runs that MLflow has lost: they are resumed from the facts next to their checkpoints."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

from glowctl.ablation import prepare as ablate
from glowctl.errors import JobError, SpecError
from glowctl.outputs import KeptResult, remember
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record
from glowctl.tracking.uris import NoSuchRun
from glowctl.training import prepare as preparation
from glowctl.training.log import TrainingLog
from glowctl.training.messages import Attempt


@pytest.fixture
def here(monkeypatch, tmp_path, empty_store):
    monkeypatch.chdir(tmp_path)
    for store in ("lost.db", "mlflow.db"):
        shutil.copy(empty_store, tmp_path / store)
    for name in ("GLOW_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def kept_training(folder, result=None, **changes):
    """Write the storage of a training, as `glowctl.training.run.run` does at its start, and lose its record."""
    work = preparation.prepare(make_train_spec("smoke", {"seed": 7, "workers": "2", **changes}))
    record = Record.start(f"sqlite:///{folder}/lost.db", "glow", "a name", {}, {})
    remember(work.place_of(record), replace(work.to_keep(record), result=result))
    return record.run_id


@pytest.mark.parametrize("named", ["{run}", "outputs/{run}", "{here}/outputs/{run}/"])
def test_a_training_is_found_by_its_id_or_its_folder(here, named):
    run_id = kept_training(here)
    work = preparation.prepare_resume(named.format(run=run_id, here=here), {"workers": "1"})
    assert (work.spec.seed, work.spec.workers, work.spec.output) == (7, "1", str(here / "outputs"))
    assert work.resumed is not None
    assert (work.resumed.run, work.resumed.folder) == (None, run_id)
    record = work.open_record()
    assert (record.name, work.place_of(record)) == ("a name", str(here / "outputs" / run_id))
    log = TrainingLog(work, record, lambda event: None)
    log.see(Attempt(1, 3, device="CPU", precision="float32", parameters=9))
    assert log.restarts == 1
    remember(work.place_of(record), work.to_keep(record))
    for name in (record.run_id, named.format(run=run_id, here=here)):  # now found with its new record
        again = preparation.prepare_resume(name, {})
        assert again.open_record().run_id == record.run_id
        assert again.place_of(record) == work.place_of(record)
        assert again.spec.workers == "2"  # the other number was for that command alone


def test_storage_that_was_moved_is_where_the_training_goes_on(here):
    run_id = kept_training(here)
    shutil.move(here / "outputs", here / "moved")
    work = preparation.prepare_resume(f"moved/{run_id}", {})
    assert work.spec.output == str(here / "moved")


def test_what_cannot_be_taken_up_is_one_sentence(here):
    with pytest.raises(NoSuchRun, match=r"'none' .*/outputs/none") as absent:
        preparation.prepare_resume("none", {})
    assert absent.value.code == "run-not-found"
    run_id = kept_training(here, KeptResult(state="finished", test_bits_per_dim=2.0, seconds=3.0))
    with pytest.raises(JobError, match=f"/outputs/{run_id}") as finished:
        preparation.prepare_resume(run_id, {})
    assert finished.value.code == "run-finished"
    with pytest.raises(SpecError, match="--depth"):
        preparation.prepare_resume(kept_training(here), {"depth": 3})
    run_id = kept_training(here)
    with pytest.raises(JobError, match="glowctl train --resume") as training:
        ablate.prepare_resume(run_id, {})
    assert training.value.code == "run-of-another-job"
    file = here / "outputs" / run_id / "run.json"
    facts = json.loads(file.read_text())
    facts["images"]["digits train"] = "another"
    file.write_text(json.dumps(facts))
    with pytest.raises(JobError, match="digits train") as error:
        preparation.prepare_resume(run_id, {})
    assert error.value.code == "images-changed"


def test_an_ablation_is_found_by_its_folder(here):
    ablation = ablate.prepare(make_ablate_spec("smoke", {"permutations": "all", "seeds": 2}))
    resources = {"cpus_per_worker": 1.0, "gpus_per_worker": 0.0}
    lost = Record.start(f"sqlite:///{here}/lost.db", "glow", "a name", {}, {})
    remember(str(here / "outputs" / "abc"), ablation.to_keep(lost, resources))
    found = ablate.prepare_resume("outputs/abc", {})
    train = found.spec.train.model_copy(update={"tracking_uri": None})
    assert found.spec.model_copy(update={"train": train}) == ablation.spec
    assert found.resumed is not None
    assert (found.resumed.folder, found.taken) == ("abc", resources)
    parent = found.open_record(resources)
    assert (parent.name, found.place_of(parent)) == ("a name", str(here / "outputs/abc"))
    with pytest.raises(JobError, match="glowctl ablate --resume") as error:
        preparation.prepare_resume("outputs/abc", {})
    assert error.value.code == "run-of-another-job"


def test_no_password_is_left_in_storage(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db?password=secret")
    spec = make_train_spec("smoke", {"tracking_uri": "postgresql://me:secret@host/db"})
    work = preparation.prepare(spec)
    record = Record.start(f"sqlite:///{here}/lost.db", "glow", "a name", {}, {})
    assert "secret" not in json.dumps(asdict(work.to_keep(record)))
    ablation = ablate.prepare(make_ablate_spec("smoke", {"tracking_uri": "postgresql://me:secret@host/db"}))
    assert "secret" not in json.dumps(asdict(ablation.to_keep(record, {})))
