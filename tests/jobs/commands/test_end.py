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
