"""The last JSON event of a command that fails."""

import gc
import json
import sys

import pytest

from jobs.commands.app import main
from jobs.display.events import Noted
from jobs.errors import JobError
from tests.jobs.command_line import sentence_of


@pytest.mark.parametrize(
    ("asked", "exit_code", "code"),
    [
        ("train --preset smoke --depth 0", 2, "setting-not-allowed"),  # of a spec
        ("train --epochs x", 2, "setting-not-allowed"),  # of Typer
        ("train --permutaton 1x1", 2, "wrong-command-line"),
        ("show", 2, "setting-not-allowed"),
        ("jobs", 2, "no-cluster-named"),
        ("show nothing", 1, "store-missing"),
        ("train --resume first", 1, "run-not-found"),
    ],
)
def test_with_json_an_error_is_an_event_on_standard_output(one_process, tmp_path, asked, exit_code, code):
    without = one_process(tmp_path, *asked.split())
    assert without.stdout == ""
    done = one_process(tmp_path, *asked.split(), "--json")
    said = sentence_of(done, exit_code)
    assert said == sentence_of(without, exit_code)
    error = json.loads(done.stdout)
    assert error.keys() == {"event", "code", "problem", "remedy", "exit_code"}
    assert (error["event"], error["code"], error["exit_code"]) == ("error", code, exit_code)
    assert said == "glowctl: " + ": ".join(part for part in (error["problem"], error["remedy"]) if part)


def test_an_argument_that_looks_like_the_flag_is_not_the_flag(one_process, tmp_path):
    assert one_process(tmp_path, "show", "--", "--json").stdout == ""


def test_the_events_before_an_error_stay(monkeypatch, capsys):
    def perform(request, display):
        with display as show:
            show(Noted("one image is grey"))
            raise JobError("the disk is full", remedy="free some space", code="disk-full")

    monkeypatch.setattr("jobs.dispatch.perform", perform)
    monkeypatch.setattr("jobs.commands.app.set_up_process", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "argv", ["glowctl", "train", "--json", "--preset", "smoke"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == [
        {"event": "note", "message": "one image is grey"},
        {
            "event": "error",
            "code": "disk-full",
            "problem": "the disk is full",
            "remedy": "free some space",
            "exit_code": 1,
        },
    ]
    assert shown.err == "glowctl: the disk is full: free some space\n"
