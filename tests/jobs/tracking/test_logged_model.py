"""A model in the store: logged, registered, and loaded by each of its names."""

import json
import os
import shutil
import threading
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from glowctl.tracking.models import log_model, register
from glowctl.tracking.record import Record
from glowctl.tracking.runs import model_id_of
from glowctl.tracking.store import client_of, server_command
from glowctl.tracking.uris import TrackingError
from tests.jobs.command_line import free_port
from tests.jobs.served import default_store, load, running


@pytest.fixture
def run(uri):
    """Create the run of a training in a fresh store."""
    return Record.start(uri, "glow", "a training", {"glow.job": "train"}, {"depth": 2})


def models_of(client: MlflowClient, run: Record) -> list[str]:
    """Return the ids of the models that a run has logged."""
    outputs = client.get_run(run.run_id).outputs
    assert outputs is not None
    return [output.model_id for output in outputs.model_outputs]


@pytest.mark.slow
def test_a_logged_and_registered_model_is_found_by_every_name(
    uri, run, saved_model, trained_glow, tmp_path, monkeypatch
):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model_id = log_model(uri, run.run_id, folder, params={"depth": "2"}, tags={"glow.dataset": "digits"})
    version = register(uri, "glow-digits", run.run_id, model_id, {"glow.bits": "1.5"})
    client = client_of(uri)
    client.set_registered_model_alias("glow-digits", "champion", version)
    assert "MLFLOW_TRACKING_URI" not in os.environ

    logged = client.get_logged_model(model_id)
    assert (logged.name, logged.source_run_id, str(logged.status)) == ("model", run.run_id, "READY")
    assert logged.params == {"depth": "2"}
    assert logged.tags["glow.dataset"] == "digits"
    assert logged.tags["mlflow.source.name"] == "glowctl"
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "glow-digits", "version": 1}]
    assert models_of(client, run) == [model_id]
    assert client.get_model_version("glow-digits", version).tags == {"glow.bits": "1.5"}

    expected = trained_glow.expected(trained_glow.images[:10])
    places = (
        f"runs:/{run.run_id}/model",
        f"models:/{model_id}",
        "models:/glow-digits@champion",
        f"models:/glow-digits/{version}",
    )
    with default_store(uri):
        for place in places:
            model = load(place)
            assert model.predict(trained_glow.images[:10]) == expected
            assert (model.model_id, model.metadata.run_id) == (model_id, run.run_id)


def test_a_model_is_sent_once_however_often_the_registry_refuses(uri, run, saved_model, tmp_path, monkeypatch):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    answers: Iterator[TrackingError | str] = iter([TrackingError("no"), TrackingError("no"), "1"])

    def refusing(*_: object) -> str:
        answer = next(answers)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr("glowctl.tracking.record.register", refusing)
    for _ in range(2):
        with pytest.raises(TrackingError, match="no"):
            run.impatient().model(folder, "glow-digits", {"glow.model_digest": "1"})
    model_id, version = run.impatient().model(folder, "glow-digits", {"glow.model_digest": "1"})
    client = client_of(uri)
    assert models_of(client, run) == [model_id]
    assert version == "1"


def test_the_model_of_a_run_is_the_newest_that_is_whole(uri, run, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    made = [
        log_model(uri, run.run_id, folder) for _ in range(6)
    ]  # MLflow returns them in the order of their random ids
    client = client_of(uri)
    assert model_id_of(uri, client.get_run(run.run_id)) == made[-1]
    client.finalize_logged_model(made[-1], "FAILED")
    assert model_id_of(uri, client.get_run(run.run_id)) == made[-2]


def test_a_run_is_registered_once(uri, run, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    other = Record.start(uri, "glow", "another", {}, {})
    first, second = (log_model(uri, record.run_id, folder) for record in (run, other))
    assert register(uri, "digits", run.run_id, first, {}) == "1"
    assert register(uri, "digits", run.run_id, first, {}) == "1"
    assert register(uri, "digits", other.run_id, second, {}) == "2"
    assert register(uri, "digits", run.run_id, first, {}) == "1"


def test_two_that_register_at_once_agree(uri, run, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    model_id = log_model(uri, run.run_id, folder)
    versions, barrier = [], threading.Barrier(3)

    def enter():
        barrier.wait()
        versions.append(register(uri, "digits", run.run_id, model_id, {}))

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 3
    left = client_of(uri).search_model_versions("name = 'digits'")
    assert {str(entry.version) for entry in left} == set(versions)
    assert len(left) == 1


def test_a_model_that_was_not_uploaded_is_marked_as_failed(uri, run, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    (tmp_path / "mlartifacts" / "models").parent.mkdir(exist_ok=True)
    (tmp_path / "mlartifacts" / "models").write_text("in the way")
    with pytest.raises(TrackingError) as raised:
        log_model(uri, run.run_id, folder)
    assert raised.value.code == "store-failed"
    client = client_of(uri)
    found = client.search_logged_models([client.get_run(run.run_id).info.experiment_id])
    assert [str(model.status) for model in found] == ["FAILED"]
    outputs = client.get_run(run.run_id).outputs
    assert outputs is None or outputs.model_outputs == []


@pytest.mark.usefixtures("run")
def test_what_the_store_refuses_is_one_sentence(uri, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    with pytest.raises(TrackingError) as raised:
        log_model(uri, "0" * 32, folder)
    assert raised.value.code == "store-failed"
    with pytest.raises(TrackingError) as raised:
        register(uri, "digits", "0" * 32, "m-" + "0" * 32, {})
    assert raised.value.code == "store-failed"


@pytest.mark.slow
def test_it_is_the_same_through_a_server(uri, saved_model, trained_glow, tmp_path):
    folder, port = shutil.copytree(saved_model, tmp_path / "model"), free_port()
    command, changes = server_command(uri, port)
    http = f"http://127.0.0.1:{port}"
    with running(command, f"{http}/health", **changes):
        run = Record.start(http, "through a server", "a training", {"glow.job": "train"}, {})
        model_id = log_model(http, run.run_id, folder)
        version = register(http, "digits", run.run_id, model_id, {})
        assert register(http, "digits", run.run_id, model_id, {}) == version
        client = client_of(http)
        client.set_registered_model_alias("digits", "champion", version)
        found = client.get_model_version("digits", version)
        assert found.source == f"models:/{model_id}"
        logged = client.get_logged_model(model_id)
        assert json.loads(logged.tags["mlflow.modelVersions"])[0]["name"] == "digits"
        with default_store(http):
            for place in (f"runs:/{run.run_id}/model", f"models:/{model_id}", "models:/digits@champion"):
                assert load(place).predict(trained_glow.images[:5]) == trained_glow.expected(trained_glow.images[:5])
