"""Each step of a metric, and each image of a step, is in MLflow once, however often it is written."""

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from glowctl.tracking.record import Record, WrittenSteps
from glowctl.tracking.runs import find_run
from glowctl.tracking.store import open_store
from glowctl.tracking.uris import TrackingError


def steps_of(uri: str, record: Record, name: str) -> list[tuple[int, float]]:
    """Return the (step, value) points that the store has, including any that were written twice."""
    client, _ = open_store(uri, "glow")
    return [(point.step, point.value) for point in client.get_metric_history(record.run_id, name)]


@pytest.fixture
def record(uri) -> Record:
    return Record.start(uri, "glow", "a", {}, {})


def test_a_step_is_written_once_and_stays_as_it_was_first(uri, record):
    record.metrics({"loss": 3.0}, 1)
    record.metrics({"loss": 9.0, "pace": 5.0}, 1, at=1_800_000_000.5)
    record.impatient().metrics({"loss": 9.0}, 1)
    assert steps_of(uri, record, "loss") == [(1, 3.0)]
    assert steps_of(uri, record, "pace") == [(1, 5.0)]
    assert record._client.get_metric_history(record.run_id, "pace")[0].timestamp == 1_800_000_000_500
    again = Record.existing(uri, find_run(uri, "glow", "a"))  # it is asked what it has
    for step, loss in ((1, 3.0), (2, 2.0)):
        again.metrics({"loss": loss}, step)
    assert steps_of(uri, record, "loss") == [(1, 3.0), (2, 2.0)]


def test_what_a_run_has_is_asked_again_while_the_store_is_away(uri, record, monkeypatch):
    record.metrics({"loss": 3.0}, 1)
    answers = iter([TrackingError("away", code="store-unreachable"), {1: 3.0}])

    def asked(*_):
        answer = next(answers)
        if isinstance(answer, TrackingError):
            raise answer
        return answer

    monkeypatch.setattr("glowctl.tracking.record.metric_history", asked)
    monkeypatch.setattr("glowctl.tracking.record.RETRY_S", 0.01)
    assert record.metric_steps("loss") == {1: 3.0}


@contextmanager
def answer_lost(monkeypatch, record, method):
    """The store does what this method of the client asks, but its answer is lost, so that the block must raise."""
    whole = getattr(record._client, method)

    def lost(*arguments, **named):
        whole(*arguments, **named)
        raise ConnectionError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(record._client, method, lost)
        with pytest.raises(TrackingError):
            yield


def test_a_write_whose_answer_was_lost_is_not_repeated(uri, record, monkeypatch):
    record.metrics({"loss": 3.0}, 1)
    with answer_lost(monkeypatch, record, "log_batch"):
        record.impatient().metrics({"loss": 2.0}, 2)
    record.metrics({"loss": 2.0}, 2)
    assert steps_of(uri, record, "loss") == [(1, 3.0), (2, 2.0)]


IMAGE = np.zeros((4, 4, 3), np.uint8)


def pictures_of(record: Record) -> int:
    """Return the number of pictures that the store has."""
    return sum(file.path.endswith(".png") for file in record._client.list_artifacts(record.run_id, "images"))


def test_an_image_of_a_step_is_logged_once_and_what_a_run_has_is_listed_once(uri, record, monkeypatch):
    """A checkpoint has up to a thousand grids of samples, and a server may take a tenth of a second for a list."""
    for step in (1, 1, 2, 3):
        record.image(IMAGE, "samples", step)
    assert pictures_of(record) == 3
    again = Record.existing(uri, record._client.get_run(record.run_id))
    listed = []
    whole = again._client.list_artifacts

    def recorded(*of):
        listed.append(of)
        return whole(*of)

    with monkeypatch.context() as patch:
        patch.setattr(again._client, "list_artifacts", recorded)
        for step in (1, 2, 3, 1):
            again.impatient().image(IMAGE, "samples", step)
    assert len(listed) == 1
    assert pictures_of(record) == 3


def test_an_image_whose_answer_was_lost_is_not_written_again(record, monkeypatch):
    with answer_lost(monkeypatch, record, "log_image"):
        record.impatient().image(IMAGE, "samples", 1)
    record.image(IMAGE, "samples", 1)
    assert pictures_of(record) == 1


def test_a_table_whose_writer_died_is_listed_and_has_its_rows_once(uri, record, monkeypatch, tmp_path):
    """MLflow writes a table, and then the tag by which its UI finds the table."""

    def die(*_, **__):
        raise KeyboardInterrupt

    table = pd.DataFrame({"a": [1, 2]})
    client = record._client
    record.table(table, "other.json")
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_tag", die)
        with pytest.raises(KeyboardInterrupt):
            record.table(table, "table.json")
    for _ in range(2):
        record.table(table, "table.json")
    run = client.get_run(record.run_id)
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "other.json", "type": "table"},
        {"path": "table.json", "type": "table"},
    ]
    found = client.download_artifacts(record.run_id, "table.json", str(tmp_path))
    assert pd.read_json(found, orient="split")["a"].tolist() == [1, 2]


def test_the_store_of_a_new_run_is_asked_only_after_a_write_that_failed():
    asked = []

    def ask(name: str) -> list[int]:
        asked.append(name)
        return [1, 2]

    steps = WrittenSteps(ask, new=True)
    assert steps.without(["a", "b"], 1) == ["a", "b"]
    with steps.adding(["a"], 1):
        pass
    assert steps.without(["a", "b"], 1) == ["b"]
    assert asked == []
    with pytest.raises(ConnectionError), steps.adding(["b"], 1):
        raise ConnectionError("reset by peer")
    assert steps.without(["a", "b"], 1) == []
    assert asked == ["b"]
    assert steps.without(["b"], 3) == ["b"]
    assert asked == ["b"]
