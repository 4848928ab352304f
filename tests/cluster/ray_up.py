"""The cluster of `deploy/local.yaml`, started by `ray up` on hosts of this machine, and one more that is its user's."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host, hosts
from tests.jobs.command_line import wait_until

ROOT = Path(__file__).parents[2]
CONFIG = "cluster.yaml"

# A machine that comes back is taken in by Ray's autoscaler, which looks seldom.
QUICK = "AUTOSCALER_HEARTBEAT_TIMEOUT_S=10 AUTOSCALER_UPDATE_INTERVAL_S=1 AUTOSCALER_NODE_SSH_INTERVAL_S=1"
SMALL = "--num-cpus 1 --object-store-memory 150000000"
USER = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ADDRESS=http://localhost:8265"


class RayUp:
    """Three machines, one core each, of which the first is the head, and their user's machine."""

    def __init__(self, machines: list[Host], shared: Path) -> None:
        self.head, self.worker, self.other, self.user = machines
        self.shared = shared
        config = yaml.safe_load((ROOT / "deploy" / "local.yaml").read_text())
        config["provider"] |= {"head_ip": self.head.ip, "worker_ips": [self.worker.ip, self.other.ip]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        # These hosts reach no package index: they have an environment already, as the file says.
        config["setup_commands"][:2] = [f"mkdir -p ~/glow && ln -sfn {sys.prefix} ~/glow/venv"]
        [start] = config["head_start_ray_commands"]
        start = start.replace("GLOW_STORAGE=/srv/glow", f"GLOW_STORAGE={shared} {QUICK}")
        config["head_start_ray_commands"] = [start.replace("head.sh", f"head.sh {SMALL}")]
        [join] = config["worker_start_ray_commands"]
        config["worker_start_ray_commands"] = [f"{join} {SMALL}"]
        (self.user.home / CONFIG).write_text(yaml.safe_dump(config))

    def say(self, command: str, timeout: float = 120) -> str:
        """Runs a command of the user, in the project's folder, which must end well; what it says."""
        done = self.user.run(f"cd {ROOT}; {USER}; {command}", timeout)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self) -> None:
        self.say("ray get-auth-token --generate >/dev/null; chmod 600 ~/.ray/auth_token")
        self.say(f"ray up -y --no-config-cache ~/{CONFIG}", 240)
        # What `ray dashboard` and `ray attach -p 5000` do, for as long as the test goes on.
        forward = "ssh -N -L 8265:localhost:8265 -L 5000:localhost:5000 -o ServerAliveInterval=2"
        self.say(f"setsid {forward} root@{self.head.ip} >/dev/null 2>&1 </dev/null &")
        wait_until(lambda: len(self.machines()) == 3, timeout=120, every=1)

    def down(self) -> None:
        self.say(f"ray down -y ~/{CONFIG}", 120)

    def machines(self) -> list[str]:
        """Those that are up, by the head's account; none if it does not answer."""
        done = self.user.run(f"{USER}; glowctl cluster status --json", 60)
        return [node["name"] for node in json.loads(done.stdout)["nodes"]] if done.stdout else []

    def submit(self, command: str) -> str:
        """Leaves a job to the cluster, and follows what it says with one command; its id."""
        job = self.say(f"glowctl {command} --detach").split()[2]
        self.say(f"setsid glowctl logs -f --json {job} >~/{job}.events 2>/dev/null </dev/null &")
        return job

    def events(self, job: str) -> list[dict[str, Any]]:
        """What a job has said so far."""
        lines = (self.user.home / f"{job}.events").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written

    def wait_for(self, job: str, holds: Callable[[list[dict[str, Any]]], bool], timeout: float) -> float:
        """Waits until what a job has said is so; how long that took."""
        started = time.monotonic()
        wait_until(lambda: holds(self.events(job)), timeout, every=0.5)
        return time.monotonic() - started

    def runs(self) -> list[tuple[str, str, str]]:
        """Id, name and status of each run that MLflow has, the oldest first."""
        return self.asked("select run_uuid, name, status from runs order by start_time")

    def epochs_of(self, run_id: str) -> list[int]:
        """Those that MLflow has the validation NLL of."""
        query = "select distinct step from metrics where key = 'validation/bits_per_dim' and run_uuid = ? order by step"
        return [step for (step,) in self.asked(query, run_id)]

    def asked(self, query: str, *values: str) -> list[Any]:
        """Of MLflow's database on the head."""
        with sqlite3.connect(f"file:{self.head.home}/glow/mlflow.db?mode=rw", uri=True) as database:
            return database.execute(query, values).fetchall()


@contextmanager
def ray_up(folder: Path) -> Iterator[RayUp]:
    """Started, and ended with its hosts."""
    with hosts(4, folder) as machines:
        cluster = RayUp(machines, folder.resolve() / "shared")
        cluster.up()
        yield cluster


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]
