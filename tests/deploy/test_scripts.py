"""`deploy/*.sh` start MLflow and Ray as described; the programs in `STAND_INS` are replaced on the PATH."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from glowctl.ray_runtime.connection import STOP_PATIENCE_S
from tests.jobs.command_line import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"

STAND_INS = {
    "ray": r"""printf '%s\x1f' "$@" >>~/ray.calls; printf '\x1e' >>~/ray.calls; env -0 >~/ray.env""",
    # It answers until it ends, after a while if it is slow, and never if it is broken.
    "mlflow": r"""printf '%s\x1f' "$@" >>~/mlflow.calls; printf '\x1e' >>~/mlflow.calls; env -0 >~/mlflow.env
[[ -e ~/broken ]] && exit 3
[[ -e ~/slow ]] && /bin/sleep 0.5
echo $$ >~/answers; exec /bin/sleep 600""",
    "curl": r"""[[ -e ~/answers ]] && kill -0 "$(cat ~/answers)" 2>/dev/null""",
    "sleep": "exec /bin/sleep 0.01",
    "python": r"""printf '%s\x1f' "$@" >>~/python.calls; printf '\x1e' >>~/python.calls; env -0 >~/python.env""",
}


class Host:
    """A machine of a cluster: a home with the token, and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.storage = folder / "storage"
        self.bin = folder / "bin"
        self.token = self.home / ".ray" / "auth_token"
        for made in (self.token.parent, self.storage, self.bin):
            made.mkdir(parents=True)
        self.token.write_text("0123")
        self.token.chmod(0o644)
        for name, text in STAND_INS.items():
            (self.bin / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        given = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        given |= {"GLOW_STORAGE": str(self.storage), "RAY_HEAD_IP": "192.0.2.1"}
        return subprocess.run(
            ["bash", DEPLOY / script, *arguments],
            env={name: value for name, value in (given | variables).items() if value is not None},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def calls(self, name: str) -> list[list[str]]:
        path = self.home / f"{name}.calls"
        if not path.exists():
            return []
        return [call.split("\x1f")[:-1] for call in path.read_text().split("\x1e")[:-1]]

    def environment(self, name: str) -> dict[str, str]:
        pairs = (self.home / f"{name}.env").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def processes(self) -> list[psutil.Process]:
        """Return the processes that were started here and still run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    while host.processes():
        for process in host.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize(
    ("script", "missing", "fact"),
    [
        ("head.sh", "GLOW_STORAGE", "GLOW_STORAGE"),
        ("head.sh", "token", "~/.ray/auth_token"),
        ("worker.sh", "RAY_HEAD_IP", "RAY_HEAD_IP"),
        ("worker.sh", "token", "~/.ray/auth_token"),
    ],
)
def test_a_script_says_in_one_sentence_what_is_missing(host, script, missing, fact):
    if missing == "token":
        host.token.unlink()
    done = host.run(script, **({} if missing == "token" else {missing: None}))
    assert done.returncode == 1
    assert done.stdout == ""
    assert fact in done.stderr
    assert done.stderr.count("\n") == 1
    assert host.calls("ray") == host.calls("mlflow") == []


@pytest.mark.parametrize("storage", ["s3://YOUR-BUCKET/glow", "/no/such/folder", "relative"])
def test_the_head_refuses_a_storage_that_cannot_be_meant(host, storage):
    done = host.run("head.sh", GLOW_STORAGE=storage)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("GLOW_STORAGE")
    assert host.calls("ray") == host.calls("mlflow") == []


def test_the_head_starts_mlflow_and_then_ray(host):
    bootstrap = host.home / "ray_bootstrap_config.yaml"
    bootstrap.touch()
    done = host.run("head.sh", "--num-cpus", "0", GLOW_STORAGE="s3://bucket/glow/")
    assert done.returncode == 0, done.stderr
    [serve] = host.calls("mlflow")
    assert serve[:5] == ["server", "--host", "127.0.0.1", "--port", "5000"]
    assert serve[serve.index("--artifacts-destination") + 1] == "s3://bucket/glow/mlflow"
    assert host.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{host.home}/glow/mlflow.db"
    stop, start = host.calls("ray")
    assert stop == ["stop"]
    assert start[:6] == ["start", "--head", "--port", "6379", "--dashboard-host", "127.0.0.1"]
    assert start[6] == "--system-config"
    assert json.loads(start[7])["health_check_period_ms"] == 1000
    assert start[8:] == ["--autoscaling-config", str(bootstrap), "--num-cpus", "0"]
    inherited = host.environment("ray")
    assert inherited["RAY_AUTH_MODE"] == "token"
    assert inherited["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert inherited["GLOW_STORAGE"] == "s3://bucket/glow/"
    assert inherited["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_PATIENCE_S)
    assert "OMP_NUM_THREADS" not in inherited
    assert host.token.stat().st_mode & 0o777 == 0o600


def test_the_head_gets_its_database_back_and_watches_for_jobs_if_it_shall_end_without(host):
    assert host.run("head.sh").returncode == 0
    assert host.calls("python") == [["-m", "glowctl.cluster.idle", "restore"]]
    assert host.run("head.sh", GLOW_IDLE_DOWN="4h", GLOW_DATABASE="postgresql://host/glow").returncode == 0
    wait_until(lambda: len(host.calls("python")) == 2)
    assert host.calls("python")[1] == ["-m", "glowctl.cluster.idle"]
    wait_until(lambda: "GLOW_IDLE_DOWN" in host.environment("python"))  # it is written after the call
    watching = host.environment("python")
    assert watching["GLOW_IDLE_DOWN"] == "4h"
    assert watching["RAY_AUTH_MODE"] == "token"
    assert "GLOW_DATABASE" not in watching


def test_the_head_started_again_leaves_mlflow_alone(host):
    for _ in range(2):
        assert host.run("head.sh").returncode == 0
    assert len(host.calls("mlflow")) == 1
    assert [call[0] for call in host.calls("ray")] == ["stop", "start"] * 2
    assert "--autoscaling-config" not in host.calls("ray")[1]


def test_an_mlflow_that_is_starting_is_not_started_a_second_time(host):
    (host.home / "slow").touch()
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(host.run, ["head.sh", "head.sh"]))
    assert [each.returncode for each in done] == [0, 0]
    assert len(host.calls("mlflow")) == 1


def test_the_head_takes_an_mlflow_that_someone_else_started(host):
    (host.home / "answers").write_text(str(os.getpid()))
    assert host.run("head.sh").returncode == 0
    assert host.calls("mlflow") == []


def test_mlflow_is_started_again_when_it_has_ended(host):
    assert host.run("head.sh").returncode == 0
    os.kill(int((host.home / "answers").read_text()), signal.SIGKILL)
    wait_until(lambda: len(host.calls("mlflow")) == 2)


@pytest.mark.slow
def test_an_mlflow_that_does_not_start_is_the_heads_error_and_is_not_kept(host):
    (host.home / "broken").touch()
    done = host.run("head.sh")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "~/glow/mlflow.log" in done.stderr
    assert host.calls("ray") == [["stop"]]
    wait_until(lambda: not host.processes())
    (host.home / "broken").unlink()
    assert host.run("head.sh").returncode == 0


def test_the_databases_password_is_for_mlflow_alone(host):
    url = "postgresql://glow:hush@db.example/glow"
    assert host.run("head.sh", GLOW_DATABASE=url).returncode == 0
    assert host.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"] == url
    processes = host.processes()
    assert len(processes) >= 3
    assert not [line for process in processes for line in process.cmdline() if "hush" in line]
    assert "hush" not in str(host.environment("ray")) + (host.home / "glow" / "mlflow.log").read_text()


def test_a_worker_joins_its_head(host):
    assert host.run("worker.sh", "--num-cpus", "2").returncode == 0
    assert host.calls("ray") == [["stop"], ["start", "--address", "192.0.2.1:6379", "--num-cpus", "2"]]
    inherited = host.environment("ray")
    assert inherited["RAY_AUTH_MODE"] == "token"
    assert "OMP_NUM_THREADS" not in inherited
    assert host.token.stat().st_mode & 0o777 == 0o600
