"""A model goes to a folder or bucket with its card, and from there to another machine, where it judges alike."""

import shutil

import mlflow.pyfunc
import pytest
import yaml

from glow import load_checkpoint, load_dataset
from glowctl.errors import JobError
from glowctl.evaluation.find_model import find_model
from glowctl.sharing.card import model_card
from glowctl.sharing.folders import CARD_FILE, pull, push
from glowctl.specs.training import TrainSpec
from glowctl.tracking import metric_names
from glowctl.tracking.runs import MODEL, download_model
from glowctl.tracking.store import client_of
from tests.jobs.trained import train_into
from tests.refusals import refused


def uri_of(folder):
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def recorded_run(tmp_path_factory, empty_store):
    """A folder with a store that has a model, and the id of its run, with figures that a training records."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_store, folder / "mlflow.db")
    run_id = train_into(folder)
    for name, value in ((metric_names.TEST, 1.2345), ("parameters", 67890)):
        client_of(uri_of(folder)).log_metric(run_id, name, value)
    return folder, run_id


@pytest.fixture(scope="module")
def pushed(recorded_run, tmp_path_factory):
    """The folder that `glowctl push` wrote."""
    folder, run_id = recorded_run
    place = tmp_path_factory.mktemp("pushed") / "digits"
    assert push(uri_of(folder), "glow", run_id, str(place)) == str(place)
    return place


def test_a_pulled_model_is_the_pushed_one(recorded_run, pushed, tmp_path):
    folder, run_id = recorded_run
    pulled = pull(str(pushed), str(tmp_path / "new" / "digits"))
    ours = find_model(run_id, uri_of(folder), "glow")
    found = find_model(str(pulled), uri_of(tmp_path), "glow")
    assert found.digest == ours.digest
    assert found.training is not None
    assert found.training.dataset == "digits"
    assert load_checkpoint(pulled / "artifacts" / "checkpoint").config == ours.config


def test_mlflow_loads_a_pulled_model(recorded_run, pushed, tmp_path):
    folder, run_id = recorded_run
    images, _ = load_dataset("digits", "test")
    pulled = pull(str(pushed), str(tmp_path / "digits"))
    (tmp_path / "recorded").mkdir()
    recorded, _ = download_model(uri_of(folder), f"runs:/{run_id}/{MODEL}", str(tmp_path / "recorded"))
    answers = [mlflow.pyfunc.load_model(model).predict(images[:5].numpy()) for model in (str(pulled), str(recorded))]
    assert answers[0] == answers[1]


def test_a_bucket_carries_a_model(recorded_run, bucket, tmp_path):
    folder, run_id = recorded_run
    place = bucket.uri("models/digits")
    assert push(uri_of(folder), "glow", run_id, place) == place
    assert (pull(place, str(tmp_path / "digits")) / CARD_FILE).read_text().startswith("---\n")


def test_settings_that_go_along_say_nothing_of_the_machine(recorded_run, pushed):
    folder, _ = recorded_run
    text = (pushed / "artifacts" / "spec.json").read_text()
    assert str(folder) not in text
    assert TrainSpec.model_validate_json(text).depth == 2


def test_the_card_has_the_figures_of_the_record(recorded_run, pushed):
    folder, run_id = recorded_run
    card = (pushed / CARD_FILE).read_text()
    _, head, text = card.split("---\n", 2)
    (result,) = yaml.safe_load(head)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "digits"
    assert result["metrics"][0]["value"] == 1.2345
    assert "The test NLL is 1.234 bits/dim" in text
    assert "67,890" in text
    assert find_model(run_id, uri_of(folder), "glow").digest in text
    assert "CC BY 4.0" in text


def test_mlflow_shows_the_card_as_the_description(recorded_run, pushed):
    folder, run_id = recorded_run
    client = client_of(uri_of(folder))
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    assert version.description == (pushed / CARD_FILE).read_text()


def test_a_folder_of_a_checkpoint_has_no_card(recorded_run):
    folder, _ = recorded_run
    with refused("model-without-run", JobError):
        model_card(uri_of(folder), "glow", str(folder / "trained" / "checkpoint"))


def test_what_cannot_be_pulled_is_refused(recorded_run, pushed, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with refused("folder-not-empty", JobError):
        pull(str(pushed), str(tmp_path / "full"))
    with refused("model-missing", JobError):
        pull(str(tmp_path / "full"), str(tmp_path / "new"))
    with refused("model-missing", JobError):
        pull(str(tmp_path / "missing"), str(tmp_path / "other"))
    with refused("output-not-writable", JobError):
        pull(str(pushed), str(tmp_path / "full" / "file" / "below"))
    with refused("output-not-writable", JobError):
        push(uri_of(recorded_run[0]), "glow", recorded_run[1], str(tmp_path / "full" / "file" / "below"))
