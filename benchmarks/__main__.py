"""The command `make bench`: run every row of the benchmark, print its figures, and write them as JSON.

    make bench BENCH_ARGS='--only training,scoring --quick'

The JSON file is written after each row. Rows that do not run keep their figures in the file, if it is from this machine
with these versions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine, setting
from benchmarks.row import Row, Setting, measured
from benchmarks.rows import ROWS
from benchmarks.table import machine_text, row_lines, summary
from glow.memory import keep_freed_memory


def main() -> int:
    """Run the rows that the command line asks for; return 1 if one of them failed."""
    keep_freed_memory()  # before threads start
    asked = arguments()
    if importlib.util.find_spec("normflows") is None:
        sys.exit(
            "the benchmark needs normflows, which it measures against: start it with make bench, or first run "
            "pip install --editable '.[bench]'"
        )
    rows = [row for row in ROWS if row.name in asked.only]
    how = setting(asked.quick)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(how.threads)
    results = {"machine": machine(how) | {"quick": asked.quick}, "rows": kept(asked.output, how)}
    print(machine_text(results["machine"]), flush=True)
    for row in rows:
        results["rows"][row.name] = run(row, how)
        print("", *row_lines(row.name, results["rows"][row.name]), sep="\n", flush=True)
        results["rows"] = {each.name: results["rows"][each.name] for each in ROWS if each.name in results["rows"]}
        asked.output.write_text(json.dumps(results, indent=2) + "\n")
    done = {row.name: results["rows"][row.name] for row in rows}
    print(f"\n{summary(done)}\nwritten to {asked.output}")
    return int(any("error" in row for row in done.values()))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        type=_names,
        default=names,
        metavar="NAME,...",
        help=f"rows to run, with commas between; without it: {', '.join(names)}",
    )
    parser.add_argument("--quick", action="store_true", help="take a third of the repetitions")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file for the figures; without it: docs/performance.json, or build/bench.json with --quick",
    )
    asked = parser.parse_args(argv)
    asked.output = asked.output or Path("build/bench.json" if asked.quick else "docs/performance.json")
    return asked


def _names(text: str) -> Sequence[str]:
    names, known = text.split(","), [row.name for row in ROWS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no row {', '.join(unknown)}: use some of {', '.join(known)}")
    return names


def run(row: Row, how: Setting) -> dict[str, Any]:
    """Measure a row and its duration; an error becomes a part of the result, so that other rows still run."""
    started = time.monotonic()
    try:
        result = measured(row, *row.measure(how))
    except Exception as error:
        result = measured(row, [], "") | {"error": f"{type(error).__name__}: {error}"}
    return result | {"seconds": round(time.monotonic() - started, 1)}


def kept(output: Path, how: Setting) -> dict[str, Any]:
    """Return the rows of an earlier run, if it was on this machine, with the same versions and repetitions."""
    if not output.exists():
        return {}
    before = json.loads(output.read_text())
    now = machine(how) | {"quick": how.quick}
    same = all(before["machine"][key] == now[key] for key in now if key not in ("date", "load"))
    return before["rows"] if same else {}


if __name__ == "__main__":
    sys.exit(main())
