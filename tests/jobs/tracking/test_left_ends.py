"""Ends of runs that the store does not take, until it does."""

import errno
import io
import json
import os
import sys
import time

import psutil
import pytest
from mlflow import MlflowClient

from jobs.system.process_identity import this_process
from jobs.tracking import TrackingError, watch
from jobs.tracking import left_ends as left_ends_module
from jobs.tracking.left_ends import FORGOTTEN_AFTER_S, ROOM, LeftEnd, Note
from jobs.tracking.liveness import DRIVER, ERROR, GONE, UNTOLD
from jobs.tracking.store import client_of
from tests.jobs.tracking.test_liveness import driving, killed, looked, made, runs_of

CAUSE = "the output folder is full: 'ü' " + "x" * 4900


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The folder of the notes, empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "glow" / "ends"


@pytest.fixture
def dead():
    """The identity of a process of this machine that has ended."""
    place, pid, began = this_process().split(" ")
    return f"{place} {pid} {int(began) - 1}"


def watched(monkeypatch, uri, run_id, driver, end):
    """Run the watcher of a driver that could not write this end, in this process."""
    first = json.dumps({"uri": uri, "run_id": run_id, "driver": driver})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{first}\n{end if isinstance(end, str) else json.dumps(end)}"))
    monkeypatch.setattr(watch, "shield", lambda: None)
    monkeypatch.setattr(watch, "last_words", lambda: sys.stdin.read())
    monkeypatch.setattr(watch, "PATIENCE_S", 0.0)
    watch.main()


def away(*_):
    raise TrackingError("the disk of the store is full")


def test_a_cause_is_recorded_although_the_store_failed_longer_than_the_watcher_waits(uri, notes, dead, monkeypatch):
    run_id = made(uri, "run", {DRIVER: dead})
    with monkeypatch.context() as during:
        during.setattr(watch, "client_of", away)
        with pytest.raises(TrackingError):
            watched(during, uri, run_id, dead, {"status": "FAILED", "error": CAUSE})
    assert runs_of(uri)["run"].info.status == "RUNNING"
    run = looked(uri)["run"]
    assert run.info.status == "FAILED"
    assert run.data.tags[ERROR] == CAUSE
    assert list(notes.iterdir()) == []


def test_a_cause_that_the_store_does_not_take_at_first_is_written_by_the_next_try(uri, dead, monkeypatch):
    run_id = made(uri, "run", {DRIVER: dead})
    left = LeftEnd(run_id, dead, "FAILED", CAUSE)
    with monkeypatch.context() as during:
        during.setattr(MlflowClient, "set_tag", away)
        with pytest.raises(TrackingError):
            left.write(client_of(uri))
    left.write(client_of(uri))
    run = runs_of(uri)["run"]
    assert (run.info.status, run.data.tags.get(ERROR)) == ("FAILED", CAUSE)


@pytest.mark.parametrize(("status", "nested"), [("KILLED", "KILLED"), ("FINISHED", "KILLED"), (None, "FAILED")])
def test_runs_nested_under_it_end_too(uri, notes, dead, status, nested):
    run_id = made(uri, "run", {DRIVER: this_process()})
    trial = made(uri, "trial", {DRIVER: this_process(), "mlflow.parentRunId": run_id})
    for each in (run_id, trial):  # now that no command looks before the note is there
        client_of(uri).set_tag(each, DRIVER, dead)
    Note(notes / f"{run_id}.json").keep(LeftEnd(run_id, dead, status))
    runs = looked(uri)
    assert runs["run"].info.status == (status or "FAILED")
    assert runs["trial"].info.status == nested
    assert runs["run"].data.tags.get(ERROR) == (None if status else GONE)


def test_a_mark_of_another_command_is_corrected(uri, notes, dead):
    """The command could write the store but not see the note, for instance because it is another user's."""
    run_id = made(uri, "run", {DRIVER: dead})
    assert looked(uri)["run"].data.tags[ERROR] == UNTOLD
    Note(notes / f"{run_id}.json").keep(LeftEnd(run_id, dead, "KILLED"))
    run = looked(uri)["run"]
    assert run.info.status == "KILLED"
    assert ERROR not in run.data.tags


def test_a_run_that_was_resumed_since_is_not_ended(uri, notes, dead):
    run_id = made(uri, "run", {DRIVER: this_process()})
    Note(notes / f"{run_id}.json").keep(LeftEnd(run_id, dead, "FAILED", CAUSE))
    assert looked(uri)["run"].info.status == "RUNNING"
    assert list(notes.iterdir()) == []


def test_a_note_for_another_store_stays(uri, notes, dead):
    note = Note(notes / "0123456789abcdef0123456789abcdef.json")
    note.keep(LeftEnd(note.path.stem, dead, "FAILED", CAUSE))
    looked(uri)
    assert note.read() == LeftEnd(note.path.stem, dead, "FAILED", CAUSE)
    old = time.time() - FORGOTTEN_AFTER_S - 1
    os.utime(note.path, (old, old))
    looked(uri)
    assert not note.path.exists()


def test_a_damaged_note_holds_up_nothing(uri, notes, dead):
    made(uri, "run", {DRIVER: dead})
    notes.mkdir(parents=True)
    (notes / "damaged.json").write_text("{")
    assert looked(uri)["run"].info.status == "FAILED"


def test_a_full_disk_takes_the_end_because_its_room_was_reserved(notes, monkeypatch):
    with Note.reserved("a" * 32, this_process()) as note:
        assert note.path.stat().st_size == ROOM
        assert note.path.stat().st_mode & 0o777 == 0o600
        assert note.read() is None
        assert not note.is_abandoned()
        longest = LeftEnd("a" * 32, this_process(), "FAILED", "\N{GRINNING FACE}" * 5000)
        note.keep(longest)
        assert note.path.stat().st_size == ROOM
        assert note.read() == longest
    assert not note.path.exists()


def test_a_folder_that_takes_no_note_does_not_matter(notes, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(left_ends_module.os, "open", full)
    with Note.reserved("a" * 32, this_process()) as note:
        assert not note.path.exists()


def test_a_watcher_that_is_told_that_all_is_written_leaves_no_note(uri, notes, dead, monkeypatch):
    watched(monkeypatch, uri, made(uri, "run", {DRIVER: dead}), dead, "done")
    assert list(notes.iterdir()) == []
    assert runs_of(uri)["run"].info.status == "RUNNING"


@pytest.mark.slow
def test_a_driver_and_its_watcher_leave_no_note(uri, notes):
    with driving(uri) as (process, watcher):
        process.kill()
        psutil.wait_procs([watcher], timeout=60)
    assert list(notes.iterdir()) == []
    killed(uri)  # with its watcher, so that its note stays until the next look
    looked(uri)
    assert list(notes.iterdir()) == []
