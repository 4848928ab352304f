"""The scripts of `benchmarks` run with their smallest settings. What they measure is not looked at."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NIGHTLY = {"memory", "packed"}
"""Scripts that take a minute, because each figure of theirs needs a process."""

SCRIPTS = {
    "speed": ("--quick",),
    "growth": ("--quick",),
    "memory": ("--quick",),
    "workers": ("--quick",),
    "precision": ("--quick",),
    "ood": ("--quick",),
    "few_held_out": ("--simulations", "1"),
    "packed": ("--quick",),
    "start_up": ("--help",),
    "equal_time": ("--help",),
    "permutations": ("--help",),
    "ood_by_epoch": ("--help",),
    "estimates": ("--help",),
    "network_bytes": ("--help",),
    "monitoring": ("--streams", "1"),
    "delay": ("--help",),
    "delay_nonconform": ("--help",),
    "watch_memory": ("--help",),
    "listed": ("--help",),
}

COMPARED_WITH = {"speed": "normflows", "delay_nonconform": "nonconform"}
"""Script -> the library that it compares with."""


def test_every_script_is_here():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    print_no_figure = {"__init__", "common", "efficientnet_lite0", "pretrained", "streams"}
    assert scripts - print_no_figure == set(SCRIPTS)


@pytest.mark.parametrize(
    "script",
    [pytest.param(name, marks=pytest.mark.nightly if name in NIGHTLY else pytest.mark.slow) for name in SCRIPTS],
)
def test_a_script_prints_its_figures(script):
    if (library := COMPARED_WITH.get(script)) and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed, which benchmarks/{script}.py compares with")
    command = [sys.executable, "-m", f"benchmarks.{script}", *SCRIPTS[script]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 1
