"""A command ends fast, and without lines from other packages on the screen."""

import gc
import sys
from types import ModuleType

import pytest

from jobs.commands.app import main


@pytest.mark.parametrize("with_triton", [False, True])
def test_objects_are_frozen_where_triton_would_not_tell_of_it(monkeypatch, capsys, with_triton):
    monkeypatch.setattr(sys, "argv", ["glowctl", "--help"])
    monkeypatch.setattr("jobs.commands.app.set_up_process", lambda: None)
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    if with_triton:
        monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "glowctl" in capsys.readouterr().out
    assert frozen == [True] * (not with_triton)


def test_a_file_that_is_cut_short_is_said_like_any_error(monkeypatch, capsys):
    """Typer takes an EOFError for the end of its input."""
    monkeypatch.setattr(sys, "argv", ["glowctl", "doctor"])
    monkeypatch.setattr("jobs.commands.app.set_up_process", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)

    def examine(*arguments):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("jobs.commands.doctor.examine", examine)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "EOFError: Ran out of input" in capsys.readouterr().err
