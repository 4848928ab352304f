"""A Ray cluster of one machine for tests, as `ray start` makes it, with a token, a store, a storage and ports of its
own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
import requests

from tests.jobs.command_line import environment, free_port, wait_until

TOKEN = "a-token-of-these-tests-alone-0123456789"


class LocalCluster:
    def __init__(self, folder: Path) -> None:
        self.storage = folder / "storage"
        self.uri = f"sqlite:///{folder}/cluster.db"
        self._port, self._gcs_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self.head = 0
        """The process id of `ray start`, once it runs."""
        self.storage.mkdir(parents=True)

    @property
    def client(self) -> dict[str, str]:
        """What a client's environment has."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_TOKEN": TOKEN}

    def start(self, temporary: str, log: IO[str]) -> subprocess.Popen[bytes]:
        flags = {
            "--port": self._gcs_port,
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": self._port,
            "--dashboard-agent-listen-port": free_port(),
            "--node-ip-address": "127.0.0.1",
            "--num-cpus": 2,
            "--object-store-memory": 150 * 2**20,
            "--temp-dir": temporary,
        }
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOW_STORAGE": str(self.storage),
            "MLFLOW_TRACKING_URI": self.uri,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.Popen(
            [*map(str, command), *(str(part) for flag in flags.items() for part in flag)],
            env=environment(**own),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def training_workers(self) -> list[psutil.Process]:
        """Living processes of trainings on this cluster."""
        kinds = (
            "ray::RayTrainWorker",
            "ray::TrainController",
            "ray::PlacementGroupCleaner",
            "ray::_QueueActor",
        )
        found = []
        for process in psutil.Process(self.head).children(recursive=True):
            with suppress(psutil.Error):  # gone meanwhile
                if " ".join(process.cmdline()).startswith(kinds):
                    found.append(process)
        return found

    def answers(self) -> bool:
        try:
            url = f"{self.address}/api/version"
            return requests.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=2).ok
        except requests.RequestException:
            return False


@contextmanager
def local_cluster(folder: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster(folder)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temporary, (folder / "ray.log").open("w") as log:
        head = cluster.start(temporary, log)
        cluster.head = head.pid
        try:
            wait_until(cluster.answers)
            yield cluster
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()
