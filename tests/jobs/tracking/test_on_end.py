"""`--on-end`: an address or a command is told once how a run has ended, and its failure changes nothing."""

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from glowctl.tracking import on_end
from glowctl.tracking.liveness import GONE, mark_dead
from glowctl.tracking.record import Record
from glowctl.tracking.store import client_of
from glowctl.tracking.uris import TrackingError
from tests.jobs.record_facts import end_driver


class Hook(http.server.ThreadingHTTPServer):
    """An address that is told the ends of runs, and answers with a status."""

    def __init__(self, status: int, after_s: float = 0.0) -> None:
        told: list[dict] = []
        self.told = told

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name is Python's
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(after_s)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/ended"


@pytest.fixture
def hook(request) -> Iterator[Hook]:
    with Hook(*getattr(request, "param", (200,))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_with(uri: str, told: str, error: BaseException | None = None) -> Record:
    record = Record.start(uri, "glow", "a run", {"glow.job": "nll"}, {})
    expected = nullcontext() if error is None else pytest.raises(type(error))
    with expected, record.running(on_end=told, system_metrics=False):
        record.metrics({"bits_per_dim/mnist": 1.5})
        if error is not None:
            raise error
    return record


@pytest.mark.parametrize(
    ("error", "state", "cause"),
    [(None, "finished", None), (KeyboardInterrupt(), "killed", None), (RuntimeError("it broke"), "failed", "it broke")],
)
def test_an_address_is_told_how_a_run_ended(uri, hook, error, state, cause):
    record = run_with(uri, hook.address, error)
    (told,) = hook.told
    assert told.pop("seconds") > 0
    assert told == {
        "job": "nll",
        "state": state,
        "run": "a run",
        "run_id": record.run_id,
        "cause": cause,
        "result": {"bits_per_dim/mnist": 1.5},
        "cost": {},
        "place": None,
    }


def test_a_command_gets_the_end_on_its_standard_input(uri, tmp_path):
    record = run_with(uri, f"tee '{tmp_path}/a file'")
    assert json.loads(Path(tmp_path, "a file").read_text())["run_id"] == record.run_id


@pytest.mark.parametrize("hook", [(500,)], indirect=True)
def test_an_address_that_fails_is_called_again_and_is_a_line_in_the_log(uri, hook, caplog, monkeypatch):
    monkeypatch.setattr(on_end, "TRIES", 2)
    record = run_with(uri, hook.address)
    assert len(hook.told) == 2
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "500" in line.getMessage()
    assert client_of(uri).get_run(record.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("hook", [(200, 30.0)], indirect=True)
def test_an_address_that_hangs_is_given_up(uri, hook, caplog, monkeypatch):
    monkeypatch.setattr(on_end, "TRIES", 1)
    monkeypatch.setattr(on_end, "TIMEOUT_S", 0.2)
    run_with(uri, hook.address)
    assert "timed out" in caplog.text.lower()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program", "No such file"),
        ("sh -c 'echo sorry >&2; exit 3'", "exit code 3: sorry"),
        ("sh -c 'exec sleep 60'", "timed out"),
        ("'", "No closing quotation"),
    ],
)
def test_a_command_that_fails_is_a_line_in_the_log(uri, command, said, caplog, monkeypatch):
    monkeypatch.setattr(on_end, "COMMAND_TIMEOUT_S", 0.5)
    record = run_with(uri, command)
    (line,) = caplog.records
    assert said in line.getMessage()
    assert client_of(uri).get_run(record.run_id).info.status == "FINISHED"


def test_the_process_that_marks_a_killed_run_tells_its_end_once(uri, hook):
    record = Record.start(uri, "glow", "a run", {}, {})
    record.begin(hook.address)
    client = client_of(uri)
    run = client.get_run(record.run_id)
    mark_dead(client, run.info.experiment_id)
    assert hook.told == []  # the process lives
    end_driver(uri, record.run_id)
    for _ in range(2):
        mark_dead(client, run.info.experiment_id)
    (told,) = hook.told
    assert (told["state"], told["cause"]) == ("failed", GONE)


def test_the_cost_of_an_ablation_is_that_of_its_trials(uri, hook):
    parent = Record.start(uri, "glow", "all", {"glow.job": "ablate"}, {})
    for seconds in (10.0, 20.0):
        trial = Record.start(uri, "glow", "one", {"glow.job": "train", "mlflow.parentRunId": parent.run_id}, {})
        trial.metrics({"core_seconds": seconds, "gpu_seconds": 0.0})
    with parent.running(on_end=hook.address, system_metrics=False):
        pass
    (told,) = hook.told
    assert told["cost"] == {"core_seconds": 30.0, "gpu_seconds": 0.0}


def test_a_resumed_run_without_the_flag_tells_nobody(uri, hook):
    record = run_with(uri, hook.address)
    with record.running(system_metrics=False):
        pass
    assert len(hook.told) == 1


def test_a_run_whose_end_could_not_be_written_is_not_told(uri, hook, monkeypatch):
    def away(*_: object) -> None:
        raise TrackingError("the store does not answer", remedy="", code="store-away")

    monkeypatch.setattr(Record, "_end", away)
    run_with(uri, hook.address, RuntimeError("it broke"))
    assert hook.told == []
