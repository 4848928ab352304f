"""The log of a run: what it holds, how large it becomes, and `glowctl logs RUN`."""

import io
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from glowctl import run_log
from glowctl.browse.logs import show_log
from glowctl.commands.app import main
from glowctl.display import displays
from glowctl.display.displays import PlainLines
from glowctl.display.events import Event, Noted, Scoring, TrialEvent
from glowctl.errors import JobError
from glowctl.outputs import is_remote
from glowctl.run_log import LogFile, logged
from glowctl.system.machine_metrics import environment_text, machine_facts
from glowctl.tracking.liveness import GONE, LOG_FILES, mark_dead
from glowctl.tracking.record import Record
from glowctl.tracking.runs import read_artifact
from glowctl.tracking.store import client_of
from glowctl.tracking.uris import NoSuchRun
from glowctl.training.messages import Logged
from glowctl.training.worker_log import MOST_ENTRIES, logging_to
from tests.jobs.command_line import wait_until
from tests.jobs.record_facts import end_driver

SCORING = Scoring("mnist", "test", 100, 10_000, 50.0)


@pytest.fixture
def record(uri):
    return Record.start(uri, "glow", "a run", {"glow.job": "train"}, {})


def log_in(folder: Path) -> str:
    return "".join((folder / name).read_text() for name in LOG_FILES if (folder / name).exists())


def write_log(folder: Path, record: Record, *said: str, error: BaseException | None = None) -> list[Event]:
    """Write the log of a run that shows these notes, and return what it shows."""
    shown: list[Event] = []
    with logged(str(folder), record, shown.append) as (_, show):
        for note in said:
            show(Noted(note))
        logging.getLogger("a.library").warning("a worker is slow")
        warnings.warn("a number overflows", stacklevel=1)
        logging.getLogger("glow.model").warning("seen by nobody else")
        if error is not None:
            raise error
    return shown


@pytest.mark.filterwarnings("always")
def test_the_log_has_what_is_shown_warnings_and_the_end_and_mlflow_gets_it(record, uri, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without those of pytest
    with pytest.raises(JobError):
        write_log(tmp_path, record, "one image is grey", error=JobError("it broke", remedy="mend it", code="broken"))
    text = log_in(tmp_path)
    for part in (record.run_id, "note: one image is grey", "a worker is slow", "a number overflows", "seen by nobody"):
        assert part in text
    assert "glowctl: it broke: mend it\nTraceback" in text
    assert read_artifact(uri, record.run_id, "log.txt") == text.encode()
    on_screen = capsys.readouterr().err
    assert "a worker is slow" in on_screen
    assert "a number overflows" in on_screen
    assert "seen by nobody" not in on_screen


@pytest.mark.filterwarnings("always")
def test_after_the_log_is_closed_nothing_more_is_written_and_a_second_command_appends(record, tmp_path):
    assert write_log(tmp_path, record, "first") == [Noted("first")]
    logging.getLogger("a.library").warning("between")
    with pytest.raises(KeyboardInterrupt):
        write_log(tmp_path, record, "second", error=KeyboardInterrupt())
    text = log_in(tmp_path)
    assert text.index("first") < text.index("second") < text.index("stopped by a signal")
    assert "between" not in text


def test_passwords_and_the_values_of_secret_variables_are_left_out(record, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_TOKEN", "7f9c2ba4e88f")
    with logged(str(tmp_path), record, lambda _: None) as (_, show):
        show(Noted("postgresql://me:se/cr@et@host/db and https://host/x?api_key=1234&size=3 with 7f9c2ba4e88f"))
    text = log_in(tmp_path)
    assert "postgresql://me:***@host/db and https://host/x?api_key=***&size=3 with ***" in text


def test_a_log_keeps_its_first_and_its_newest_lines_within_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "MOST_BYTES", 300_000)
    file = LogFile(tmp_path)
    for number in range(30_000):
        file.handle(logging.makeLogRecord({"msg": f"line {number} of many, as long as a line is"}))
    file.close()
    lines = [line.split()[3] for line in log_in(tmp_path).splitlines()]
    assert lines[:3] == ["0", "1", "2"]
    newest = [int(number) for number in lines[len(lines) // 2 :]]
    assert newest == list(range(newest[0], 30_000))
    assert sum((tmp_path / name).stat().st_size for name in LOG_FILES) <= 300_000


def test_a_disk_that_is_full_ends_no_run(record, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LogFile, "shouldRollover", full)
    with logged(str(tmp_path), record, lambda _: None) as (_, show):
        show(Noted("lost"))
    assert "Traceback" not in capsys.readouterr().err


def test_a_log_in_a_bucket_goes_on_where_an_earlier_command_stopped(record, tmp_path):
    bucket = f"file://{tmp_path}"  # to pyarrow, a bucket with the same interface
    assert is_remote(bucket)
    for said in ("first", "second"):
        with logged(bucket, record, lambda _: None) as (log, show):
            show(Noted(said))
            log.copy()
            assert said in (tmp_path / "log.txt").read_text()
    assert "first" in (tmp_path / "log.txt").read_text()


def test_the_log_of_a_killed_command_is_copied_when_the_run_is_marked(record, uri, tmp_path):
    (tmp_path / "log.txt").write_text("the last line\n")
    client = client_of(uri)
    client.set_tag(record.run_id, "glow.place", str(tmp_path))
    end_driver(uri, record.run_id)
    mark_dead(client, client.get_run(record.run_id).info.experiment_id)
    run = client.get_run(record.run_id)
    assert (run.info.status, run.data.tags["glow.error"]) == ("FAILED", GONE)
    assert read_artifact(uri, record.run_id, "log.txt") == b"the last line\n"


# Plain lines.


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, "at work for 0:00"),
        (SCORING, "scoring mnist test  100/10,000 images  50 images/s"),
        (TrialEvent("1x1 s0", SCORING), "[1x1 s0] scoring mnist test  100/10,000 images  50 images/s"),
    ],
    ids=["nothing is known", "progress", "progress of a trial"],
)
def test_plain_lines_report_the_progress_of_a_job_that_shows_nothing(monkeypatch, event, expected):
    monkeypatch.setattr(displays, "QUIET_S", 0.2)
    out = io.StringIO()
    with PlainLines(out) as show:
        if event is not None:
            show(event)
        wait_until(lambda: out.getvalue().count("\n") >= 2)
    first, second, *_ = out.getvalue().splitlines()
    assert first == expected
    assert second == "at work for 0:00"  # the same progress is not told twice


