"""What each machine of a cluster sends while it trains: `python benchmarks/network_bytes.py`, as root.

`ray up` makes a cluster of three hosts in network namespaces of this machine (tests/cluster), and two trainings of the
same model, of 10 and of 40 epochs, run on two of them. The difference between them is what 30 epochs send, without the
start and the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.cluster.hosts import missing
from tests.cluster.ray_up import RayUp, of, ray_up

EPOCHS = (10, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--workers", type=int, choices=(2, 3), default=2)
    asked = parser.parse_args()
    if (lacking := missing()) is not None:
        raise SystemExit(f"this machine cannot make such hosts: {lacking}")
    with tempfile.TemporaryDirectory() as folder, ray_up(Path(folder)) as cluster:
        measured = [_train(cluster, epochs, asked.width, asked.workers) for epochs in EPOCHS]
    steps = measured[1]["steps"] - measured[0]["steps"]
    sent = (measured[1]["sent"] - measured[0]["sent"]) / steps / asked.workers
    gradient = 4 * measured[0]["parameters"]
    ring = 2 * (asked.workers - 1) / asked.workers
    print(f"{gradient // 4} parameters, {gradient} bytes of gradient, {asked.workers} workers, {steps} steps")
    print(f"each sends {sent:.0f} bytes a step: {sent / gradient:.3f} gradients, where a ring's would be {ring:.3f}")


def _train(cluster: RayUp, epochs: int, width: int, workers: int) -> dict:
    hosts = (cluster.head, cluster.worker, cluster.other)
    flags = f"--epochs {epochs} --checkpoint-every {epochs} --sample-every 0 --depth 4 --width {width}"
    before = sum(host.bytes_sent() for host in hosts)
    said = cluster.say(f"glowctl train --preset smoke {flags} --workers {workers} --cpus-per-worker 1 --json", 400)
    events = [json.loads(line) for line in said.splitlines()]
    return {
        "sent": sum(host.bytes_sent() for host in hosts) - before,  # on whichever of them the workers are
        "steps": of(events, "epoch")[-1]["step"],
        "parameters": of(events, "started")[0]["parameters"],
    }


if __name__ == "__main__":
    main()
