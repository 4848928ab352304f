"""Tests of the folder for temporary files: its place, and its removal."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from glowctl.commands.app import main
from glowctl.errors import JobError
from glowctl.system.process_identity import has_ended, is_of_this_machine, this_process
from glowctl.system.scratch import make_scratch_folder, remove_abandoned, scratch_folder

KILLED = """
import os, signal, sys, tempfile
from glowctl.system.scratch import scratch_folder
with scratch_folder():
    tempfile.mkstemp()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_what_a_command_and_its_processes_put_there_goes_with_it(place):
    with scratch_folder() as folder:
        assert folder.parent == place
        with tempfile.NamedTemporaryFile(delete=False) as own:
            assert Path(own.name).parent == folder
        code = "import tempfile; print(tempfile.mkdtemp())"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert Path(child.stdout.strip()).parent == folder
    assert list(place.iterdir()) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(place)


def test_what_a_killed_command_left_the_next_one_removes(place):
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(place.iterdir())) == 1
    with scratch_folder() as folder:
        assert list(place.iterdir()) == [folder]


def test_what_others_have_there_stays(place):
    alive, foreign, unknown = make_scratch_folder(str(place)), place / "glow-elsewhere", place / "glow-of-somebody"
    for folder, owner in ((foreign, "host/boot/pid:[1] 1 1"), (unknown, "")):
        folder.mkdir()
        (folder / ".owner").write_text(owner)
    remove_abandoned(str(place))
    assert {alive, foreign, unknown} == set(place.iterdir())


def test_a_place_that_cannot_be_written_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(JobError, match="TMPDIR") as error, scratch_folder():
        pass
    assert error.value.code == "no-temporary-folder"


def test_a_command_that_finds_no_place_for_temporary_files_is_one_sentence(monkeypatch, capsys):
    """As when every disk is full: Python tries each folder that it knows."""

    def no_place() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", no_place)
    monkeypatch.setattr(sys, "argv", ["glowctl", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "/var/tmp" in said
    assert "TMPDIR" in said
    assert "unexpected" not in said


def test_a_process_is_told_from_others_and_from_its_successors():
    who = this_process()
    assert is_of_this_machine(who)
    assert not has_ended(who)
    place, pid, began = who.rsplit(" ", 2)
    assert has_ended(f"{place} {pid} {int(began) - 1}")  # a process that had this id before
    assert not is_of_this_machine(f"elsewhere {pid} {began}")
    assert not is_of_this_machine("")