# The log of a worker.


def test_a_worker_sends_its_warnings_and_the_traceback_of_its_end():
    sent: list[object] = []

    class Sent:
        def put(self, message: object) -> None:
            sent.append(message)

    with logging_to(Sent(), "worker 1"):
        for number in range(2 * MOST_ENTRIES):
            logging.getLogger("torch").warning("slow %d", number)
    assert sent[0] == Logged("worker 1: slow 0")
    assert len(sent) == MOST_ENTRIES
    sent.clear()
    with pytest.raises(ZeroDivisionError), logging_to(Sent(), "worker 1"):
        raise ZeroDivisionError
    (entry,) = sent
    assert isinstance(entry, Logged)
    assert entry.text.startswith("worker 1: the worker stops\nTraceback")


# What ran it.


def test_the_environment_names_packages_and_machines():
    found = json.loads(environment_text({"head": machine_facts()}))
    assert found["packages"]["torch"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    machine = found["machines"]["head"]
    assert machine["processor"]
    assert machine["cores"] == os.cpu_count()


# glowctl logs RUN


@pytest.fixture
def ended(record, tmp_path) -> Path:
    """The folder of a finished run with a log."""
    folder = tmp_path / "outputs" / record.run_id
    folder.mkdir(parents=True)
    with logged(str(folder), record, lambda _: None) as (log, show), record.running(log.copy, system_metrics=False):
        show(Noted("the only line"))
    return folder


def test_a_log_is_shown_by_name_id_or_folder_and_without_its_folder(ended, record, uri, capsys, monkeypatch):
    def shown(name: str, given: str = uri) -> str:
        assert show_log(name, given, follow=True) == 0
        return capsys.readouterr().out

    monkeypatch.chdir(ended.parents[1])
    text = log_in(ended)
    assert "the only line" in text
    assert {shown("a run"), shown(record.run_id), shown(str(ended), f"sqlite:///{ended}/other.db")} == {text}
    shutil.rmtree(ended)
    assert shown(record.run_id) == text


def test_a_run_is_followed_until_it_ends(record, uri, tmp_path, capsys, monkeypatch):
    lines = iter(["two\n", "two\nthree\n"])
    log = tmp_path / "log.txt"
    log.write_text("one\n")
    client = client_of(uri)
    client.set_tag(record.run_id, "glow.place", str(tmp_path))

    def write_more(_: float) -> None:
        if (text := next(lines, None)) is None:
            record.finish("KILLED")
        elif text == "two\n":  # the file becomes full
            (tmp_path / LOG_FILES[0]).write_text("one\nand a half\n")
            log.write_text(text)
        else:
            log.write_text(text)

    monkeypatch.setattr("glowctl.browse.logs.time.sleep", write_more)
    assert show_log(record.run_id, uri, follow=True) == 1
    assert capsys.readouterr().out == "one\nand a half\ntwo\nthree\n"


def test_what_has_no_log_is_named(record, uri):
    with pytest.raises(JobError, match="'a run' has no log"):
        show_log("a run", uri, follow=False)
    with pytest.raises(NoSuchRun, match="nothing like it"):
        show_log("nothing like it", uri, follow=False)


def test_json_is_refused_for_a_run(monkeypatch, capsys, uri):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "argv", ["glowctl", "logs", "a run", "--json", "--tracking-uri", uri])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "leave out --json" in capsys.readouterr().err
