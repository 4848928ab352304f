"""Tests of the logs that --verbose shows, and of silence without it."""

import logging

import pytest

from glowctl.system.verbosity import OURS, VERBOSE, set_up_logging, unheeded
from tests.jobs.command_line import glowctl


@pytest.fixture
def said(monkeypatch, capsys):
    """Return a function that logs a suppressed error and a warning, and returns the lines on standard error."""
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]

    def say(verbose: str) -> list[str]:
        monkeypatch.setenv(VERBOSE, verbose)
        for _ in range(2):
            set_up_logging()
        with unheeded(logging.getLogger("glowctl.some.room"), "the lamp stays on", KeyError):
            raise KeyError("switch")
        logging.getLogger("glowctl.some.room").warning("it is warm")
        return capsys.readouterr().err.splitlines()

    yield say
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_what_is_gone_on_after_is_said_once_with_its_reason_where_that_is_asked_for(said):
    lines = said("1")
    [told] = [line for line in lines if "the lamp stays on" in line]
    assert "DEBUG glowctl.some.room: the lamp stays on (KeyError: 'switch')" in told
    assert any(line.startswith("Traceback") for line in lines)
    assert lines[-1].endswith("WARNING glowctl.some.room: it is warm")


def test_nothing_is_said_where_it_is_not(said, monkeypatch):
    monkeypatch.setattr(logging.getLogger("glowctl"), "handlers", [])
    assert said("") == []


def test_other_errors_are_raised():
    with pytest.raises(ValueError, match="x"), unheeded(logging.getLogger("glowctl"), "nothing", KeyError):
        raise ValueError("x")


def test_the_option_leaves_what_json_prints_as_it_is(tmp_path, one_process):
    quiet = one_process(tmp_path, "train", "--preset", "smoke", "--print-spec")
    loud = glowctl(tmp_path, "--verbose", "train", "--preset", "smoke", "--print-spec")
    assert loud.returncode == quiet.returncode == 0, loud.stderr
    assert loud.stdout == quiet.stdout
    assert " DEBUG jobs." not in quiet.stderr
