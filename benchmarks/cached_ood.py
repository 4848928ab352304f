"""The time of `glowctl ood` without its start-up when all images have already been scored.

    GLOW_DATA_ROOT=... python benchmarks/cached_ood.py

The script trains a tiny Glow on MNIST and scores the images once. Then it times whole commands: one that fails as soon
as it has looked for its model (start-up), and one with other batch sizes M and another alpha (cached). There are 26,000
scores of held-out and test images of MNIST and Fashion-MNIST, 5,000 scores of training images, four values of M, and
10,000 bootstraps.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GLOWCTL = str(Path(sys.executable).with_name("glowctl"))
RUNS = 5


def seconds(folder: str, *arguments: str, code: int = 0) -> float:
    """Return the seconds that a command takes, which must end with this exit code."""
    started = time.monotonic()
    done = subprocess.run([GLOWCTL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(done.stderr)
    return time.monotonic() - started


def main() -> None:
    """Measure and print the times."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = ("--preset", "smoke", "--dataset", "mnist", "--per-class", "500", "--epochs", "1", "--no-download")
        seconds(folder, "train", *tiny)
        first = seconds(folder, "ood", "--ood-datasets", "fashion-mnist")
        startup, cached = [], []
        for _ in range(RUNS):  # in turns, so that a busy machine slows both
            startup.append(seconds(folder, "ood", "--model", "nothing", code=1))
            changed = ("--batch-sizes", "2,5,10,25", "--alpha", "0.95", "--bootstraps", "10000")
            cached.append(seconds(folder, "ood", "--ood-datasets", "fashion-mnist", *changed))
    print(f"first ood, which scores   {first:5.1f} s")
    print(f"start-up                  {statistics.median(startup):5.1f} s (median of {RUNS})")
    print(f"second ood                {statistics.median(cached):5.1f} s (median of {RUNS})")
    print(f"second without start-up   {statistics.median(cached) - statistics.median(startup):5.1f} s")


if __name__ == "__main__":
    main()
