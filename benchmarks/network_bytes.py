"""The bytes that each machine of a cluster sends while it trains: `python benchmarks/network_bytes.py`, as root.

`ray up` makes a cluster of three hosts in network namespaces of this machine (tests/cluster). Two trainings of the same
model, of 10 and of 40 epochs, run on two of the hosts. The difference of their bytes is what 30 epochs send, without
the start and the end. With `--gradient-precision bf16` both trainings run again, to compare the bytes with float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import get_args

from glow.config import GradientPrecision
from tests.cluster.hosts import missing
from tests.cluster.ray_up import RayUp, of, ray_up

EPOCHS = (10, 40)
BYTES: dict[GradientPrecision, int] = {"float32": 4, "bf16": 2}


def main() -> None:
    """Train on a cluster of hosts on this machine, and print the bytes that they send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96, help="width of the coupling networks (default 96)")
    parser.add_argument("--workers", type=int, choices=(2, 3), default=2, help="number of workers (default 2)")
    parser.add_argument(
        "--gradient-precision",
        choices=get_args(GradientPrecision),
        default="float32",
        help="precision in which workers exchange gradients (default float32)",
    )
    asked = parser.parse_args()
    if (lacking := missing()) is not None:
        raise SystemExit(f"this machine cannot make hosts in network namespaces: {lacking}")
    with tempfile.TemporaryDirectory() as folder, ray_up(Path(folder)) as cluster:
        float32 = _measure(cluster, asked.width, asked.workers, "float32")
        if asked.gradient_precision == "bf16":
            bf16 = _measure(cluster, asked.width, asked.workers, "bf16")
            print(f"bf16 sends {bf16 / float32:.3f} of the bytes of float32")


def _measure(cluster: RayUp, width: int, workers: int, precision: GradientPrecision) -> float:
    """Return the bytes that each worker sends per step, and print them with the bytes of the gradient."""
    few, many = (_train(cluster, epochs, width, workers, precision) for epochs in EPOCHS)
    steps = many["steps"] - few["steps"]
    sent = (many["sent"] - few["sent"]) / steps / workers
    gradient = BYTES[precision] * few["parameters"]
    ring = 2 * (workers - 1) / workers
    print(f"{few['parameters']} parameters, {gradient} bytes of {precision} gradient, {workers} workers, {steps} steps")
    print(
        f"each worker sends {sent:.0f} bytes per step: {sent / gradient:.3f} times its gradient, where a ring "
        f"all-reduce needs {ring:.3f} times"
    )
    return sent


def _train(cluster: RayUp, epochs: int, width: int, workers: int, precision: GradientPrecision) -> dict:
    hosts = (cluster.head, cluster.worker, cluster.other)
    flags = f"--epochs {epochs} --checkpoint-every {epochs} --sample-every 0 --depth 4 --width {width}"
    flags += f" --gradient-precision {precision}"
    before = sum(host.bytes_sent() for host in hosts)
    said = cluster.say(f"glowctl train --preset smoke {flags} --workers {workers} --cpus-per-worker 1 --json", 400)
    events = [json.loads(line) for line in said.splitlines()]
    return {
        "sent": sum(host.bytes_sent() for host in hosts)
        - before,  # of all hosts, because workers can be on any of them
        "steps": of(events, "epoch")[-1]["step"],
        "parameters": of(events, "started")[0]["parameters"],
    }


if __name__ == "__main__":
    main()
