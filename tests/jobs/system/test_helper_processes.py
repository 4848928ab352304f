"""Tests of helper processes, whose parent is the test or a process that it starts."""

import signal
import subprocess
import sys

import psutil
import pytest

from glowctl.system.helper_processes import end, start
from tests.jobs.command_line import alive, wait_until

FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"

LATER = "pathlib.Path('later').touch()"

HELPER = """
import pathlib, sys, time
from glowctl.system.helper_processes import supervise

def run():
    {run}
    return 3

sys.exit(supervise(run, lambda: pathlib.Path("cleaned").touch()))
"""


@pytest.fixture
def helper(tmp_path):
    """Return a function that starts a helper with some statements in the test's folder; it ends after the test."""
    started = []

    def begin(run: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HELPER.format(run=run)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path))
        return started[-1]

    yield begin
    for each in started:
        with each:  # closes its pipes
            each.kill()


def test_a_command_ends_with_all_that_it_has_started():
    supervisor = start("glowctl.system.helper_processes", sys.executable, "-c", f"{FAMILY}; time.sleep(600)")
    wait_until(lambda: len(psutil.Process(supervisor.pid).children(recursive=True)) == 2)
    processes = psutil.Process(supervisor.pid).children(recursive=True)
    end(supervisor)
    wait_until(lambda: not alive(processes), timeout=30)


def test_what_a_command_leaves_ends_with_its_first_process():
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid)"
    supervisor = start("glowctl.system.helper_processes", sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    left = int(supervisor.stdout.readline())
    assert supervisor.wait(60) == 0
    wait_until(lambda: not psutil.pid_exists(left), timeout=30)
    end(supervisor)


def test_a_helper_cleans_up_when_its_parent_is_killed(tmp_path):
    holds = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE)"
    code = HELPER.format(run="pathlib.Path('running').touch(); time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", f"{holds}; time.sleep(600)", code], cwd=tmp_path)
    wait_until((tmp_path / "running").exists)
    [child] = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive([child]), timeout=30)
    assert (tmp_path / "cleaned").exists()


def test_a_helper_whose_parent_is_gone_before_it_runs_cleans_up(helper, tmp_path):
    late = helper("time.sleep(600)")
    late.stdin.close()
    assert late.wait(60) == 0
    assert (tmp_path / "cleaned").exists()


def test_nothing_is_done_any_more_when_a_helper_cleans_up(helper, tmp_path):
    running = helper("print('on', flush=True)\n    while not pathlib.Path('cleaned').exists(): pass\n    " + LATER)
    assert running.stdout.readline() == b"on\n"
    running.stdin.close()
    assert running.wait(60) == 0
    assert not (tmp_path / "later").exists()


def test_a_helper_that_ends_by_itself_cleans_up_and_says_how_it_ended(helper, tmp_path):
    assert helper("pass").wait(60) == 3
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_no_helper_but_what_it_has_started(helper, number):
    child = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('on', flush=True); signal.pause()"
    running = helper(f'import subprocess\n    return -subprocess.run([sys.executable, "-c", "{child}"]).returncode')
    assert running.stdout.readline() == b"on\n"
    [started] = psutil.Process(running.pid).children()
    running.send_signal(number)
    started.send_signal(number)
    assert running.wait(60) == number
