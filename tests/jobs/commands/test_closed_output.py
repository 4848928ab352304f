"""A command whose output no program reads any more, as in ``glowctl runs | head -1``."""

import errno
import gc
import os
import subprocess
import sys

import pytest

from jobs.commands.app import main
from tests.jobs.command_line import environment

CODE = """
import sys
from rich.console import Console
from jobs.commands import app

def work(*_, **__):
    {work}

app._do = work
sys.argv = ["glowctl", "train", "--preset", "smoke", "--json"]
app.main()
"""


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("print('an event', flush=True)", 141),
        ("Console().print('a table')", 141),
        ("print('an event')", 0),  # which Python writes at its end only
        ("sys.stdout.write('an event'); raise ValueError('a bug')", 1),
    ],
)
def test_a_closed_pipe_ends_a_command_with_the_code_of_sigpipe_and_no_report(tmp_path, work, code):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(work=work)],
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED="", TMPDIR=str(tmp_path)),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == code, done.stderr
    assert "Broken" not in done.stderr
    assert ("a bug" in done.stderr) == (code == 1)


def test_another_broken_pipe_is_an_error_like_any_other(monkeypatch, capsys):
    """Typer would end the command without a message."""
    monkeypatch.setattr(sys, "argv", ["glowctl", "doctor"])
    monkeypatch.setattr("jobs.commands.app.set_up_process", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)

    def examine(*arguments):
        raise BrokenPipeError(errno.EPIPE, "of a socket")

    monkeypatch.setattr("jobs.commands.doctor.examine", examine)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "of a socket" in capsys.readouterr().err
