import errno
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.hosts import Host, hosts, missing

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _able() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def two(tmp_path):
    with hosts(2, tmp_path) as made:
        yield made


def ssh_line(host: Host, command: str) -> list[str]:
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=2")
    line = ["ssh", "-i", str(host.ssh_key), "-o", "IdentitiesOnly=yes"]
    return [*line, *(part for option in options for part in ("-o", option)), f"root@{host.ip}", command]


def ssh(host: Host, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(ssh_line(host, command), capture_output=True, text=True, timeout=20, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_host_has_a_name_an_address_files_and_processes_of_its_own(two, tmp_path):
    (tmp_path / "client").write_text("of this process")
    for host, other in (two, two[::-1]):
        assert said(host.run("hostname")) == host.name
        assert said(host.run("hostname -I")) == host.ip
        assert said(host.run(f"getent hosts {host.name} {other.name}")).split() == [
            *(host.ip, host.name),
            *(other.ip, other.name),
        ]
        with tempfile.NamedTemporaryFile(dir="/tmp") as of_this_machine:
            assert said(host.run(f"ls {of_this_machine.name} || echo none")) == "none"
        assert said(host.run("ls /dev/shm")) == ""
        host.run("touch /tmp/mine ~/mine /dev/shm/mine")
        assert (host.tmp / "mine").exists()
        assert (host.home / "mine").exists()
        assert set(said(host.run("cat /proc/[0-9]*/comm")).split()) <= {"bash", "sshd", "sshd-session", "cat"}
        assert [process.name() for process in host.processes()] == ["sshd"]


def test_hosts_have_the_python_of_the_tests_and_nothing_of_their_environment(two, monkeypatch):
    monkeypatch.setenv("GLOW_OF_THE_TESTS", "1")
    code = "import os, glowctl, psutil; print(glowctl.__file__, 'GLOW_OF_THE_TESTS' in os.environ)"
    expected = f"{Path(__file__).parents[2] / 'jobs' / 'glowctl' / '__init__.py'} False"
    assert said(two[0].run(f'python -c "{code}"')) == expected
    assert said(two[0].run(f"ssh {two[1].name} command -v ray")) == said(two[1].run("command -v ray"))


def test_only_what_is_shared_is_written_for_others(two, tmp_path):
    shared = tmp_path / "shared"
    said(two[0].run(f"echo hello > {shared}/file"))
    assert said(two[1].run(f"cat {shared}/file")) == "hello"
    assert (shared / "file").read_text() == "hello\n"
    denied = two[0].run(f"touch {__file__}")
    assert os.strerror(errno.EROFS) in denied.stderr


def test_a_command_that_takes_too_long_is_killed(two):
    with pytest.raises(subprocess.TimeoutExpired):
        two[0].run("sleep 100 & sleep 100", timeout=0.5)
    assert [process.name() for process in two[0].processes()] == ["sshd"]


def test_orphans_leave_no_zombie(two):
    said(two[0].run("for i in $(seq 20); do (setsid sleep 0.1 &); done; sleep 0.5"))
    assert "Z" not in said(two[0].run("cut -d ' ' -f 3 /proc/[0-9]*/stat")).split()


def test_the_client_logs_in_and_traffic_is_counted(two):
    host, other = two
    sent, received = host.bytes_sent(), host.bytes_received()
    idle = other.bytes_sent()
    assert said(ssh(host, "hostname")) == host.name
    assert len(said(ssh(host, "head -c 1000000 /dev/zero | tr '\\0' x"))) == 1_000_000
    assert host.bytes_sent() - sent > 1_000_000
    assert 0 < host.bytes_received() - received < 500_000
    assert other.bytes_sent() - idle < 10_000


def test_a_cut_host_is_silent_until_it_joins_again(two):
    host, other = two
    with subprocess.Popen(ssh_line(host, "sleep 1; echo still there"), stdout=subprocess.PIPE, text=True) as connection:
        while len(host.processes()) < 3:
            time.sleep(0.05)
        host.cut()
        assert ssh(host, "true").returncode == 255
        assert other.run(f"ssh -o ConnectTimeout=1 {host.name} true").returncode == 255
        assert said(ssh(other, "hostname")) == other.name
        assert said(host.run("hostname")) == host.name
        assert connection.poll() is None
        host.join()
        assert said(ssh(host, "hostname")) == host.name
        assert said(other.run(f"ssh {host.name} hostname")) == host.name
        out, _ = connection.communicate(timeout=20)  # as long as TCP waits before it tries again
        assert out == "still there\n"


def test_a_killed_host_can_be_started_again(two):
    host, other = two
    said(host.run("nohup sleep 100 > /dev/null 2>&1 & touch /tmp/mine"))
    host.kill_all()
    assert host.processes() == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host.ip, 22), timeout=5):
        pass
    host.start()
    assert said(ssh(host, "ls /tmp/mine")) == "/tmp/mine"
    assert said(ssh(other, "hostname")) == other.name


def found(*command: str, text: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if text in line]


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("wrong", [False, True])
def test_nothing_is_left(tmp_path, wrong):
    before = children()
    try:
        with hosts(2, tmp_path) as made:
            for host in made:
                said(host.run("nohup sleep 100 > /dev/null 2>&1 &"))
            of_hosts = {process for host in made for process in host.processes()}
            assert len(of_hosts) == 4
            assert of_hosts < children() - before
            network = made[0].ip.removesuffix("2")
            assert found("ip", "route", text=network)
            assert not found("ip", "netns", "list", text="glow")
            assert not found("cat", "/proc/self/mountinfo", text=str(tmp_path))
            if wrong:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert wrong
    assert not any(process.is_running() for process in of_hosts)
    assert children() <= before
    assert not found("ip", "address", text=network)
    assert not found("ip", "route", text=network)
    assert not found("cat", "/proc/self/mountinfo", text=str(tmp_path))
    assert os.uname().nodename not in {host.name for host in made}
