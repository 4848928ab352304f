"""Compare `glowctl estimate` with the real cost: `python -m benchmarks.estimates [--quick] [--only TEXT]`.

Every command is estimated, and then run. $GLOW_DATA_ROOT must have MNIST and Fashion-MNIST. The table shows the seconds
of the whole command, the megabytes of the largest worker, and how long the estimate took.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from contextlib import suppress

import psutil

from benchmarks.common import parse
from benchmarks.start_up import events

SMALL = "train --preset smoke --dataset mnist --per-class 200 --levels 3"
COMMANDS = [
    "train --preset smoke --epochs 150 --cpus-per-worker 1",
    f"{SMALL} --epochs 4 --depth 2 --cpus-per-worker 1",
    f"{SMALL} --epochs 2 --depth 2 --width 32 --memory reversible --cpus-per-worker 1",
    "train --preset smoke --epochs 60 --depth 4 --width 32 --cpus-per-worker 1 --test-every 1",
    "train --preset smoke --epochs 40 --depth 4 --batch-size 16 --ema 0.99 --workers 2",
    f"{SMALL} --epochs 1 --depth 4 --coupling spline --cpus-per-worker 1",
    "train --preset demo --epochs 30",
    f"{SMALL} --epochs 1 --depth 4 --width 64",
    "train --preset smoke --dataset fashion-mnist --per-class 300 --epochs 3 --depth 2 --precision float32",
    f"{SMALL} --epochs 1 --depth 4 --input logit --dequantization variational",
    "ablate --preset smoke --epochs 40 --depths 1,2,4 --seeds 2",
    "ablate --preset smoke --epochs 30 --permutations all --depths 4 --seeds 2",
    "ablate --preset smoke --epochs 40 --widths 8,32 --depths 4 --seeds 3",
    "ood --model {run} --batch-sizes 2,10 --rescore",
    "ood --model {run} --ood-datasets fashion-mnist,noise --rescore",
]
"""Ten trainings, three ablations and two OOD tests; the model of the last two is that of a small training."""

MODEL = f"{SMALL} --depth 4 --epochs 1"


class Watch:
    """A context manager that keeps the largest memory of a worker of Ray below this process, in megabytes."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.3):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if any(name in " ".join(process.cmdline()) for name in ("Worker", "score_shard", "trial")):
                        self.megabytes = max(self.megabytes, process.memory_info().rss / 1e6)


def compared(folder: str, command: str) -> tuple[str, bool]:
    """Run a command and its estimate; return a row of the table, and whether the duration is within 15 %."""
    seen = events(folder, "estimate", *command.split(), "--json")
    told = next(event for _, event in seen if event["event"] == "estimate")
    with Watch() as watch:
        seconds = events(folder, *command.split(), "--json")[-1][0]
    ratio, memory = told["seconds"] / seconds, f"{told['memory_megabytes']:.0f} | {watch.megabytes:.0f}"
    row = f"| `{command}` | {told['seconds']:.0f} | {seconds:.0f} | {ratio:.2f} | {memory} | {seen[-1][0]:.0f} |"
    return row, abs(ratio - 1) <= 0.15


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only commands that contain this text")
    asked = parse(parser)
    chosen = [command for command in COMMANDS if asked.only in command][: 1 if asked.quick else None]
    print("| command | estimated s | real s | ratio | estimated MB | real MB | estimate took s |")
    print("| --- " * 7 + "|", flush=True)
    near = 0
    with tempfile.TemporaryDirectory() as folder:
        run = ""
        if any("{run}" in command for command in chosen):
            seen = events(folder, *MODEL.split(), "--json")
            run = next(event["run_id"] for _, event in seen if event["event"] == "finished")
        for command in chosen:
            row, is_near = compared(folder, command.format(run=run))
            near += is_near
            print(row, flush=True)
    print(f"{near} of {len(chosen)} within 15 %")


if __name__ == "__main__":
    main()
