"""The bytes that each machine of a cluster sends while it trains: `python -m benchmarks.network_bytes`, as root.

`ray up` makes a cluster of three hosts in network namespaces of this machine (tests/cluster). Two trainings of the same
model, of 10 and of 40 epochs, run on two of the hosts. The difference of their bytes is what 30 epochs send, without
the start and the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.cluster.hosts import missing
from tests.cluster.ray_up import RayUp, of, ray_up


def main() -> None:
    """Train on a cluster of hosts on this machine, and print the bytes that they send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96, help="width of the coupling networks (default 96)")
    parser.add_argument("--workers", type=int, choices=(2, 3), default=2, help="number of workers (default 2)")
    parser.add_argument("--gradient-precision", choices=("float32", "bf16"), default="float32")
    asked = parser.parse_args()
    if (lacking := missing()) is not None:
        raise SystemExit(f"this machine cannot make hosts in network namespaces: {lacking}")
    flags = f"--depth 4 --width {asked.width} --gradient-precision {asked.gradient_precision} --workers {asked.workers}"
    with tempfile.TemporaryDirectory() as folder, ray_up(Path(folder)) as cluster:
        (few, fewer, parameters), (many, more, _) = (train(cluster, epochs, flags) for epochs in (10, 40))
    sent = (more - fewer) / (many - few) / asked.workers
    gradient = parameters * (4 if asked.gradient_precision == "float32" else 2)
    ring = 2 * (asked.workers - 1) / asked.workers
    print(
        f"{parameters} parameters, {gradient} bytes of gradient, {asked.workers} workers, {many - few} steps: each "
        f"worker sends {sent:.0f} bytes per step, {sent / gradient:.3f} times its gradient; a ring needs {ring:.3f}"
    )


def train(cluster: RayUp, epochs: int, flags: str) -> tuple[int, int, int]:
    """Train, and return the steps, the bytes that all hosts sent, and the number of parameters."""
    hosts = (cluster.head, cluster.worker, cluster.other)  # workers can be on any of them
    flags += f" --epochs {epochs} --checkpoint-every {epochs} --sample-every 0 --cpus-per-worker 1"
    before = sum(host.bytes_sent() for host in hosts)
    events = [
        json.loads(line) for line in cluster.say(f"glowctl train --preset smoke {flags} --json", 400).splitlines()
    ]
    sent = sum(host.bytes_sent() for host in hosts) - before
    return of(events, "epoch")[-1]["step"], sent, of(events, "started")[0]["parameters"]


if __name__ == "__main__":
    main()
